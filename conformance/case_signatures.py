"""Cases of signatures: ``manifest.sig`` in every form, keys, versions, clocks, and the decision.

The keys are made of fixed seeds, so that the same bytes come of it everywhere. They sign nothing
but these cases.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from case_files import write
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from signature_files import decide, read_tiny, write_signed
from signature_mutants import mutants

__all__ = ["EXPIRES", "SIGNED", "VERSION", "keys_of", "sign", "write_signatures"]

TYPE = "application/vnd.mmedge.release+json"
VERSION, SIGNED, EXPIRES = 7, 1_790_000_000, 1_800_000_000
P = (1 << 255) - 19
#: The order of Ed25519's base point (RFC 8032, 5.1).
L = (1 << 252) + 27742317777372353535851937790883648493
ORDER_8 = int("05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826", 16)
SMALL_ORDER = (0, 1, P - 1, P, P + 1, ORDER_8, P - ORDER_8)


class Case(NamedTuple):
    """What a reader is given; see README.md."""

    name: str
    signature: bytes | None
    trusted: Sequence[str] | None = ("a",)
    lowest_version: int | None = None
    now: int = SIGNED + 1
    manifest: bytes | None = None


def private_key(name: str) -> ed25519.Ed25519PrivateKey:
    """The key of a name."""
    seed = hashlib.sha256(f"mmedge conformance {name}".encode()).digest()
    return ed25519.Ed25519PrivateKey.from_private_bytes(seed)


def raw(name: str) -> bytes:
    """The public key's 32 bytes."""
    return private_key(name).public_key().public_bytes_raw()


def key_id(name: str) -> str:
    """SHA-256 of them."""
    return hashlib.sha256(raw(name)).hexdigest()


def pem(name: str) -> str:
    """The public key as PEM."""
    public = private_key(name).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def pem_of(key: bytes, *, prefix: str = "302a300506032b6570032100") -> str:
    """PEM of any 32 bytes."""
    body = base64.b64encode(bytes.fromhex(prefix) + key).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"


def b64(data: bytes) -> str:
    """Base64 as text."""
    return base64.b64encode(data).decode()


def pae(payload: bytes) -> bytes:
    """What is signed."""
    return f"DSSEv1 {len(TYPE)} {TYPE} {len(payload)} ".encode() + payload


def compact(value: Any) -> str:
    """JSON without white space."""
    return json.dumps(value, separators=(",", ":"))


def statement(manifest: bytes, **changes: Any) -> bytes:
    """A release statement of a manifest."""
    release = {
        "manifest": hashlib.sha256(manifest).hexdigest(),
        "version": VERSION,
        "signed": SIGNED,
        "expires": EXPIRES,
    }
    return compact({**release, **changes}).encode()


def entry(name: str, payload: bytes) -> dict[str, str]:
    """One member of ``signatures``."""
    return {"keyid": key_id(name), "sig": b64(private_key(name).sign(pae(payload)))}


def envelope(payload: bytes, *signatures: dict[str, str]) -> bytes:
    """A ``manifest.sig``."""
    tree = {"payloadType": TYPE, "payload": b64(payload), "signatures": list(signatures)}
    return compact(tree).encode() + b"\n"


def sign(manifest: bytes, *names: str, **changes: Any) -> bytes:
    """A ``manifest.sig`` of a manifest by the keys of these names."""
    payload = statement(manifest, **changes)
    return envelope(payload, *(entry(name, payload) for name in names))


def keys_of() -> dict[str, str]:
    """PEM texts by the names that cases have for them."""
    keys = {name: pem(name) for name in ("a", "b", "c")}
    for number, y in enumerate(SMALL_ORDER):
        for bit in (0, 1):
            point = (y | bit << 255).to_bytes(32, "little")
            keys[f"small order {number}, sign {bit}"] = pem_of(point)
    keys["y of p + 3"] = pem_of((P + 3).to_bytes(32, "little"))
    keys["with CRLF at its ends of lines"] = pem("a").replace("\n", "\r\n")
    keys["without a newline at its end"] = pem("a").rstrip()
    begin, body, end = pem("a").splitlines()
    keys["its base64 in two lines"] = f"{begin}\n{body[:32]}\n{body[32:]}\n{end}\n"
    keys["with words before it"] = f"the key\n{pem('a')}"
    keys["of more than 4 KiB"] = pem("a") + "\n" * 4096
    keys["nothing"] = ""
    keys["31 bytes"] = pem_of(raw("a")[:31])
    keys["33 bytes"] = pem_of(raw("a") + b"\0")
    keys["X25519"] = pem_of(raw("a"), prefix="302a300506032b656e032100")
    keys["two keys"] = pem("a") + pem("b")
    keys["private"] = (
        private_key("a").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    )
    elliptic = ec.derive_private_key(12345, ec.SECP256R1()).public_key()
    keys["P-256"] = elliptic.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return keys


