"""Private keys: Ed25519 in PKCS #8, by the ``cryptography`` package (extra ``sign``)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from mmedge.bundle.signature import INSTALL, MAX_KEY_BYTES, key_id, public_key_to_pem
from mmedge.errors import SignatureError

__all__ = ["KeyFiles", "generate_key", "is_encrypted", "read_private_key"]


class KeyFiles(NamedTuple):
    """What :func:`generate_key` wrote.

    Attributes:
        private: PKCS #8 in PEM, mode 0600. It signs; it belongs on no device.
        public: SubjectPublicKeyInfo in PEM. It verifies.
        key_id: SHA-256 of the 32 bytes of the public key, in lower-case hex.
    """

    private: Path
    public: Path
    key_id: str


def generate_key(name: str | Path, *, passphrase: str | None = None) -> KeyFiles:
    """Make an Ed25519 key: ``NAME.key`` and ``NAME.pub``, which must not be there yet.

    Args:
        name: path of both files without their suffixes.
        passphrase: encrypts the private key; None: it is not encrypted.

    Raises:
        SignatureError: a file of that name is there, the disk refused, or the ``cryptography``
            package is not installed.
        ValueError: ``passphrase`` is empty.
    """
    if passphrase == "":
        raise ValueError("passphrase is empty; give None for a key that is not encrypted")
    serialization, ed25519 = _library()
    private, public = Path(f"{name}.key"), Path(f"{name}.pub")
    for path in (private, public):
        if os.path.lexists(path):
            raise SignatureError(f"{path}: already exists; a key is never replaced: choose a name")
    key = ed25519.Ed25519PrivateKey.generate()
    raw = key.public_key().public_bytes_raw()
    encryption = (
        serialization.NoEncryption()
        if passphrase is None
        else serialization.BestAvailableEncryption(passphrase.encode())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    _write_new(private, pem, 0o600)
    try:
        _write_new(public, public_key_to_pem(raw).encode(), 0o644)
    except BaseException:
        private.unlink()
        raise
    return KeyFiles(private, public, key_id(raw))


def read_private_key(path: Path, passphrase: str | None) -> Any:  # noqa: ANN401
    """The private key in a PEM file.

    Raises:
        SignatureError: it cannot be read, is no Ed25519 key, its passphrase is another, or the
            ``cryptography`` package is not installed.
    """
    serialization, ed25519 = _library()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_BYTES)
    except (OSError, ValueError) as error:
        raise SignatureError(f"{path}: the private key cannot be read: {error}") from error
    try:
        key = serialization.load_pem_private_key(
            data, None if passphrase is None else passphrase.encode()
        )
    except TypeError as error:  # one of them has a passphrase, and the other none
        raise SignatureError(f"{path}: {error}; give the passphrase of the key") from error
    except (ValueError, _unsupported()) as error:
        wrong = "" if passphrase is None else ", or of another passphrase"
        raise SignatureError(
            f"{path}: expected an Ed25519 private key in PEM, such as mmedge keygen writes to "
            f"NAME.key; got something else{wrong}"
        ) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise SignatureError(
            f"{path}: expected an Ed25519 private key, got {type(key).__name__}; make one with "
            "mmedge keygen"
        )
    return key


def is_encrypted(path: str | Path) -> bool:
    """Whether a private key's file asks for a passphrase; False where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return b"ENCRYPTED PRIVATE KEY-----" in file.read(MAX_KEY_BYTES)
    except (OSError, ValueError):
        return False


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise SignatureError(f"signatures need the cryptography package: {INSTALL}") from error
    return serialization, ed25519


def _unsupported() -> type[Exception]:
    from cryptography.exceptions import UnsupportedAlgorithm

    kind: type[Exception] = UnsupportedAlgorithm
    return kind


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that is not there yet, through to the disk."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise SignatureError(f"{path}: the key cannot be written: {error}") from error
