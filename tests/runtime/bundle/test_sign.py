"""Keys, signing, and what becomes of a signature where a bundle is copied or rewritten."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signature_files import read_tiny, write_signed

import mmedge
from mmedge import Bundle, SignatureError, generate_key, sign_bundle
from mmedge.bundle import sign, signature
from mmedge.bundle.private_key import is_encrypted
from mmedge.schema import manifest_to_json
from mmedge.schema.release import (
    MAX_NUMBER,
    Envelope,
    Release,
    envelope_from_bytes,
    envelope_to_bytes,
    pae,
    payload_from_pae,
    release_from_bytes,
    release_to_bytes,
)

NOW = 1_790_000_000


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The wall clock of signing and checking; it may be set."""
    times = {"now": NOW}
    monkeypatch.setattr(signature, "wall_clock", lambda: times["now"])
    monkeypatch.setattr(sign, "wall_clock", lambda: times["now"])
    return times


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return {name: generate_key(folder / name) for name in ("old", "new")}


@pytest.fixture(params=["tiny", "tiny.mmedge"])
def bundle(request, tmp_path, tiny):
    path = tmp_path / request.param
    write(path, tiny)
    return path


def write(path, tiny, **options):
    Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples, **options).close()


def contents(path):
    """Bytes of every file of a bundle but its signature, by name."""
    with Bundle.open(path) as opened:
        names = [*opened.manifest.files, "manifest.json", "manifest.sha256"]
        return {name: bytes(opened._archive.read(name)) for name in names}


def test_a_signature_changes_no_other_byte_and_verifies(bundle, keys):
    before, mode = contents(bundle), stat.S_IMODE(bundle.stat().st_mode)
    got = sign_bundle(bundle, keys["old"].private, version=3, expires=NOW + 100)
    assert got.release == Release(hashlib.sha256(before["manifest.json"]).hexdigest(), 3, NOW,
                                  NOW + 100)  # fmt: skip
    assert contents(bundle) == before
    assert stat.S_IMODE(bundle.stat().st_mode) == mode
    assert not [path for path in bundle.parent.iterdir() if path != bundle]
    with Bundle.open(bundle, trusted_keys=[keys["old"].public], lowest_version=3) as opened:
        assert opened.signature == got
        assert opened.signature.statuses() == {keys["old"].key_id: "verified"}
        opened.verify()
    with Bundle.open(bundle) as opened:
        assert opened.signature.verified_by == ()
        assert opened.signature.statuses() == {keys["old"].key_id: "not checked: no key was given"}


def test_a_second_key_joins_and_keeps_the_first(bundle, keys, clock):
    first = sign_bundle(bundle, keys["old"].private, version=3, expires=NOW + 100)
    clock["now"] = NOW + 50
    both = sign_bundle(bundle, keys["new"].private)
    assert both.release == first.release
    assert both.key_ids == (keys["old"].key_id, keys["new"].key_id)
    for key in keys.values():
        Bundle.open(bundle, trusted_keys=[key.public], lowest_version=3).close()
    # The same asked for by name is no new statement, and to sign twice changes nothing.
    assert sign_bundle(bundle, keys["old"].private, version=3, expires=NOW + 100).key_ids == (
        both.key_ids
    )


@pytest.mark.parametrize("changes", [{"version": 4}, {"expires": NOW + 101}, {"expires": "never"}])
def test_another_statement_drops_signatures_and_says_so(bundle, keys, clock, changes):
    sign_bundle(bundle, keys["old"].private, version=3, expires=NOW + 100)
    clock["now"] = NOW + 7
    with pytest.warns(UserWarning, match=keys["old"].key_id):
        got = sign_bundle(bundle, keys["new"].private, **changes)
    expected = {"version": 3, "expires": NOW + 100, **changes}
    assert got.release.version == expected["version"]
    assert got.release.expires == (None if changes == {"expires": "never"} else expected["expires"])
    assert got.release.signed == NOW + 7
    assert got.key_ids == (keys["new"].key_id,)
    with pytest.raises(SignatureError, match="no signature by a trusted key"):
        Bundle.open(bundle, trusted_keys=[keys["old"].public])


def test_the_own_signature_is_made_anew_without_a_word(bundle, keys, recwarn):
    sign_bundle(bundle, keys["old"].private, version=3)
    sign_bundle(bundle, keys["old"].private, version=4)
    assert not recwarn.list
    Bundle.open(bundle, trusted_keys=[keys["old"].public], lowest_version=4).close()