def cases(manifest: bytes) -> Iterator[Case]:
    """All of them, for a bundle of this manifest."""
    signed = sign(manifest, "a")
    yield Case("signed by the trusted key", signed)
    yield Case("no key is given", signed, trusted=None)
    yield Case("not signed", None)
    yield Case("not signed, and no key is given", None, trusted=None)
    yield Case("signed by another key", signed, trusted=("b",))
    yield Case("one of the trusted keys signed", signed, trusted=("b", "a"))
    yield Case("the same key is given twice", signed, trusted=("a", "a"))
    yield from _rotation(manifest)
    yield from _ages(manifest)
    for name in keys_of():
        if len(name) > 1:
            yield Case(f"trusted key: {name}", signed, trusted=("a", name))
    yield from _envelopes(manifest)
    yield from _payloads(manifest)
    yield from _signatures(manifest)
    yield from _manifests(manifest)
    for number, mutant in enumerate(mutants(manifest, signed, count=24, seed=1)):
        changed = None if mutant.manifest == manifest else mutant.manifest
        yield Case(f"mutant {number}: {mutant.name}", mutant.signature, manifest=changed)


def _rotation(manifest: bytes) -> Iterator[Case]:
    payload = statement(manifest)
    both = sign(manifest, "a", "b")
    yield Case("rotation: signed by both, the old key is trusted", both)
    yield Case("rotation: signed by both, the new key is trusted", both, trusted=("b",))
    yield Case("rotation: signed by both, both are trusted", both, trusted=("b", "a"))
    yield Case("rotation: signed by both, neither is trusted", both, trusted=("c",))
    yield Case("rotation: signed by the new key, both are trusted", sign(manifest, "b"),
               trusted=("a", "b"))  # fmt: skip
    wrong = {"keyid": key_id("b"), "sig": entry("a", payload)["sig"]}
    half = envelope(payload, entry("a", payload), wrong)
    yield Case("the signature of a key that is not trusted is wrong", half)
    yield Case("one of two signatures by trusted keys is wrong", half, trusted=("a", "b"))
    yield Case("the one signature by a trusted key is wrong", half, trusted=("b",))


def _ages(manifest: bytes) -> Iterator[Case]:
    signed = sign(manifest, "a")
    endless = sign(manifest, "a", expires=None)
    yield Case("the lowest version", signed, lowest_version=VERSION)
    yield Case("rolled back: below the lowest version", signed, lowest_version=VERSION + 1)
    yield Case("version 0 where 0 is the lowest", sign(manifest, "a", version=0), lowest_version=0)
    yield Case("version 0 where 1 is the lowest", sign(manifest, "a", version=0), lowest_version=1)
    most = (1 << 53) - 1
    yield Case("the highest version", sign(manifest, "a", version=most), lowest_version=most)
    yield Case("the second before it expires", signed, now=EXPIRES - 1)
    yield Case("the second in which it expires", signed, now=EXPIRES)
    yield Case("expired long ago", signed, now=EXPIRES + 10**9)
    yield Case("expired, and no key is given", signed, trusted=None, now=EXPIRES)
    yield Case("the second in which it was signed", signed, now=SIGNED)
    yield Case("the clock is before it was signed", signed, now=SIGNED - 1)
    yield Case("the clock is at 1970", signed, now=0)
    yield Case("the clock is at 1970, and no key is given", signed, trusted=None, now=0)
    yield Case("never expires", endless, now=most)
    yield Case("never expires, and the clock is at 1970", endless, now=0)
    yield Case("rolled back and expired", signed, lowest_version=VERSION + 1, now=EXPIRES)


