"""The project's key: ECDSA on P-256 over SHA-256, by the library `cryptography`. Made on first use, mode 0600."""

import base64
import os
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from steps.adapters.files import project_root
from steps.errors import IntegrityError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

ENVIRONMENT = "REGRAFT_KEY"  # a PEM file; a team that shares a registry shares a key


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
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = _private().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return partial(_verified, public)


@lru_cache(maxsize=2**14)  # a ledger is read several times for one decision
def _verified(public: bytes, text: str, signature: str) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = load_pem_public_key(public)
    assert isinstance(key, ec.EllipticCurvePublicKey)  # of our own making
    try:
        key.verify(base64.b64decode(signature, validate=True), text.encode(), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


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
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IntegrityError(f"the key {path} is no EC key; openssl ecparam -name prime256v1 -genkey -noout makes one")
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