def test_a_lower_version_is_refused_unless_asked_for(bundle, keys):
    sign_bundle(bundle, keys["old"].private, version=3)
    with pytest.raises(SignatureError, match="signed before as version 3, and this is 2"):
        sign_bundle(bundle, keys["old"].private, version=2)
    got = sign_bundle(bundle, keys["old"].private, version=2, allow_lower_version=True)
    assert got.release.version == 2


def test_an_expired_release_is_not_signed(bundle, keys, clock):
    with pytest.raises(SignatureError, match="would be expired at once"):
        sign_bundle(bundle, keys["old"].private, expires=NOW)
    sign_bundle(bundle, keys["old"].private, expires=NOW + 1)
    clock["now"] = NOW + 1
    with pytest.raises(SignatureError, match="would be expired at once"):
        sign_bundle(bundle, keys["new"].private)
    assert "manifest.sig" in Bundle.open(bundle)._archive.sizes


def test_an_altered_bundle_is_not_signed(tmp_path, tiny, keys):
    write(tmp_path / "tiny", tiny)
    (tmp_path / "tiny/assets/labels.json").write_text("[]")
    with pytest.raises(mmedge.BundleError, match=r"labels.json is altered"):
        sign_bundle(tmp_path / "tiny", keys["old"].private)
    assert not (tmp_path / "tiny/manifest.sig").exists()


def test_a_bundle_that_changes_meanwhile_is_not_signed(bundle, keys, tiny):
    real = sign.write_signature

    def replaced(archive, data):
        write(bundle, tiny, overwrite=True)
        real(archive, data)

    with (
        mock.patch.object(sign, "write_signature", replaced),
        pytest.raises(mmedge.BundleError, match="changed since the bundle was opened"),
    ):
        sign_bundle(bundle, keys["old"].private)
    assert Bundle.open(bundle).signature is None


def test_a_folder_that_may_not_be_written_to_says_so(tmp_path, tiny, keys):
    write(tmp_path / "tiny", tiny)
    with (
        mock.patch.object(os, "fsync", side_effect=OSError(28, "No space left on device")),
        pytest.raises(mmedge.BundleError, match="the signature cannot be written: .*No space"),
    ):
        sign_bundle(tmp_path / "tiny", keys["old"].private)
    assert Bundle.open(tmp_path / "tiny").signature is None
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_the_seventeenth_key_finds_no_room(tmp_path, bundle, keys):
    signatures = {hashlib.sha256(bytes([n])).hexdigest(): bytes(64) for n in range(16)}
    sign_bundle(bundle, keys["old"].private)
    with Bundle.open(bundle) as opened:
        payload = release_to_bytes(opened.signature.release)
        sign.write_signature(opened._archive, envelope_to_bytes(Envelope(payload, signatures)))
    with pytest.raises(SignatureError, match="16 keys signed this release already"):
        sign_bundle(bundle, keys["old"].private)


def test_a_signature_made_elsewhere_is_added_once_it_verifies(bundle, keys, clock, tmp_path):
    payload = sign.release_payload(bundle, version=9, expires=NOW + 1000)
    assert Bundle.open(bundle).signature is None
    (tmp_path / "payload").write_bytes(payload)
    subprocess.run(
        ["openssl", "pkeyutl", "-sign", "-inkey", keys["new"].private, "-rawin",
         "-in", tmp_path / "payload", "-out", tmp_path / "raw"],
        check=True,
    )  # fmt: skip
    raw = (tmp_path / "raw").read_bytes()
    clock["now"] = NOW + 60  # the signer took a minute: the statement stays
    for wrong, reason in (
        (raw[:-1], "64 bytes, got 63"),
        (raw[::-1], "is not one of what was to be signed"),
    ):
        with pytest.raises(SignatureError, match=reason):
            sign.add_signature(bundle, payload, wrong, keys["new"].public)
    with pytest.raises(SignatureError, match="is not one of what was to be signed"):
        sign.add_signature(bundle, payload, raw, keys["old"].public)
    with pytest.raises(SignatureError, match="byte for byte"):
        sign.add_signature(bundle, payload + b"\n", raw, keys["new"].public)
    assert Bundle.open(bundle).signature is None
    got = sign.add_signature(bundle, payload, raw, keys["new"].public)
    assert (got.release.version, got.release.signed) == (9, NOW)
    sign_bundle(bundle, keys["old"].private)
    for key in keys.values():
        Bundle.open(bundle, trusted_keys=[key.public], lowest_version=9).close()