def _envelopes(manifest: bytes) -> Iterator[Case]:
    """What is not the one form; refused without keys, too."""
    payload = statement(manifest)
    signed = sign(manifest, "a")
    text = signed.decode()
    one, sig = compact(entry("a", payload)), entry("a", payload)["sig"]
    many = [entry(str(number), payload) for number in range(17)]
    forms: dict[str, bytes | str] = {
        "an empty file": "",
        "one newline": "\n",
        "no newline at the end": text[:-1],
        "two newlines at the end": text + "\n",
        "a carriage return": text[:-1] + "\r\n",
        "a byte order mark": "\ufeff" + text,
        "a space": text.replace('":', '": ', 1),
        "bytes that are not UTF-8": signed.replace(b"vnd", b"v\xffd"),
        "a null byte at the end": text + "\0",
        "an escape": text.replace("payloadType", "p\\u0061yloadType"),
        "an escaped slash": text.replace("application/", "application\\/"),
        "members in another order": compact(dict(reversed(json.loads(text).items()))) + "\n",
        "members of a signature in another order": text.replace(
            one, compact(dict(reversed(json.loads(one).items())))
        ),
        "an unknown member": text.replace('"signatures"', '"x":1,"signatures"'),
        "an unknown member of a signature": text.replace('"sig":', '"x":1,"sig":'),
        "a member twice": text.replace('"signatures"', f'"payload":"{b64(payload)}","signatures"'),
        "no signatures": compact({"payloadType": TYPE, "payload": b64(payload)}) + "\n",
        "an empty list of signatures": envelope(payload),
        "17 signatures": envelope(payload, *many),
        "a key id twice": envelope(payload, json.loads(one), json.loads(one)),
        "signatures as an object": text.replace(f"[{one}]", one),
        "a list around it": f"[{text[:-1]}]\n",
        "another payload type": text.replace("release+json", "other+json"),
        "payload as null": text.replace(f'"{b64(payload)}"', "null"),
        "a signature without its padding": text.replace(sig, sig.rstrip("=")),
        "payload with a space": text.replace('"payload":"', '"payload":" '),
        "payload with padding in the middle": text.replace(b64(payload), "QQ==" + b64(payload)),
        "base64 with another last bit": text.replace(sig, f"{sig[:-3]}{_other_bit(sig[-3])}=="),
        "base64 for addresses": text.replace(sig, sig.replace("/", "_").replace("+", "-")),
        "a key id in capitals": text.replace(key_id("a"), key_id("a").upper()),
        "a key id of 63 digits": text.replace(key_id("a"), key_id("a")[:-1]),
        "a signature of 63 bytes": text.replace(
            sig, b64(base64.b64decode(sig)[:-1])
        ),
        "a signature of 65 bytes": text.replace(
            sig, b64(base64.b64decode(sig) + b"\0")
        ),
        "lists in lists": "[" * 8000 + "]" * 8000 + "\n",
        "a number for the whole": "1\n",
        "more than 16 KiB": text + " " * (16 * 1024),
    }  # fmt: skip
    for name, form in forms.items():
        data = form if isinstance(form, bytes) else form.encode()
        assert data != signed, name
        yield Case(f"envelope: {name}", data)
        yield Case(f"envelope: {name}; no key is given", data, trusted=None)
    yield Case("16 signatures", envelope(payload, *many[1:], entry("a", payload)))


