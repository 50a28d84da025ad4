"""Signatures of bundles in C++ beside Python: the same verify, and the same are refused."""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from case_files import CASES, read
from ed25519_points import BASE, ORDER, ORDER_8, add, encode, times
from fuzz.native import fuzz, seeds_of
from line_probe import LineProbe
from signature_files import read_tiny, taken_mutants, write_case, write_signed

from mmedge.bundle.signature import key_id, public_key_from_pem, public_key_to_pem, verify
from mmedge.errors import SignatureError
from mmedge.native import runtime
from mmedge.native.runtime import NativeBundle
from mmedge.native.structures import OpenOptions, ReleaseStruct
from mmedge.schema.release import (
    Envelope,
    Release,
    envelope_from_bytes,
    envelope_to_bytes,
    pae,
    release_from_bytes,
    release_to_bytes,
)

pytestmark = pytest.mark.native_build

SODIUM, OPENSSL = "libsodium.so.23", "libcrypto.so.3"


@cache
def is_there(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


@pytest.fixture(params=[SODIUM, OPENSSL])
def library(request: pytest.FixtureRequest) -> str:
    """What verifies, as libmmedge is told."""
    if not is_there(request.param):
        pytest.skip(f"no {request.param}")
    return request.param


@pytest.fixture(scope="module")
def signatures(probe) -> Iterator[LineProbe]:
    program = LineProbe(probe("signature_probe"))
    yield program
    program.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder, in memory where there is such: thousands of files are written."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as path:
        yield Path(path)


#: RFC 8032, 7.1: key, message, signature.
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e3970"
            "1cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613"
            "d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760"
            "984dc6594a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
    (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        hashlib.sha512(b"abc").hexdigest(),
        (
            "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c6"
            "6431e0303dca179c138ac17ad9bef1177331a704"
        ),
    ),
]


def flipped(data: bytes, numbers: random.Random) -> bytes:
    changed = bytearray(data)
    changed[numbers.randrange(len(data))] ^= 1 << numbers.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("case", range(len(VECTORS)))
def test_vectors_of_rfc_8032(case, library, signatures):
    key, message, signature = (bytes.fromhex(text) for text in VECTORS[case])
    numbers = random.Random(case)

    def verifies(key: bytes, message: bytes, signature: bytes) -> bool:
        words = (key.hex(), signature.hex(), message.hex())
        answer = signatures.get("verify", library, *words) == ["yes"]
        assert answer == verify(key, signature, message)
        return answer

    assert verifies(key, message, signature)
    for _ in range(40):
        assert not verifies(key, message, flipped(signature, numbers))
        assert not verifies(key, message + b"\0", signature)
        if message:
            assert not verifies(key, flipped(message, numbers), signature)


def challenge(point: bytes, key: bytes, message: bytes) -> int:
    return int.from_bytes(hashlib.sha512(point + key + message).digest(), "little") % ORDER


def test_edges_on_which_libraries_differ(library, signatures):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    secret, message = 20260101, b"release"
    key = encode(times(secret, BASE))

    def decide(key: bytes, signature: bytes) -> bool:
        answer = signatures.get("verify", library, key.hex(), signature.hex(), message.hex())
        assert (answer == ["yes"]) == verify(key, signature, message)
        return answer == ["yes"]

    nonce = 42
    point = encode(times(nonce, BASE))
    scalar = (nonce + challenge(point, key, message) * secret) % ORDER
    good = point + scalar.to_bytes(32, "little")
    assert decide(key, good)
    # The same scalar, written as another number.
    assert not decide(key, point + (scalar + ORDER).to_bytes(32, "little"))
    # R of order 1, whose equation holds: OpenSSL takes it, libsodium does not.
    identity = encode(times(0, BASE))
    scalar = challenge(identity, key, message) * secret % ORDER
    small = identity + scalar.to_bytes(32, "little")
    Ed25519PublicKey.from_public_bytes(key).verify(small, message)
    assert not decide(key, small)
    # A key that is a point of order 8 off, whose owner can sign now and then.
    mixed = encode(add(times(secret, BASE), ORDER_8))
    while challenge(point, mixed, message) % 8:
        nonce += 1
        point = encode(times(nonce, BASE))
    scalar = (nonce + challenge(point, mixed, message) * secret) % ORDER
    assert decide(mixed, point + scalar.to_bytes(32, "little"))