def test_what_another_bundle_was_signed_as_is_not_added(bundle, keys, tmp_path, sums):
    shutil.copy(sums, tmp_path / "other.mmedge")
    payload = sign.release_payload(tmp_path / "other.mmedge")
    private = sign.read_private_key(keys["old"].private, None)
    with pytest.raises(SignatureError, match="that of this bundle is"):
        sign.add_signature(bundle, payload, private.sign(payload), keys["old"].public)


def test_keys_are_written_once_and_the_private_one_is_private(tmp_path):
    name = tmp_path / "release"
    old_mask = os.umask(0)
    try:
        files = generate_key(name)
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE(files.private.stat().st_mode) == 0o600
    before = files.private.read_bytes(), files.public.read_bytes()
    with pytest.raises(SignatureError, match="already exists"):
        generate_key(name)
    files.private.unlink()
    with pytest.raises(SignatureError, match="already exists"):
        generate_key(name)
    assert not files.private.exists()
    assert files.public.read_bytes() == before[1]
    raw = signature.read_public_key(files.public)
    assert files.key_id == hashlib.sha256(raw).hexdigest()
    with pytest.raises(ValueError, match="passphrase is empty"):
        generate_key(tmp_path / "other", passphrase="")
    with pytest.raises(SignatureError, match="the key cannot be written"):
        generate_key(tmp_path / "no-folder" / "a")


def test_openssl_reads_the_keys(keys):
    text = subprocess.run(
        ["openssl", "pkey", "-in", keys["old"].private, "-pubout"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert text == keys["old"].public.read_text()


def test_a_passphrase_is_asked_for_and_checked(bundle, tmp_path):
    files = generate_key(tmp_path / "locked", passphrase="horse")
    assert is_encrypted(files.private)
    with pytest.raises(SignatureError, match="give the passphrase"):
        sign_bundle(bundle, files.private)
    with pytest.raises(SignatureError, match="of another passphrase"):
        sign_bundle(bundle, files.private, passphrase="cow")
    sign_bundle(bundle, files.private, passphrase="horse")
    Bundle.open(bundle, trusted_keys=[files.public]).close()


def test_what_is_no_private_key_is_refused(bundle, keys, tmp_path):
    (tmp_path / "text").write_text("hello")
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-out", tmp_path / "ec"],
        check=True, capture_output=True,
    )  # fmt: skip
    for path, reason in (
        (tmp_path / "none", "cannot be read"),
        (tmp_path / "text", "got something else"),
        (keys["old"].public, "got something else"),
        (tmp_path / "ec", "expected an Ed25519 private key, got"),
    ):
        with pytest.raises(SignatureError, match=reason):
            sign_bundle(bundle, path)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"trusted_keys": []}, ValueError),
        ({"trusted_keys": "release.pub"}, TypeError),
        ({"lowest_version": 3}, ValueError),
        ({"trusted_keys": None, "lowest_version": 0}, ValueError),
    ],
)
def test_arguments_that_would_check_nothing_are_refused(bundle, arguments, error):
    for opened in (Bundle.open, mmedge.load):
        with pytest.raises(error):
            opened(bundle, **arguments)


@pytest.mark.parametrize("version", [-1, MAX_NUMBER + 1, 1.0, True, "1"])
def test_versions_out_of_range_are_refused(bundle, keys, version):
    with pytest.raises(ValueError, match="whole number"):
        sign_bundle(bundle, keys["old"].private, version=version)
    with pytest.raises(ValueError, match="whole number"):
        Bundle.open(bundle, trusted_keys=[keys["old"].public], lowest_version=version)


def test_a_pipeline_is_loaded_with_keys_here_and_in_a_child(bundle, keys):
    sign_bundle(bundle, keys["old"].private, version=3)
    trusted = [keys["new"].public, keys["old"].public.read_bytes()]
    with mmedge.load(bundle, trusted_keys=trusted, lowest_version=3) as pipe:
        assert pipe.bundle.signature.verified_by == (keys["old"].key_id,)
    with pytest.raises(SignatureError, match="version 3, expected 4"):
        mmedge.load(bundle, trusted_keys=trusted, lowest_version=4)
    with (
        Bundle.open(bundle, trusted_keys=trusted) as opened,
        pytest.raises(ValueError, match="open already"),
    ):
        mmedge.load(opened, trusted_keys=trusted)