def _other_bit(letter: str) -> str:
    """The letter of base64 whose last bit is another."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return letters[letters.index(letter) ^ 1]


def _payloads(manifest: bytes) -> Iterator[Case]:
    """Statements that are signed rightly, and not what a statement is."""
    good = statement(manifest).decode()
    digest = hashlib.sha256(manifest).hexdigest()
    forms = {
        "nothing": "",
        "not JSON": "release 7",
        "a newline": good + "\n",
        "a space": good.replace(",", ", ", 1),
        "members in another order": compact(dict(reversed(json.loads(good).items()))),
        "an unknown member": good[:-1] + ',"x":1}',
        "no expiry": compact({k: v for k, v in json.loads(good).items() if k != "expires"}),
        "a member twice": good[:-1] + f',"expires":{EXPIRES}}}',
        "a digest in capitals": good.replace(digest, digest.upper()),
        "version with a point": good.replace(f'"version":{VERSION}', f'"version":{VERSION}.0'),
        "version with an exponent": good.replace(f'"version":{VERSION}', f'"version":{VERSION}e0'),
        "version -0": good.replace(f'"version":{VERSION}', '"version":-0'),
        "version -1": good.replace(f'"version":{VERSION}', '"version":-1'),
        "version with a zero before it": good.replace(f'"version":{VERSION}', '"version":07'),
        "version 2**53": good.replace(f'"version":{VERSION}', f'"version":{1 << 53}'),
        "version of 100 digits": good.replace(f'"version":{VERSION}', f'"version":{10**99}'),
        "version true": good.replace(f'"version":{VERSION}', '"version":true'),
        "version as text": good.replace(f'"version":{VERSION}', '"version":"7"'),
        "version null": good.replace(f'"version":{VERSION}', '"version":null'),
        "signed null": good.replace(str(SIGNED), "null"),
        "signed NaN": good.replace(str(SIGNED), "NaN"),
        "expires when it was signed": good.replace(str(EXPIRES), str(SIGNED)),
        "expires before it was signed": good.replace(str(EXPIRES), str(SIGNED - 1)),
        "expires false": good.replace(str(EXPIRES), "false"),
        "a list": f"[{good}]",
    }
    for name, form in forms.items():
        payload = form.encode()
        assert payload != good.encode(), name
        yield Case(f"statement: {name}", envelope(payload, entry("a", payload)))
        if name in {"not JSON", "expires when it was signed", "version -0"}:
            yield Case(f"statement: {name}; no key is given",
                       envelope(payload, entry("a", payload)), trusted=None)  # fmt: skip


def _signatures(manifest: bytes) -> Iterator[Case]:
    """64 bytes that are no signature of this statement by this key."""
    payload = statement(manifest)
    good = private_key("a").sign(pae(payload))
    larger = (int.from_bytes(good[32:], "little") + L).to_bytes(32, "little")
    identity = (1).to_bytes(32, "little")
    forms = {
        "zeros": bytes(64),
        "ones": b"\xff" * 64,
        "S plus the order of the group": good[:32] + larger,
        "R of small order": identity + good[32:],
        "R and S exchanged": good[32:] + good[:32],
        "of the payload alone": private_key("a").sign(payload),
        "of another type": private_key("a").sign(pae(payload).replace(b"mmedge", b"mmodge")),
        "of a digest": private_key("a").sign(hashlib.sha256(pae(payload)).digest()),
        "of another version": private_key("a").sign(pae(statement(manifest, version=8))),
        "by another key": private_key("b").sign(pae(payload)),
    }
    for name, form in forms.items():
        data = envelope(payload, {"keyid": key_id("a"), "sig": b64(form)})
        yield Case(f"signature: {name}", data)
    yield Case("signature: zeros; no key is given",
               envelope(payload, {"keyid": key_id("a"), "sig": b64(bytes(64))}),
               trusted=None)  # fmt: skip


def _manifests(manifest: bytes) -> Iterator[Case]:
    """The signature of another manifest. ``manifest.sha256`` is that of the one that is there."""
    signed = sign(manifest, "a")
    altered = manifest.replace(b'"name": "tiny"', b'"name": "tony"', 1)
    assert altered != manifest
    for name, content in (
        ("altered", altered),
        ("with a space behind it", manifest + b" "),
        ("not JSON", b"{"),
        ("without a byte", b""),
    ):
        yield Case(f"manifest: {name}", signed, manifest=content)
        yield Case(f"manifest: {name}; no key is given", signed, manifest=content, trusted=None)
    yield Case("manifest: altered, and signed again by another key", sign(altered, "b"),
               manifest=altered)  # fmt: skip
    yield Case("manifest: altered, and signed again", sign(altered, "a"), manifest=altered)


def write_signatures(folder: Path, bundles: Path) -> None:
    """Write ``signatures.json``, and one signed bundle in both forms."""
    folder.mkdir(parents=True)
    files = read_tiny(bundles / "tiny")
    manifest = files["manifest.json"]
    for path, zipped in ((folder / "signed", False), (folder / "signed.mmedge", True)):
        write_signed(path, files, signature=sign(manifest, "a", "b", expires=None), zipped=zipped)
    keys = keys_of()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for number, case in enumerate(cases(manifest)):
            path = Path(temporary) / str(number)
            write_signed(
                path, files, signature=case.signature, manifest=case.manifest, zipped=False
            )
            trusted = None if case.trusted is None else [keys[name] for name in case.trusted]
            rows.append({
                "name": case.name,
                "signature": None if case.signature is None else case.signature.decode("latin-1"),
                "manifest": None if case.manifest is None else case.manifest.decode("latin-1"),
                "trusted": None if case.trusted is None else list(case.trusted),
                "lowest_version": case.lowest_version,
                "now": case.now,
                **decide(path, trusted, case.lowest_version, case.now),
            })  # fmt: skip
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names)
    write(
        folder / "signatures.json",
        {"bundle": "tiny", "key_ids": {name: key_id(name) for name in "abc"}, "keys": keys,
         "cases": rows},
    )  # fmt: skip
