"""The project's key and what it signs: texts (ECDSA over SHA-256), and folders of files (model-signing).

The key is one on P-256, made on first use, mode 0600.
"""

import ast
import base64
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.adapters.files import project_root
from steps.errors import IntegrityError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

ENVIRONMENT = "REGRAFT_KEY"  # a PEM file; a team that shares a registry shares a key
CURVES = ("secp256r1", "secp384r1", "secp521r1")  # what model-signing takes
SIGNATURE = "model.sig"
MISMATCH = "Signature mismatch: "  # how model-signing begins
UNSIGNED = (SIGNATURE, "registered_model_meta")  # MLflow writes the second beside a model that it downloads


def key_path() -> Path:
    """Return the file named by REGRAFT_KEY, or the project's own."""
    named = os.environ.get(ENVIRONMENT)
    return Path(named).expanduser() if named else project_root() / ".regraft" / "key.pem"


def sign(text: str) -> str:
    """Return the signature of UTF-8 text, base64."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return base64.b64encode(_private().sign(text.encode(), ec.ECDSA(hashes.SHA256()))).decode()


def verifier() -> Callable[[str, str], bool]:
    """Return a function of UTF-8 text and signature that says whether this project's key made the signature."""
    return partial(_verified, _public())


def sign_folder(folder: Path) -> None:
    """Sign every file of a folder; the signature, a Sigstore bundle over a list of digests, becomes `model.sig`."""
    from model_signing.signing import Config

    _private()  # made where there is none yet
    signer = Config().use_elliptic_key_signer(private_key=key_path())  # type: ignore[no-untyped-call]
    signer.set_hashing_config(_hashing()).sign(folder, folder / SIGNATURE)


def fault(folder: Path) -> str | None:
    """Say what is wrong with a signed folder: which files were changed, are missing, or were never listed.

    None: every file but those of `UNSIGNED` is, byte by byte, what this project's key signed, and so is the signature.
    """
    from model_signing.verifying import Config

    if links := [path for path in folder.rglob("*") if path.is_symlink()]:
        return f"{links[0].relative_to(folder)} is a link, not a file"
    public = _public()
    try:
        with tempfile.NamedTemporaryFile() as file:
            file.write(public)
            file.flush()
            verifier = Config().use_elliptic_key_verifier(public_key=file.name)  # type: ignore[no-untyped-call]
            verifier.set_hashing_config(_hashing()).verify(folder, folder / SIGNATURE)
        return None if _canonical(folder / SIGNATURE) else f"{SIGNATURE} was changed"
    except Exception as error:  # what a parser makes of a broken bundle is anyone's guess
        if str(error).startswith(MISMATCH):  # a list of sentences follows, with digests as raw bytes at their ends
            listed: list[str] = ast.literal_eval(str(error).removeprefix(MISMATCH))
            return "; ".join(line.split(": Expected")[0] for line in listed)
        return f"{SIGNATURE} was changed, or made with another key than {key_path()} ({type(error).__name__})"


def _canonical(signature: Path) -> bool:
    """Say whether a bundle is written as it was: readers of JSON and base64 pass over much that makes no difference."""
    from sigstore_models.bundle.v1 import Bundle

    text = signature.read_text(encoding="utf-8")
    return str(Bundle.from_json(text).to_json()) == text


def _hashing() -> Any:
    from model_signing.hashing import Config

    return Config().set_ignored_paths(paths=UNSIGNED, ignore_git_paths=False)  # type: ignore[no-untyped-call]


@lru_cache(maxsize=2**14)  # a ledger is read several times for one decision
def _verified(public: bytes, text: str, signature: str) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = load_pem_public_key(public)
    assert isinstance(key, ec.EllipticCurvePublicKey)  # of our own making
    try:
        raw = base64.b64decode(signature, validate=True)
        key.verify(raw, text.encode(), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return base64.b64encode(raw).decode() == signature  # the last character's spare bits can say anything else


def _public() -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return _private().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _private() -> "EllipticCurvePrivateKey":
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path = key_path()
    if not path.exists() and ENVIRONMENT not in os.environ:
        _make(path)
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
    """Make a key; where two processes do so at once, the first one's stays (a link cannot replace a file)."""
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