def test_keys_of_small_order(signatures):
    points = [times(count, ORDER_8) for count in range(8)]
    assert len({encode(point) for point in points}) == 8
    prime = (1 << 255) - 19
    ys = {point[1] for point in points} | {prime, prime + 1}
    assert len(ys) == 7
    for y in ys:
        for sign in (0, 1):
            key = (y | sign << 255).to_bytes(32, "little")
            assert signatures.get("small", key.hex()) == ["yes"]
            pem = public_key_to_pem(key).encode()
            kind, message = signatures.ask("key", pem.hex())[1]
            assert kind == "SignatureError"
            assert "small order" in message
            with pytest.raises(SignatureError, match="small order"):
                public_key_from_pem(pem, source="key")
    numbers = random.Random(1)
    for y in [*range(2, 40), *range(prime - 40, prime - 1), *range(prime + 2, prime + 19)]:
        assert signatures.get("small", y.to_bytes(32, "little").hex()) == ["no"]
    for _ in range(200):
        assert signatures.get("small", numbers.randbytes(32).hex()) == ["no"]


def changed(data: bytes, words: tuple[bytes, ...], numbers: random.Random) -> bytes:
    """A few bytes flipped, taken out or put in."""
    for _ in range(numbers.choice((1, 1, 2, 4))):
        at = numbers.randrange(len(data) + 1)
        kind = numbers.randrange(4)
        if kind == 0 and data:
            data = flipped(data, numbers)
        elif kind == 1:
            data = data[:at] + data[at + numbers.choice((1, 2, 30)) :]
        elif kind == 2:
            data = data[:at] + numbers.choice(words) + data[at:]
        else:
            data = data[:at] + numbers.choice(words) + data[at + 1 :]
    return data


def test_public_keys_are_read_as_in_python(signatures):
    numbers = random.Random(8410)
    content = read(CASES / "signatures" / "signatures.json")
    texts = [text.encode("latin-1", "replace") for text in content["keys"].values()]
    good = content["keys"]["a"].encode()
    spaces = (b"\n", b"\r\n", b" ", b"\t", b"\x1c", b"\v")
    words = (*spaces, b"=", b"==", b"-", b"A", b"\0", b"\xa0", b"\x85")
    taken = 0
    for number in range(3000):
        if number < len(texts):
            text = texts[number]
        else:
            text = changed(good, numbers.choice((spaces, words)), numbers)
        try:
            key = public_key_from_pem(text, source="key")
        except SignatureError:
            is_taken, answer = signatures.ask("key", text.hex())
            assert not is_taken, text
            assert answer[0] == "SignatureError"
            continue
        taken += 1
        assert signatures.get("key", text.hex()) == [key.hex(), key_id(key)], text
    assert 300 < taken < 2700


def random_envelope(numbers: random.Random) -> bytes:
    payload = numbers.choice((random_release(numbers), numbers.randbytes(numbers.randrange(300))))
    count = numbers.choice((1, 1, 2, 3, 16))
    return envelope_to_bytes(
        Envelope(
            payload, {numbers.randbytes(32).hex(): numbers.randbytes(64) for _ in range(count)}
        )
    )


def random_release(numbers: random.Random) -> bytes:
    most = (1 << 53) - 1
    signed = numbers.choice((0, 1_790_000_000, most - 1, numbers.randrange(most)))
    expires = numbers.choice((None, signed, signed + 1, most, most + 1, signed - 1))
    version = numbers.choice((0, 7, most, most + 1, numbers.randrange(most)))
    return release_to_bytes(Release(numbers.randbytes(32).hex(), version, signed, expires))


