"""Signing bundles, with a key at hand or by a signer elsewhere; docs/howto/fleet.md shows it."""

from __future__ import annotations

import hashlib
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmedge.bundle.load import CheckedBundle, load
from mmedge.bundle.private_key import read_private_key
from mmedge.bundle.signature import (
    PublicKey,
    Signature,
    key_id,
    read_public_key,
    show_time,
    verify,
    wall_clock,
)
from mmedge.bundle.write import write_signature
from mmedge.errors import SignatureError
from mmedge.schema.names import MANIFEST, SIGNATURE
from mmedge.schema.release import (
    MAX_NUMBER,
    MAX_SIGNATURES,
    SIGNATURE_BYTES,
    Envelope,
    Release,
    envelope_from_bytes,
    envelope_to_bytes,
    pae,
    payload_from_pae,
    release_from_bytes,
    release_to_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["add_signature", "release_payload", "sign_bundle"]

#: When a release ends: seconds since 1970, never, or (None) as the release signed before says.
Expiry = int | Literal["never"] | None


def sign_bundle(
    bundle: str | Path,
    key: str | Path,
    *,
    version: int | None = None,
    expires: Expiry = None,
    passphrase: str | None = None,
    allow_lower_version: bool = False,
) -> Signature:
    """Sign a bundle in its place: ``manifest.sig`` is written in one step, all else stays.

    All of the bundle is checked first, digests too. Without ``version`` and ``expires`` a bundle
    that is signed keeps its release statement, and this key's signature joins the others. Where
    either says something else, there is a new statement, and signatures of the old one go.

    Args:
        bundle: its directory or zip.
        key: PEM file of an Ed25519 private key (:func:`mmedge.generate_key`).
        version: of the release, from 0 to 2**53 - 1. None: that of the release signed before, or 0.
        expires: seconds since 1970 from which on the bundle is refused, or ``"never"``. None: as
            the release signed before says, or never.
        passphrase: of the key; None: it is not encrypted.
        allow_lower_version: sign a lower version than the one signed before.

    Returns:
        The signature that the bundle has now; ``verified_by`` is this key.

    Raises:
        BundleError: the bundle does not pass its checks, was changed meanwhile, or cannot be
            written.
        SignatureError: the key cannot be read, the release would be of a lower version or has
            expired, or there are 16 signatures already.
        ValueError: ``version`` or ``expires`` is out of range.
    """
    private = read_private_key(Path(key), passphrase)
    raw = private.public_key().public_bytes_raw()
    with _opened(bundle) as contents:
        release = _next_release(contents, version, expires, allow_lower_version=allow_lower_version)
        signature = private.sign(pae(release_to_bytes(release)))
        return _add(contents, release, raw, signature)


def release_payload(
    bundle: str | Path,
    *,
    version: int | None = None,
    expires: Expiry = None,
    allow_lower_version: bool = False,
) -> bytes:
    """What a signer elsewhere (such as an HSM) has to sign with Ed25519; writes nothing.

    The arguments and what is raised are those of :func:`sign_bundle`. Keep these bytes for
    :func:`add_signature`: another call would state another time.
    """
    with _opened(bundle) as contents:
        release = _next_release(contents, version, expires, allow_lower_version=allow_lower_version)
    return pae(release_to_bytes(release))


def add_signature(
    bundle: str | Path,
    payload: bytes,
    signature: bytes,
    key: PublicKey,
    *,
    allow_lower_version: bool = False,
) -> Signature:
    """Add a signature that was made elsewhere; it is verified before anything is written.

    Args:
        bundle: its directory or zip.
        payload: what :func:`release_payload` gave for this bundle, and was signed.
        signature: the 64 bytes.
        key: the public key, as a PEM file or a PEM text.
        allow_lower_version: as for :func:`sign_bundle`.

    Returns:
        As :func:`sign_bundle`.

    Raises:
        BundleError: as :func:`sign_bundle`.
        SignatureError: the signature is not one of ``payload`` by ``key``, or ``payload`` is of
            another bundle.
    """
    raw = read_public_key(key)
    source = f"{bundle}: what was signed"
    release = release_from_bytes(payload_from_pae(payload, source=source), source=source)
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureError(
            f"{bundle}: a signature of Ed25519 has {SIGNATURE_BYTES} bytes, got {len(signature)}; "
            "give it raw, not in hex, base64 or DER"
        )
    if not verify(raw, signature, payload):
        raise SignatureError(
            f"{bundle}: the signature is not one of what was to be signed by key {key_id(raw)}; "
            "sign the bytes that mmedge sign --print-payload wrote, with Ed25519 and not a digest "
            "of them"
        )
    with _opened(bundle) as contents:
        digest = _digest(contents)
        if release.manifest != digest:
            raise SignatureError(
                f"{bundle}: signed was a manifest of SHA-256 {release.manifest}, and that of this "
                f"bundle is {digest}; sign what mmedge sign --print-payload writes of it"
            )
        _check_release(contents, release, allow_lower_version=allow_lower_version)
        return _add(contents, release, raw, signature)


@contextmanager
def _opened(bundle: str | Path) -> Iterator[CheckedBundle]:
    """The bundle, all of it checked."""
    contents = load(Path(bundle))
    try:
        yield contents
    finally:
        contents.archive.close()


def _digest(bundle: CheckedBundle) -> str:
    return hashlib.sha256(bundle.archive.read(MANIFEST)).hexdigest()


def _next_release(
    bundle: CheckedBundle, version: int | None, expires: Expiry, *, allow_lower_version: bool
) -> Release:
    """The statement that the bundle has if it says what is asked for, or a new one."""
    for name, number in (("version", version), ("expires", expires)):
        if number not in (None, "never") and (
            type(number) is not int or not 0 <= number <= MAX_NUMBER
        ):
            raise ValueError(
                f"{name} must be a whole number from 0 to {MAX_NUMBER}, got {number!r}"
            )
    before = None if bundle.signature is None else bundle.signature.release
    now = int(wall_clock())
    release = Release(_digest(bundle), 0, now, None) if before is None else before
    if version is not None:
        release = replace(release, version=version)
    if expires is not None:
        release = replace(release, expires=None if expires == "never" else expires)
    if release != before:
        release = replace(release, signed=now)
    _check_release(bundle, release, allow_lower_version=allow_lower_version)
    return release


def _check_release(bundle: CheckedBundle, release: Release, *, allow_lower_version: bool) -> None:
    before = None if bundle.signature is None else bundle.signature.release
    if before is not None and release.version < before.version and not allow_lower_version:
        raise SignatureError(
            f"{bundle.archive.path}: signed before as version {before.version}, and this is "
            f"{release.version}: devices that keep the version would refuse it; give a higher one, "
            "or allow a lower one (--allow-lower-version)"
        )
    if release.expires is not None and release.expires <= max(release.signed, int(wall_clock())):
        raise SignatureError(
            f"{bundle.archive.path}: the release would be expired at once, at "
            f"{show_time(release.expires)}; give a later time (--expires)"
        )


def _add(bundle: CheckedBundle, release: Release, key: bytes, signature: bytes) -> Signature:
    """Write the envelope with one signature more."""
    payload = release_to_bytes(release)
    signatures: dict[str, bytes] = {}
    removed: list[str] = []
    if bundle.signature is not None:
        before = envelope_from_bytes(bytes(bundle.archive.read(SIGNATURE)), source=SIGNATURE)
        if before.payload == payload:
            signatures |= before.signatures
        else:
            removed = [name for name in before.signatures if name != key_id(key)]
    signatures[key_id(key)] = signature
    if len(signatures) > MAX_SIGNATURES:
        raise SignatureError(
            f"{bundle.archive.path}: {MAX_SIGNATURES} keys signed this release already, and there "
            "is no room for more; a new release (another --version) starts anew"
        )
    write_signature(bundle.archive, envelope_to_bytes(Envelope(payload, signatures)))
    if removed:
        warnings.warn(
            f"{bundle.archive.path}: this is a new release statement, so the signatures by "
            f"{', '.join(removed)} were removed: sign it with those keys again if devices trust "
            "them",
            UserWarning,
            stacklevel=3,
        )
    return Signature(release, tuple(signatures), (key_id(key),))