def test_a_child_gets_the_keys(bundle, keys):
    settings = []

    def load_in_child(keywords):
        settings.append(keywords)
        return Bundle.open(bundle).digest

    sign_bundle(bundle, keys["old"].private, version=3)
    trusted = [keys["old"].public]
    expected = {"trusted_keys": [keys["old"].public.read_text()], "lowest_version": 3}
    with mock.patch("mmedge.execution.isolation.load_in_child", load_in_child):
        mmedge.load(bundle, trusted_keys=trusted, lowest_version=3, isolate=True).close()
        with Bundle.open(bundle, trusted_keys=trusted, lowest_version=3) as opened:
            mmedge.load(opened, isolate=True).close()
        mmedge.load(bundle, isolate=True).close()
    for keywords in settings[:2]:
        assert keywords.items() >= expected.items()
    assert "trusted_keys" not in settings[2]


def test_a_child_refuses_what_the_keys_do_not_allow(sums, tmp_path, keys):
    path = tmp_path / "sums.mmedge"
    shutil.copy(sums, path)
    with pytest.raises(SignatureError, match="the bundle is not signed"):
        mmedge.load(path, trusted_keys=[keys["old"].public], isolate=True)


def test_who_gives_no_key_imports_nothing_for_it(tmp_path, tiny, keys):
    for name in ("unsigned", "signed"):
        write(tmp_path / name, tiny)
    sign_bundle(tmp_path / "signed", keys["old"].private)
    program = (
        "import sys, mmedge\n"
        "names = ('mmedge.bundle.signature', 'cryptography')\n"
        "for path in sys.argv[1:]:\n"
        "    mmedge.Bundle.open(path)\n"
        "    print([name in sys.modules for name in names])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "unsigned", tmp_path / "signed"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["[False, False]", "[True, False]"]


def test_a_copy_keeps_the_signature_in_either_form(bundle, keys, tmp_path):
    sign_bundle(bundle, keys["old"].private, version=3)
    for name in ("copy", "copy.mmedge"):
        with Bundle.open(bundle) as opened:
            opened.copy(tmp_path / "to" / name).close()
        with Bundle.open(tmp_path / "to" / name, trusted_keys=[keys["old"].public]) as copy:
            assert copy.signature.release.version == 3


def test_a_rewritten_bundle_loses_the_signature_and_says_so(bundle, keys):
    sign_bundle(bundle, keys["old"].private, version=3)
    opened = Bundle.open(bundle)
    (variant,) = opened.manifest.variants
    with pytest.warns(UserWarning, match="its signature was removed"):
        rewritten = opened.with_variant(replace(variant, precision="fp16"), {})
    assert rewritten.signature is None
    rewritten.close()
    Bundle.open(bundle).close()
    with pytest.raises(SignatureError, match="the bundle is not signed"):
        Bundle.open(bundle, trusted_keys=[keys["old"].public])


def test_a_rewrite_that_changes_nothing_keeps_it(bundle, keys, recwarn):
    sign_bundle(bundle, keys["old"].private, version=3)
    opened = Bundle.open(bundle)
    (variant,) = opened.manifest.variants
    opened.with_variant(variant, {}).close()
    assert not recwarn.list
    Bundle.open(bundle, trusted_keys=[keys["old"].public]).close()


def test_without_the_package_all_but_signatures_works(bundle, keys):
    sign_bundle(bundle, keys["old"].private)
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "import mmedge\n"
        "path, public, private = sys.argv[1:]\n"
        "print(mmedge.Bundle.open(path).signature.verified_by)\n"
        "for call in (lambda: mmedge.load(path, trusted_keys=[public]),\n"
        "             lambda: mmedge.sign_bundle(path, private),\n"
        "             lambda: mmedge.generate_key('x')):\n"
        "    try:\n"
        "        call()\n"
        "    except mmedge.SignatureError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, bundle, keys["old"].public, keys["old"].private],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    words = "signatures need the cryptography package: pip install 'mmedge[sign]'"
    assert done.stdout.splitlines() == ["()", words, words, words]


def test_of_two_processes_that_sign_at_once_one_is_told(bundle, keys):
    real = sign.write_signature

    def later(archive, data):
        with mock.patch.object(sign, "write_signature", real):
            sign_bundle(bundle, keys["new"].private)
        real(archive, data)

    with (
        mock.patch.object(sign, "write_signature", later),
        pytest.raises(mmedge.BundleError, match="since the bundle was opened"),
    ):
        sign_bundle(bundle, keys["old"].private)
    Bundle.open(bundle, trusted_keys=[keys["new"].public]).close()


@pytest.mark.parametrize("zipped", [False, True])
def test_a_bundle_of_an_old_schema_is_signed_and_its_copy_is_not(tmp_path, tiny, keys, zipped):
    write(tmp_path / "new", tiny)
    files = read_tiny(tmp_path / "new")
    tree = json.loads(files["manifest.json"])
    for loop in tree["loops"]:
        del loop["whole_prompt"]
    old = json.dumps(tree | {"schema_version": 5}).encode()
    path = tmp_path / f"old{'.mmedge' * zipped}"
    write_signed(path, files, signature=None, manifest=old, zipped=zipped)
    sign_bundle(path, keys["old"].private, version=2)
    with Bundle.open(path, trusted_keys=[keys["old"].public]) as opened:
        assert bytes(opened._archive.read("manifest.json")) == old
        with pytest.warns(UserWarning, match="its signature was removed"):
            copy = opened.copy(tmp_path / "copy.mmedge")
        assert copy.signature is None
        copy.close()
        assert opened.copy(tmp_path / "unsigned.mmedge", signed=False).signature is None


NUMBERS = st.integers(0, MAX_NUMBER)


@given(
    st.binary(max_size=300),
    st.dictionaries(
        st.binary(min_size=32, max_size=32).map(bytes.hex),
        st.binary(min_size=64, max_size=64),
        min_size=1,
        max_size=16,
    ),
)
def test_an_envelope_is_read_as_it_was_written(payload, signatures):
    data = envelope_to_bytes(Envelope(payload, signatures))
    got = envelope_from_bytes(data, source="x")
    assert got.payload == payload
    assert list(got.signatures.items()) == list(signatures.items())
    assert payload_from_pae(pae(b"{" + payload), source="x") == b"{" + payload


@given(NUMBERS, NUMBERS, st.none() | NUMBERS)
def test_a_statement_is_read_as_it_was_written(version, signed, expires):
    release = Release("ab" * 32, version, signed, expires)
    data = release_to_bytes(release)
    if expires is not None and expires <= signed:
        with pytest.raises(SignatureError, match="expected a time after signed"):
            release_from_bytes(data, source="x")
    else:
        assert release_from_bytes(data, source="x") == release


@given(st.binary(max_size=600))
def test_bytes_that_are_no_envelope_are_refused(data):
    with pytest.raises(SignatureError):
        envelope_from_bytes(data, source="x")


def test_points_of_small_order_are_those_of_the_curve():
    """Eight times each is the neutral point, by the formulas of RFC 8032, 5.1.4."""
    p = (1 << 255) - 19
    d = -121665 * pow(121666, -1, p) % p

    def x_of(y):
        square = (y * y - 1) * pow(d * y * y + 1, -1, p) % p
        root = pow(square, (p + 3) // 8, p)
        if root * root % p != square:
            root = root * pow(2, (p - 1) // 4, p) % p
        assert root * root % p == square
        return root

    def double(x, y):
        k = d * x * x * y * y % p
        return 2 * x * y * pow(1 + k, -1, p) % p, (y * y + x * x) * pow(1 - k, -1, p) % p

    assert len(signature._SMALL_ORDER) == 7
    orders = []
    for y in signature._SMALL_ORDER:
        point, order = (x_of(y % p), y % p), 1
        while point != (0, 1):
            point, order = double(*point), 2 * order
        orders.append(order)
    assert sorted(orders) == [1, 1, 2, 4, 4, 8, 8]


def test_times_are_shown_as_people_read_them():
    assert signature.show_time(NOW) == "2026-09-21 14:13:20 UTC"
    assert signature.show_time(MAX_NUMBER) == f"{MAX_NUMBER} s after 1970"


def test_no_bundle_lists_its_signature(tmp_path, tiny):
    with pytest.raises(mmedge.BundleError, match=r"manifest.sig is written by mmedge"):
        Bundle.write(tmp_path / "a", tiny.manifest, {**tiny.files, "manifest.sig": b""})
    manifest = replace(tiny.manifest, files={**tiny.manifest.files, "manifest.sig": "0" * 64})
    with pytest.raises(mmedge.BundleError, match="every file but the manifest, its digest and"):
        manifest_to_json(manifest)
