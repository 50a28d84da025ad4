"""``mmedge keygen`` and ``sign``, ``--key`` of other verbs, and what rewrites a signed bundle."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from datetime import UTC, datetime

import pytest

import mmedge
from mmedge import Bundle, generate_key
from mmedge.backends.registry import probe
from mmedge.bundle import signature as checks
from mmedge.bundle.device_cache import Measurement
from mmedge.cli.app import run

# The command line shows them.
pytestmark = pytest.mark.filterwarnings("default::UserWarning")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return {name: generate_key(folder / name) for name in ("a", "b")}


@pytest.fixture
def bundle(both, tmp_path):
    return shutil.copy(both, tmp_path / "robot.mmedge")


def call(capsys, *words, expect=0):
    assert run(list(map(str, words))) == expect
    return capsys.readouterr()


def data(capsys, *words, expect=0):
    return json.loads(call(capsys, *words, "--json", expect=expect).out)


def test_a_key_is_made_and_signs(capsys, tmp_path, bundle):
    got = data(capsys, "keygen", tmp_path / "release")
    private, public = tmp_path / "release.key", tmp_path / "release.pub"
    assert got == {
        "private": str(private), "public": str(public), "encrypted": False,
        "key_id": checks.key_id(checks.read_public_key(public)),
    }  # fmt: skip
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    said = call(capsys, "keygen", tmp_path / "release", expect=2).err
    assert "already exists" in said
    signed = data(capsys, "sign", bundle, "--key", private, "--version", 7)["signature"]
    assert (signed["version"], signed["expires"]) == (7, None)
    assert signed["keys"] == {got["key_id"]: "verified"}
    assert "key id" in call(capsys, "keygen", tmp_path / "next").out


def test_a_key_with_a_passphrase_asks_for_it(capsys, tmp_path, bundle, monkeypatch):
    asked = []

    def prompt(text, **options):
        asked.append((text, options["hide_input"]))
        return "horse"

    monkeypatch.setattr("typer.prompt", prompt)
    assert data(capsys, "keygen", tmp_path / "locked", "--passphrase")["encrypted"]
    data(capsys, "sign", bundle, "--key", tmp_path / "locked.key")
    assert asked == [("passphrase", True), (f"passphrase of {tmp_path / 'locked.key'}", True)]
    data(capsys, "inspect", bundle, "--key", tmp_path / "locked.pub")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("2199-12-31", datetime(2199, 12, 31, tzinfo=UTC)),
        ("2199-12-31T12:00:00", datetime(2199, 12, 31, 12, tzinfo=UTC)),
        ("2199-12-31T12:00:00Z", datetime(2199, 12, 31, 12, tzinfo=UTC)),
        ("2199-12-31T12:00:00+02:00", datetime(2199, 12, 31, 10, tzinfo=UTC)),
        ("never", None),
    ],
)
def test_dates_of_expiry(capsys, bundle, keys, words, expected):
    got = data(capsys, "sign", bundle, "--key", keys["a"].private, "--expires", words)
    assert got["signature"]["expires"] == (expected and int(expected.timestamp()))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--key is missing"),
        (("--key", "a.key", "--expires", "tomorrow"), "expected a date such as"),
        (("--key", "a.key", "--version", "-1"), "--version"),
        (("--print-payload", "--key", "a.key"), "--key says nothing with --print-payload"),
        (("--print-payload", "--json"), "--json says nothing with --print-payload"),
        (("--signature", "s", "--key", "a.pub"), "--signature needs --payload"),
        (("--payload", "p", "--key", "a.pub"), "--payload says nothing without --signature"),
        (("--signature", "s", "--payload", "p", "--key", "a.pub", "--version", "1"),
         "--version says nothing with --signature"),
    ],
)  # fmt: skip
def test_misuse_of_sign(capsys, bundle, words, said):
    assert said in call(capsys, "sign", bundle, *words, expect=2).err
    assert Bundle.open(bundle).signature is None


def test_a_signer_elsewhere(capsysbinary, bundle, keys, tmp_path):
    assert run(["sign", str(bundle), "--print-payload", "--version", "5"]) == 0
    payload = capsysbinary.readouterr().out
    (tmp_path / "payload").write_bytes(payload)
    subprocess.run(
        ["openssl", "pkeyutl", "-sign", "-inkey", keys["b"].private, "-rawin",
         "-in", tmp_path / "payload", "-out", tmp_path / "raw"],
        check=True,
    )  # fmt: skip
    assert Bundle.open(bundle).signature is None
    words = ["sign", bundle, "--payload", tmp_path / "payload", "--signature", tmp_path / "raw"]
    assert run([*map(str, words), "--key", str(keys["a"].public)]) == 1
    assert b"is not one of what was to be signed" in capsysbinary.readouterr().err
    assert run([*map(str, words), "--key", str(keys["b"].public)]) == 0
    Bundle.open(bundle, trusted_keys=[keys["b"].public], lowest_version=5).close()
    assert run([*map(str, words[:-1]), str(tmp_path / "none"), "--key", "k"]) == 1


def test_rotation_and_a_new_statement_are_told(capsys, bundle, keys):
    sign = ("sign", bundle, "--key")
    data(capsys, *sign, keys["a"].private, "--version", 3)
    both = data(capsys, *sign, keys["b"].private)["signature"]
    assert list(both["keys"]) == [keys["a"].key_id, keys["b"].key_id]
    said = call(capsys, *sign, keys["b"].private, "--version", 2, expect=1).err
    assert "signed before as version 3" in said
    said = call(capsys, *sign, keys["b"].private, "--version", 4).err
    assert f"warning: {bundle}: this is a new release statement" in said
    assert keys["a"].key_id in said
    call(capsys, *sign, keys["b"].private, "--version", 2, "--allow-lower-version")


def test_verbs_check_whose_bundle_it_is(capsys, bundle, keys, tmp_path):
    words = {
        "inspect": (), "verify": (), "tune": (),
        "bench": ("--calls", 3, "--warmup", 1, "--sessions", 1, "--no-profile"),
        "sweep": ("--calls", 6), "replay": ("--trigger", "camera", "--seconds", 0.1),
        "record": ("--from-samples", "-o", tmp_path / "recording"),
        "run": ("-i", "camera=none.npy"),
    }  # fmt: skip
    for verb, more in words.items():
        said = call(capsys, verb, bundle, *more, "--key", keys["a"].public, expect=1).err
        assert "SignatureError" in said, verb
        assert "is not signed, and it has to be by key" in said, verb
        said = call(capsys, verb, bundle, *more, "--lowest-version", 1, expect=2).err
        assert "--lowest-version says nothing without --key" in said, verb
    data(capsys, "sign", bundle, "--key", keys["a"].private, "--version", 3)
    for verb, more in words.items():
        options = ("--key", keys["a"].public, "--lowest-version", 4)
        said = call(capsys, verb, bundle, *more, *options, expect=1).err
        assert "version 3, expected 4 or higher" in said, verb
    assert not (tmp_path / "recording").exists()


def test_what_inspect_and_verify_show(capsys, bundle, keys):
    for verb in ("inspect", "verify"):
        assert data(capsys, verb, bundle)["signature"] is None
    assert "signature" in call(capsys, "inspect", bundle).out
    data(capsys, "sign", bundle, "--key", keys["a"].private, "--version", 3)
    data(capsys, "sign", bundle, "--key", keys["b"].private)
    ids = [keys["a"].key_id, keys["b"].key_id]
    for verb in ("inspect", "verify"):
        got = data(capsys, verb, bundle)["signature"]
        assert got["verified"] is False
        assert got["keys"] == dict.fromkeys(ids, "not checked: no key was given")
        got = data(capsys, verb, bundle, "--key", keys["b"].public)["signature"]
        assert got["verified"] is True
        assert list(got["keys"].values()) == ["not checked: not a trusted key", "verified"]
    told = data(capsys, "verify", bundle)["not_checked"]
    assert told[-2:] == [f"the signature by key {name}: no key was given" for name in ids]
    told = data(capsys, "verify", bundle, "--key", keys["a"].public)["not_checked"]
    assert told[-1] == f"the signature by key {ids[1]}: not a trusted key"
    assert "not checked: no key was given" in call(capsys, "inspect", bundle).out


def test_measuring_verbs_say_who_signed_before_they_begin(capsys, bundle, keys, monkeypatch):
    data(capsys, "sign", bundle, "--key", keys["a"].private, "--version", 3)

    def measure(*_arguments, **_options):
        raise mmedge.BackendError("no time for that")

    monkeypatch.setattr("mmedge.cli.bench.measure", measure)
    said = call(capsys, "bench", bundle, "--key", keys["a"].public, expect=1).err
    assert f"release 3, signature verified by {keys['a'].key_id}" in said
    assert "no time for that" in said


def test_a_signed_bundle_is_rewritten_by_name_alone(capsys, bundle, keys, tmp_path):
    data(capsys, "sign", bundle, "--key", keys["a"].private, "--version", 3)
    before = bundle.read_bytes()
    said = call(capsys, "remove", bundle, "ort-int8-cpu", expect=1).err
    assert "is signed, and what this verb writes" in said
    for words in (("build", bundle, "--backend", "openvino"), ("quantize", bundle)):
        assert "is signed, and what this verb writes" in call(capsys, *words, expect=1).err
    assert bundle.read_bytes() == before
    said = call(capsys, "remove", bundle, "ort-int8-cpu", "-o", tmp_path / "new.mmedge").err
    assert f"warning: {tmp_path / 'new.mmedge'} is not signed" in said
    assert bundle.read_bytes() == before
    assert Bundle.open(tmp_path / "new.mmedge").signature is None
    words = ("remove", bundle, "ort-int8-cpu", "--remove-signature")
    assert "says nothing with --output" in call(capsys, *words, "-o", "x", expect=2).err
    assert "its signature was removed" in call(capsys, *words).err
    assert Bundle.open(bundle).signature is None


def test_tune_leaves_a_signed_bundle_as_it_was(capsys, bundle, keys, monkeypatch):
    def measure(opened, **options):
        result = {"ort-fp32-cpu": Measurement(1.0, 1, "cut")}
        if options["in_place"]:
            return opened.with_measurements(result, probe()), result
        opened.keep_measurements(result, probe())
        return opened, result

    monkeypatch.setattr("mmedge.cli.tune.measure", measure)
    data(capsys, "sign", bundle, "--key", keys["a"].private, "--version", 3)
    before = bundle.read_bytes()
    data(capsys, "tune", bundle, "--key", keys["a"].public)
    assert bundle.read_bytes() == before
    said = call(capsys, "tune", bundle, "--in-place", expect=1).err
    assert "--remove-signature rewrites this one" in said
    said = call(capsys, "tune", bundle, "--remove-signature", expect=2).err
    assert "says nothing without --in-place" in said
    said = call(capsys, "tune", bundle, "--in-place", "--remove-signature").err
    assert "its signature was removed" in said
    assert Bundle.open(bundle).signature is None
