"""The project's keys and what they sign: texts (ECDSA over SHA-256), and folders of files (model-signing).

Signing needs the private key: on P-256, created at the first signature, mode 0600. Verifying needs only public keys, so
a machine that only serves or audits holds no key to sign with.
"""

import ast
import base64
import os
import re
import tempfile
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.errors import IntegrityError
from steps.runtime import files
from steps.runtime.files import project_root

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

ENVIRONMENT = "REGRAFT_KEY"  # a PEM file; a team that shares a registry shares a key
PUBLIC = "REGRAFT_PUBLIC_KEY"  # a PEM file of one or more public keys: exactly these are trusted
CURVES = ("secp256r1", "secp384r1", "secp521r1")  # the curves that model-signing accepts
SIGNATURE = "model.sig"
META = "registered_model_meta"  # a file that MLflow writes beside a model that it downloads
MISMATCH = "Signature mismatch: "  # how model-signing's message begins
UNSIGNED = (SIGNATURE, META)
BLOCK = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----\n?", re.DOTALL)


def key_path() -> Path:
    """Return the file of the private key: REGRAFT_KEY, or the project's own."""
    named = os.environ.get(ENVIRONMENT)
    return Path(named).expanduser() if named else project_root() / ".regraft" / "key.pem"


def is_named(variable: str) -> bool:
    """Return whether an environment variable names a file; an empty one does not."""
    return bool(os.environ.get(variable))


def public_path() -> Path:
    """Return the file of the public keys: REGRAFT_PUBLIC_KEY, or the project's own."""
    named = os.environ.get(PUBLIC)
    return Path(named).expanduser() if named else project_root() / ".regraft" / "key.pub"


def trusted() -> tuple[bytes, ...]:
    """Return the trusted public keys, each as PEM.

    These are the keys of REGRAFT_PUBLIC_KEY if it is set; otherwise those of `.regraft/key.pub`, which keeps every key
    that has signed here, and the private key's public half if there is one. Raises IntegrityError if there is no key.
    """
    path, private = public_path(), key_path()
    keys = _read_public(path) if path.exists() or is_named(PUBLIC) else ()
    needed = is_named(ENVIRONMENT) and not keys
    if not is_named(PUBLIC) and (needed or os.access(private, os.R_OK)):
        keys = tuple(dict.fromkeys([*keys, _public(_private())]))
    if not keys:
        raise IntegrityError(
            f"there is no key to verify with: neither {path} nor a private key. Copy key.pub from where it was signed "
            f"to {path}, or name the file in {PUBLIC}"
        )
    return keys


