"""``manifest.sig``: a release statement in a DSSE envelope, in one canonical form of bytes.

docs/reference/bundle.md specifies both. A reader decodes, checks each member, writes the same again
and compares: whatever is not the canonical form is refused.

Source of the envelope and of :func:`pae`: DSSE 1.0, https://github.com/secure-systems-lab/dsse.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from mmedge.errors import SignatureError
from mmedge.schema.names import MAX_SIGNATURE_BYTES, SHA256, SIGNATURE
from mmedge.schema.read import (
    Misfit,
    array,
    decode,
    integer,
    nullable,
    one_of,
    record,
    show,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.schema.read import Reader

__all__ = [
    "MAX_NUMBER",
    "MAX_SIGNATURES",
    "PAYLOAD_TYPE",
    "SIGNATURE_BYTES",
    "Envelope",
    "Release",
    "envelope_from_bytes",
    "envelope_to_bytes",
    "pae",
    "payload_from_pae",
    "release_from_bytes",
    "release_to_bytes",
]

PAYLOAD_TYPE: Final = "application/vnd.mmedge.release+json"

#: Largest version and time: 2**53 - 1, up to which float64 holds every integer.
MAX_NUMBER: Final = (1 << 53) - 1

#: Most signatures of an envelope.
MAX_SIGNATURES: Final = 16

#: Bytes of an Ed25519 signature (RFC 8032, 5.1.6).
SIGNATURE_BYTES: Final = 64

_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_MEND = "copy the bundle again, or sign it again"


@dataclass(frozen=True, slots=True)
class Release:
    """What a signer says of a bundle: the release statement.

    Attributes:
        manifest: SHA-256 of the manifest, which stands for the whole bundle.
        version: from 0 to 2**53 - 1; a later release has a higher one.
        signed: when the statement was made, in seconds since 1970 (UTC).
        expires: when it ends, in the same seconds; None: never.
    """

    manifest: str
    version: int
    signed: int
    expires: int | None


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload, not parsed, and its signatures.

    Attributes:
        payload: bytes of the release statement.
        signatures: 64 bytes by the key's id, in the order in which they were added.
    """

    payload: bytes
    signatures: Mapping[str, bytes]


def _base64(size: int | None = None) -> Reader[bytes]:
    """Bytes in the standard alphabet, padded, with no bit set that says nothing."""

    def read(value: object, where: str) -> bytes:
        words = text(_BASE64)(value, where)
        try:
            data = base64.b64decode(words, validate=True)
        except binascii.Error:
            data = None
        if data is None or base64.b64encode(data).decode() != words:
            raise Misfit(where, "base64 with its padding", show(words))
        if size is not None and len(data) != size:
            raise Misfit(where, f"{size} bytes in base64", f"{len(data)} bytes")
        return data

    return read


_read_signature = record(
    lambda keyid, sig: (keyid, sig), keyid=text(SHA256), sig=_base64(SIGNATURE_BYTES)
)

_read_envelope = record(
    lambda payloadType, payload, signatures: (payload, signatures),  # noqa: ARG005, N803
    payloadType=one_of((PAYLOAD_TYPE,)),
    payload=_base64(),
    signatures=array(_read_signature, least=1, most=MAX_SIGNATURES),
)

_read_release = record(
    Release,
    manifest=text(SHA256),
    version=integer(0, MAX_NUMBER),
    signed=integer(0, MAX_NUMBER),
    expires=nullable(integer(0, MAX_NUMBER)),
)


def envelope_from_bytes(data: bytes, *, source: str) -> Envelope:
    """Read ``manifest.sig``; the payload is not parsed.

    Raises:
        SignatureError: it is too large, or not in the canonical form.
    """
    if len(data) > MAX_SIGNATURE_BYTES:
        raise SignatureError(
            f"{source}: {len(data)} bytes, expected at most {MAX_SIGNATURE_BYTES}; {_MEND}"
        )
    try:
        payload, signatures = _read_envelope(decode(data), "$")
    except Misfit as fault:
        raise SignatureError(f"{source}: {fault}; {_MEND}") from fault
    envelope = Envelope(payload, dict(signatures))
    if len(envelope.signatures) != len(signatures):
        raise SignatureError(f"{source}: $.signatures: expected each keyid once; {_MEND}")
    _check_canonical(data, envelope_to_bytes(envelope), source)
    return envelope


def envelope_to_bytes(envelope: Envelope) -> bytes:
    """The one form of an envelope."""
    tree = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(envelope.payload).decode(),
        "signatures": [
            {"keyid": key_id, "sig": base64.b64encode(signature).decode()}
            for key_id, signature in envelope.signatures.items()
        ],
    }
    return json.dumps(tree, separators=(",", ":")).encode() + b"\n"


def release_from_bytes(payload: bytes, *, source: str) -> Release:
    """Read the release statement.

    Raises:
        SignatureError: it is not in the canonical form, or expires before it was signed.
    """
    try:
        release = _read_release(decode(payload), "$")
    except Misfit as fault:
        raise SignatureError(f"{source}: release statement: {fault}; {_MEND}") from fault
    _check_canonical(payload, release_to_bytes(release), f"{source}: release statement")
    if release.expires is not None and release.expires <= release.signed:
        raise SignatureError(
            f"{source}: release statement: $.expires: expected a time after signed "
            f"({release.signed}), got {release.expires}; {_MEND}"
        )
    return release


def release_to_bytes(release: Release) -> bytes:
    """The one form of a release statement."""
    return json.dumps(asdict(release), separators=(",", ":")).encode()


def pae(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding of the payload and its type."""
    return b"DSSEv1 %d %s %d %s" % (
        len(PAYLOAD_TYPE),
        PAYLOAD_TYPE.encode(),
        len(payload),
        payload,
    )


def payload_from_pae(data: bytes, *, source: str) -> bytes:
    """The payload in what :func:`pae` wrote.

    Raises:
        SignatureError: it is something else.
    """
    start = data.find(b"{")
    payload = data[start:] if start >= 0 else b""
    if pae(payload) != data:
        raise SignatureError(
            f"{source}: expected what mmedge sign --print-payload wrote, byte for byte; got "
            f"{len(data)} other bytes"
        )
    return payload


def _check_canonical(data: bytes, expected: bytes, source: str) -> None:
    if data == expected:
        return
    at = next(
        (n for n, (one, other) in enumerate(zip(data, expected, strict=False)) if one != other),
        min(len(data), len(expected)),
    )
    raise SignatureError(
        f"{source}: not in the one form that {SIGNATURE} has: byte {at} is another; {_MEND}"
    )