ENVELOPE_WORDS = (
    b'"', b"=", b"A", b"0", b"f", b"F", b" ", b"\n", b",", b"[", b"]", b"}", b"{", b"\\", b"\xff",
    b"QQ==", b"-", b"null", b"1e3", b".0",
)  # fmt: skip


def test_random_envelopes_and_statements(signatures):
    numbers = random.Random(2026)
    taken = {"envelope": 0, "release": 0}
    for number in range(3000):
        kind = numbers.choice(("envelope", "release"))
        data = (random_envelope if kind == "envelope" else random_release)(numbers)
        if number % 4:
            data = changed(data, ENVELOPE_WORDS, numbers)
        try:
            if kind == "envelope":
                envelope = envelope_from_bytes(data, source="")
                expected = [envelope.payload.hex()]
                for name, signature in envelope.signatures.items():
                    expected += [name, signature.hex()]
                message = signatures.get("signed", envelope.payload.hex())
                assert message == [pae(envelope.payload).hex()]
            else:
                release = release_from_bytes(data, source="")
                ends = -1 if release.expires is None else release.expires
                expected = [release.manifest, str(release.version), str(release.signed), str(ends)]
        except SignatureError:
            is_taken, answer = signatures.ask(kind, data.hex())
            assert not is_taken, data
            assert answer[0] == "SignatureError"
            continue
        taken[kind] += 1
        assert signatures.get(kind, data.hex()) == expected, data
    assert min(taken.values()) > 150


def test_cases_with_each_library(library, signatures, folder):
    content = read(CASES / "signatures" / "signatures.json")
    files = read_tiny()
    for number, case in enumerate(content["cases"]):
        path = folder / str(number)
        write_case(path, files, case, zipped=bool(number % 2))
        keys = ["k" + content["keys"][name].encode().hex() for name in case["trusted"] or ()]
        words = (library, case["lowest_version"] or 0, case["now"], path, *keys)
        is_taken, answer = signatures.ask("check", *words)
        if "error" in case:
            assert (is_taken, answer[0]) == (False, case["error"]), (case["name"], answer)
            continue
        assert is_taken, (case["name"], answer)
        if case["release"] is None:
            assert answer[4:] == []
            continue
        ends = case["release"]["expires"]
        numbers = (
            case["release"]["version"],
            case["release"]["signed"],
            -1 if ends is None else ends,
        )
        assert answer[1:4] == [str(each) for each in numbers]
        verified = [answer[at] for at in range(4, len(answer), 2) if answer[at + 1] == "verified"]
        assert verified == case["verified_by"]


def test_a_statement_is_parsed_after_its_signature_and_the_manifest_after_both(signatures, folder):
    content = read(CASES / "signatures" / "signatures.json")
    key = content["keys"]["a"].encode()
    envelope = envelope_to_bytes(Envelope(b"{", {content["key_ids"]["a"]: bytes(64)}))
    write_signed(folder / "b", read_tiny(), signature=envelope, manifest=b"{", zipped=False)
    for keys, word in (((f"k{key.hex()}",), "does not verify"), ((), "release statement")):
        kind, text = signatures.ask("check", "", 0, 0, folder / "b", *keys)[1]
        assert kind == "SignatureError"
        assert word in text


def test_no_mutant_is_taken(library, folder):
    def open_bundle(path: Path, key: str) -> None:
        with NativeBundle(path, trusted_keys=[key.encode()], signature_library=library) as bundle:
            release = bundle.release()
            assert release is not None
            assert release.verified_by

    assert taken_mutants(folder, open_bundle, count=1000, seed=2026) == []


@pytest.mark.parametrize("kind", ["signature", "public-key"])
def test_changed_bytes_break_nothing(kind, probe):
    counts = fuzz(probe("signature_probe"), kind, seeds_of(kind), count=2000)
    assert counts["inputs"] == 2000


