"""Checks of ``manifest.sig``, before the manifest is parsed: whose signature it is, and how old.

docs/reference/bundle.md has the rules ("Signature"). Ed25519 comes from the ``cryptography``
package, which is imported only where a signature is verified.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mmedge.errors import SignatureError
from mmedge.schema.names import MANIFEST, MAX_SIGNATURE_BYTES, SIGNATURE
from mmedge.schema.release import (
    MAX_NUMBER,
    Release,
    envelope_from_bytes,
    pae,
    release_from_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.bundle.archive import Archive
    from mmedge.schema.release import Envelope

__all__ = [
    "INSTALL",
    "NOT_CHECKED",
    "PublicKey",
    "Signature",
    "TrustedKeys",
    "check_signature",
    "key_id",
    "public_key_from_pem",
    "public_key_to_pem",
    "read_public_key",
    "show_time",
    "verify",
    "wall_clock",
]

#: How to get what verifies and makes signatures.
INSTALL: Final = "pip install 'mmedge[sign]'"

#: What every place says of a signature that was not verified.
NOT_CHECKED: Final = "not checked: no key was given"

#: DER of a SubjectPublicKeyInfo of Ed25519 up to the key itself (RFC 8410, 4).
_SPKI: Final = bytes.fromhex("302a300506032b6570032100")
KEY_BYTES: Final = 32

#: Bytes of a file that is still read as a key: one in PEM has 113.
MAX_KEY_BYTES: Final = 4096

#: What a key in PEM begins and ends with (RFC 7468, 13).
_BEGIN, _END = "-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"

#: 2**255 - 19, the field's prime (RFC 8032, 5.1).
_P: Final = (1 << 255) - 19

#: A y of order 8; the other is p less it. y**2 is a root of d y**4 + 2 y**2 - 1 over the field:
#: where doubling a point gives x = 0 or y = 0.
_ORDER_8: Final = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)

#: The encodings of y of points whose order is 1, 2, 4 or 8: a signature by such a key verifies for
#: nearly any message.
_SMALL_ORDER: Final = frozenset({0, 1, _P - 1, _P, _P + 1, _ORDER_8, _P - _ORDER_8})

#: The wall clock, in seconds since 1970.
wall_clock = time.time

#: A key as callers name it: its file, or its PEM text.
PublicKey = str | Path | bytes


@dataclass(frozen=True, slots=True)
class Signature:
    """The signature of an open bundle.

    Attributes:
        release: the statement that was signed. It is only worth what ``verified_by`` says.
        key_ids: SHA-256 of each key that signed it, as the file says, in its order.
        verified_by: those of ``key_ids`` that are trusted keys, whose signatures were verified;
            empty where no key was given, and then nothing was.
    """

    release: Release
    key_ids: tuple[str, ...]
    verified_by: tuple[str, ...] = ()

    def statuses(self) -> dict[str, str]:
        """By key id: ``verified``, or why not."""
        other = "not checked: not a trusted key" if self.verified_by else NOT_CHECKED
        return {name: "verified" if name in self.verified_by else other for name in self.key_ids}


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """Keys of which one has to have signed a bundle, and the lowest version of a release.

    Attributes:
        keys: 32 bytes of each by its id.
        lowest_version: a release of a lower one is refused.
    """

    keys: Mapping[str, bytes]
    lowest_version: int = 0

    @classmethod
    def of(
        cls, trusted_keys: Sequence[PublicKey] | None, lowest_version: int | None
    ) -> TrustedKeys | None:
        """What a caller asks for; None: no signature is verified.

        Args:
            trusted_keys: PEM files or PEM texts of public keys, at least one; or None.
            lowest_version: from 0; None: 0.

        Raises:
            ValueError: the list is empty, a version is no whole number from 0 to 2**53 - 1, or it
                is given without keys.
            TypeError: it is no list.
            SignatureError: a key cannot be read, or is of small order.
        """
        if lowest_version is not None and (
            type(lowest_version) is not int or not 0 <= lowest_version <= MAX_NUMBER
        ):
            raise ValueError(
                f"lowest_version must be a whole number from 0 to {MAX_NUMBER}, got "
                f"{lowest_version!r}"
            )
        if trusted_keys is None:
            if lowest_version is not None:
                raise ValueError(
                    "lowest_version says nothing without trusted_keys: without a key nobody knows "
                    "who wrote the version"
                )
            return None
        if isinstance(trusted_keys, str | bytes) or not isinstance(trusted_keys, list | tuple):
            raise TypeError(f"trusted_keys must be a list of keys, got {trusted_keys!r}")
        if not trusted_keys:
            raise ValueError("trusted_keys is empty, so no bundle could pass; give a key, or None")
        keys = [read_public_key(key) for key in trusted_keys]
        return cls({key_id(key): key for key in keys}, lowest_version or 0)

    def pems(self) -> list[str]:
        """The keys as PEM texts."""
        return [public_key_to_pem(key) for key in self.keys.values()]


def read_public_key(key: PublicKey) -> bytes:
    """A key by its file, or by its PEM text (bytes, or a string that begins as one does).

    Raises:
        SignatureError: it cannot be read, is no Ed25519 key, or is of small order.
    """
    if isinstance(key, str) and key.lstrip().startswith("-----BEGIN"):
        key = key.encode()
    if isinstance(key, bytes):
        return public_key_from_pem(key, source="a trusted key")
    path = Path(key)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_BYTES + 1)
    except (OSError, ValueError) as error:
        raise SignatureError(f"{path}: the public key cannot be read: {error}") from error
    return public_key_from_pem(data, source=str(path))


def public_key_from_pem(data: bytes, *, source: str) -> bytes:
    """The 32 bytes of an Ed25519 key in PEM (SubjectPublicKeyInfo, RFC 8410).

    Raises:
        SignatureError: it is anything else, or of small order.
    """
    if b"PRIVATE KEY-----" in data:
        raise SignatureError(
            f"{source}: a private key; give the public one (NAME.pub), and keep this one safe"
        )
    der = b""
    if len(data) <= MAX_KEY_BYTES:
        with contextlib.suppress(UnicodeDecodeError, binascii.Error):
            words = data.decode("ascii").strip()
            body = words.removeprefix(_BEGIN).removesuffix(_END)
            if words == f"{_BEGIN}{body}{_END}" and body[:1].isspace():
                der = base64.b64decode("".join(body.split()), validate=True)
    if len(der) != len(_SPKI) + KEY_BYTES or not der.startswith(_SPKI):
        raise SignatureError(
            f"{source}: expected one Ed25519 public key in PEM (BEGIN PUBLIC KEY), such as mmedge "
            f"keygen writes to NAME.pub; got {len(data)} bytes of something else"
        )
    key = der[len(_SPKI) :]
    if _is_small_order(key):
        raise SignatureError(
            f"{source}: a public key of small order, by which nearly anything would verify; make "
            "a new one with mmedge keygen"
        )
    if int.from_bytes(key, "little") & ((1 << 255) - 1) >= _P:
        raise SignatureError(
            f"{source}: a public key that is not in the one form that RFC 8032 gives it; make a "
            "new one with mmedge keygen"
        )
    return key


def public_key_to_pem(key: bytes) -> str:
    """A key of 32 bytes as PEM."""
    body = base64.b64encode(_SPKI + key).decode()
    return f"{_BEGIN}\n{body}\n{_END}\n"


def key_id(key: bytes) -> str:
    """SHA-256 of the 32 bytes of a public key, in lower-case hex."""
    return hashlib.sha256(key).hexdigest()


def _is_small_order(point: bytes) -> bool:
    """Whether an encoded point has order 1, 2, 4 or 8; the sign of x is left out."""
    return int.from_bytes(point, "little") & ((1 << 255) - 1) in _SMALL_ORDER


def verify(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature of 64 bytes is that of a message by a key of 32.

    One whose first half is a point of small order is refused, as libsodium does.

    Raises:
        SignatureError: the package that verifies is not installed.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise SignatureError(f"signatures need the cryptography package: {INSTALL}") from error
    if _is_small_order(signature[:KEY_BYTES]):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def check_signature(
    archive: Archive, manifest: bytes, trusted: TrustedKeys | None
) -> Signature | None:
    """Check the signature of a bundle, as docs/reference/bundle.md orders the checks.

    Args:
        archive: listed; nothing else of it was read.
        manifest: bytes of ``manifest.json``, which were not parsed.
        trusted: None: the form and the manifest's digest alone are checked.

    Returns:
        None where the bundle has no signature, and no key was given.

    Raises:
        SignatureError: a check failed.
    """
    source = f"{archive.path}: {SIGNATURE}"
    size = archive.sizes.get(SIGNATURE)
    if size is None:
        if trusted is None:
            return None
        raise SignatureError(
            f"{archive.path}: no {SIGNATURE}: the bundle is not signed, and it has to be by "
            f"{_listed(trusted.keys)}; sign it (mmedge sign), or get it from whom you trust"
        )
    if size > MAX_SIGNATURE_BYTES:
        raise SignatureError(
            f"{source}: {size} bytes, expected at most {MAX_SIGNATURE_BYTES}; copy the bundle "
            "again, or sign it again"
        )
    envelope = envelope_from_bytes(bytes(archive.read(SIGNATURE)), source=source)
    verified_by = () if trusted is None else _verify_all(envelope, trusted, source)
    release = release_from_bytes(envelope.payload, source=source)
    digest = hashlib.sha256(manifest).hexdigest()
    if release.manifest != digest:
        raise SignatureError(
            f"{source}: signed was a {MANIFEST} of SHA-256 {release.manifest}, got one of "
            f"{digest}: another bundle, or an altered one; copy it again, or remove {SIGNATURE} "
            "and sign it again"
        )
    if trusted is not None:
        _check_age(release, trusted, source)
    return Signature(release, tuple(envelope.signatures), verified_by)


def _verify_all(envelope: Envelope, trusted: TrustedKeys, source: str) -> tuple[str, ...]:
    """Ids of the trusted keys that signed; each of their signatures has to be right."""
    message = pae(envelope.payload)
    verified_by = tuple(name for name in envelope.signatures if name in trusted.keys)
    if not verified_by:
        raise SignatureError(
            f"{source}: no signature by a trusted key: it is signed by "
            f"{_listed(envelope.signatures)}, and trusted is {_listed(trusted.keys)}; get the "
            "bundle from whom you trust, or give the signer's public key"
        )
    for name in verified_by:
        if not verify(trusted.keys[name], envelope.signatures[name], message):
            raise SignatureError(
                f"{source}: the signature by key {name} does not verify: expected one of this "
                "release statement, got another; the bundle is altered, or was signed wrongly: "
                "copy it again, or sign it again"
            )
    return verified_by


def _check_age(release: Release, trusted: TrustedKeys, source: str) -> None:
    if release.version < trusted.lowest_version:
        raise SignatureError(
            f"{source}: release of version {release.version}, expected {trusted.lowest_version} or "
            "higher (lowest_version): an old release was put back; install a newer one"
        )
    if release.expires is None:
        return
    now = int(wall_clock())
    if now < release.signed:
        raise SignatureError(
            f"{source}: signed at {show_time(release.signed)}, and the clock of this device says "
            f"{show_time(now)}, so whether it has expired cannot be told; set the clock"
        )
    if now >= release.expires:
        raise SignatureError(
            f"{source}: expired at {show_time(release.expires)}, and the clock of this device says "
            f"{show_time(now)}; install a newer release, or set the clock if it is wrong"
        )


def _listed(key_ids: Mapping[str, bytes]) -> str:
    return f"key{'s' if len(key_ids) > 1 else ''} {', '.join(key_ids)}"


def show_time(seconds: int) -> str:
    """A time as people read it, in UTC; one past the year 9999 in seconds since 1970."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s after 1970"