def sign(text: str) -> str:
    """Return the signature of UTF-8 text, base64."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return base64.b64encode(_signer().sign(text.encode(), ec.ECDSA(hashes.SHA256()))).decode()


def verifier() -> Callable[[str, str], bool]:
    """Return a function of UTF-8 text and signature that returns whether a trusted key made the signature.

    The keys are read on its first call: an empty ledger needs none.
    """
    keys = cache(trusted)
    return lambda text, signature: any(_verified(key, text, signature) for key in keys())


def sign_folder(folder: Path) -> None:
    """Sign every file of a folder; write the signature, a Sigstore bundle over a list of digests, to `model.sig`."""
    from model_signing.signing import Config

    _signer()  # creates the key if there is none yet
    signer = Config().use_elliptic_key_signer(private_key=key_path())  # type: ignore[no-untyped-call]
    signer.set_hashing_config(_hashing()).sign(folder, folder / SIGNATURE)


def fault(folder: Path) -> str | None:
    """Return what is wrong with a signed folder: files that were changed, are missing, or were never listed.

    None: every file except those in `UNSIGNED` is byte for byte what a trusted key signed, and so is the signature.
    Raises IntegrityError if there is no key to verify with.
    """
    if links := [path for path in folder.rglob("*") if path.is_symlink()]:
        return f"{links[0].relative_to(folder)} is a link, not a file"
    if (folder / META).is_dir():  # model-signing would ignore everything in it
        return f"{META} is a folder; MLflow writes a file of that name"
    faults = [_fault_by(key, folder) for key in trusted()]
    return None if None in faults else max(faults, key=_precise)


def _precise(message: str | None) -> bool:
    """Return whether a fault names files: of several keys, only the one that made the signature yields such a fault."""
    return message is not None and not message.startswith(SIGNATURE)


def _fault_by(public: bytes, folder: Path) -> str | None:
    from model_signing.verifying import Config

    try:
        with tempfile.NamedTemporaryFile() as file:
            file.write(public)
            file.flush()
            verifier = Config().use_elliptic_key_verifier(public_key=file.name)  # type: ignore[no-untyped-call]
            verifier.set_hashing_config(_hashing()).verify(folder, folder / SIGNATURE)
        return None if _canonical(folder / SIGNATURE) else f"{SIGNATURE} was changed"
    except Exception as error:  # a parser may raise anything on a broken bundle
        if str(error).startswith(MISMATCH):  # a list of sentences follows, each ending in digests as raw bytes
            listed: list[str] = ast.literal_eval(str(error).removeprefix(MISMATCH))
            return "; ".join(line.split(": Expected")[0] for line in listed)
        return f"{SIGNATURE} was changed, or made with another key than those trusted here ({type(error).__name__})"


def _canonical(signature: Path) -> bool:
    """Return whether a bundle is in its canonical form: readers of JSON and base64 ignore many differences."""
    from sigstore_models.bundle.v1 import Bundle

    text = signature.read_text(encoding="utf-8")
    return str(Bundle.from_json(text).to_json()) == text


def _hashing() -> Any:
    from model_signing.hashing import Config

    return Config().set_ignored_paths(paths=UNSIGNED, ignore_git_paths=False)  # type: ignore[no-untyped-call]


@lru_cache(maxsize=2**14)  # a ledger is read several times per decision
def _verified(public: bytes, text: str, signature: str) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = load_pem_public_key(public)
    assert isinstance(key, ec.EllipticCurvePublicKey)  # our own PEM
    try:
        raw = base64.b64decode(signature, validate=True)
        key.verify(raw, text.encode(), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return base64.b64encode(raw).decode() == signature  # the spare bits of the last character may differ


def _public(private: "EllipticCurvePrivateKey") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _read_public(path: Path) -> tuple[bytes, ...]:
    """Return the keys of a PEM file, each normalised to a PEM of its own."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    try:
        keys = [load_pem_public_key(block) for block in BLOCK.findall(path.read_bytes())]
    except (OSError, ValueError) as error:
        raise IntegrityError(f"the public keys {path} cannot be read ({type(error).__name__}: {error})") from None
    if not keys or not all(isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVES for key in keys):
        raise IntegrityError(
            f"{path} holds no public EC keys in PEM on {', '.join(CURVES)}: openssl ec -in key.pem -pubout prints one"
        )
    return tuple(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in keys)


def _signer() -> "EllipticCurvePrivateKey":
    """Return the private key, created if there is none and none is expected; publish its public half.

    Raises IntegrityError on a machine that only verifies, and if the signature would not be trusted here.
    """
    path, public = key_path(), public_path()
    verifies = public.exists() or is_named(PUBLIC)  # checked first: whoever creates a key publishes it last
    if not path.exists() and not is_named(ENVIRONMENT):
        if verifies:
            raise IntegrityError(
                f"{public} verifies; signing takes the private key, which is not at {path}: bring it, or name it in "
                f"{ENVIRONMENT}"
            )
        _make(path)
    key = _private()
    known = _read_public(public) if public.exists() or is_named(PUBLIC) else ()
    if _public(key) not in known:
        if is_named(PUBLIC):
            raise IntegrityError(
                f"the key {path} is not among those of {PUBLIC}, so what it signs would be refused here: "
                f"openssl ec -in {path} -pubout >> {public}"
            )
        files.write_text(public, b"".join([*known, _public(key)]).decode())
    return key


def _private() -> "EllipticCurvePrivateKey":
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path = key_path()
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise IntegrityError(
            f"the key {path} cannot be read ({type(error).__name__}); expected an unencrypted EC private key in PEM: "
            f"openssl ecparam -name prime256v1 -genkey -noout -out {path.name}"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise IntegrityError(
            f"the key {path} is no EC key on {', '.join(CURVES)}; openssl ecparam -name prime256v1 -genkey -noout "
            "makes one"
        )
    return key


def _make(path: Path) -> None:
    """Create a key; if two processes do so at once, the first one's stays (a link cannot replace a file)."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