HIDE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>
void* dlopen(const char* name, int flags) {
  if (name != NULL && (strstr(name, "libsodium") || strstr(name, HIDDEN))) return NULL;
  return ((void* (*)(const char*, int))dlsym(RTLD_NEXT, "dlopen"))(name, flags);
}
"""

OPEN = """
import sys
import tempfile
from mmedge.errors import SignatureError
from mmedge.native.runtime import NativeBundle
try:
    with NativeBundle(sys.argv[1], trusted_keys=[sys.argv[2].encode()]) as bundle:
        print(len(bundle.release().verified_by))
except SignatureError as error:
    print(error)
"""


@pytest.mark.parametrize("hidden", ["libcrypto", "nothing"])
def test_openssl_takes_the_place_of_libsodium_and_without_both_it_says_what_to_install(
    hidden, tmp_path
):
    if not is_there(OPENSSL):
        pytest.skip(f"no {OPENSSL}")
    (tmp_path / "hide.c").write_text(HIDE)
    subprocess.run(
        ["cc", "-shared", "-fPIC", f'-DHIDDEN="{hidden}"', tmp_path / "hide.c", "-o",
         tmp_path / "hide.so", "-ldl"],
        check=True,
    )  # fmt: skip
    signed = CASES / "signatures" / "signed.mmedge"
    key = read(CASES / "signatures" / "signatures.json")["keys"]["a"]
    done = subprocess.run(
        [sys.executable, "-c", OPEN, signed, key],
        env=os.environ | {"LD_PRELOAD": str(tmp_path / "hide.so")},
        capture_output=True,
        text=True,
        check=True,
    )
    if hidden == "nothing":
        assert done.stdout == "1\n"
    else:
        assert "apt-get install libsodium23" in done.stdout
        assert "libcrypto" in done.stdout


def test_libraries_that_cannot_verify(signatures, tmp_path):
    key, message, signature = VECTORS[1]
    for library, word in (
        (tmp_path / "none.so", "none.so"),
        (tmp_path, "expected a file libsodium.so*"),
        ("libz.so.1", "it lacks functions"),
    ):
        kind, text = signatures.ask("verify", library, key, signature, message)[1]
        assert kind == "SignatureError"
        assert word in text


def test_libsodium_that_is_linked_in(probe):
    where = subprocess.run(
        ["cc", "-print-file-name=libsodium.a"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(where).is_absolute():
        pytest.skip("no libsodium.a")
    path = probe("sodium_probe")
    symbols = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
    assert " T crypto_sign_ed25519_verify_detached" in symbols
    program = LineProbe(path)
    for key, message, signature in VECTORS:
        assert program.get("verify", "", key, signature, message) == ["yes"]
        assert program.get("verify", "", key, signature, message + "00") == ["no"]
    program.close()


def test_arguments_that_contradict_the_header():
    c = runtime.library()
    size = ctypes.sizeof(OpenOptions)
    path = os.fsencode(CASES / "signatures" / "signed")
    key = (ctypes.c_char_p * 1)(b"key")
    for options in (
        OpenOptions(size - 1, None, 0, 0, -1),
        OpenOptions(size, None, 1, 0, -1),
        OpenOptions(size, key, 0, 0, -1),
        OpenOptions(size, key, -1, 0, -1),
        OpenOptions(size, None, 0, -1, -1),
        OpenOptions(size, None, 0, 0, -2),
    ):
        handle = ctypes.c_void_p(1)
        assert c.mmedge_bundle_open_with(path, options, ctypes.byref(handle)) == 1
        assert handle.value is None
    with NativeBundle(path.decode()) as bundle:
        key_id, verified = ctypes.c_char_p(), ctypes.c_int32()
        for index in (-1, 2):
            assert c.mmedge_bundle_signature(bundle.handle, index, key_id, verified) == 1
        assert c.mmedge_bundle_release(bundle.handle, ReleaseStruct()) == 1
    with pytest.raises(SignatureError, match="null character"):
        NativeBundle(path.decode(), trusted_keys=[b"key\0"])


def test_a_lowest_version_needs_keys(signatures):
    signed = CASES / "signatures" / "signed"
    kind, text = signatures.ask("check", "", 1, -1, signed)[1]
    assert kind == "InputError"
    assert "without trusted keys" in text
