"""libmmedge as an application meets it: installed, found, linked, run; memory that calls take."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from native_builds import ROOT
from shared import zoo_bundle

import mmedge
from mmedge.bundle import Bundle
from mmedge.native.runtime import installed_onnxruntime, installed_openvino

pytestmark = pytest.mark.native_build

CASES = ROOT / "conformance" / "cases" / "bundles"


def run(*command, **options):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)


def check(*command, **options):
    done = run(*command, **options)
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def vqa(tmp_path_factory):
    return zoo_bundle(tmp_path_factory, "vqa-attention")


def test_a_call_allocates_frees_and_locks_nothing(installed, vqa):
    out = check(installed / "pipeline_allocations", vqa, installed_onnxruntime(), "cut", 1000)
    good, *ours, engine = map(int, out.split())
    # 1000 times: new or old content, an absent modality, a call that is refused.
    assert (good, ours) == (1, [0, 0, 0])
    assert engine > 0


@pytest.mark.parametrize(
    ("bundle", "variant"),
    [
        ("completer", "ort-fp32-cpu"),
        ("captioner", "ort-fp32-cpu"),
        ("speller", "ort-fp32-cpu"),
        ("decoder", "ort-fp32-cpu"),
        ("decoder", "ort-fp32-cpu-in_place"),
        ("painter", "ort-fp32-cpu"),
        ("state", "ort-fp32-cpu"),
    ],
)
def test_loops_and_states_allocate_free_and_lock_nothing(installed, bundle, variant):
    path, library = CASES / f"{bundle}.mmedge", installed_onnxruntime()
    out = check(installed / "pipeline_allocations", path, library, "whole", 50, variant)
    good, *ours, engine = map(int, out.split())
    # Loops to their end and cancelled, greedy and drawn, alone and with a state that is reset.
    assert (good, ours) == (1, [0, 0, 0])
    assert engine > 0


def test_neither_does_one_of_openvino(installed, tmp_path):
    """Forms of fixed and of any shapes; what stages hand on lies in memory that is used again."""
    pytest.importorskip("openvino", reason="pip install 'mmedge[openvino]'")
    path = shutil.copy(CASES / "both.mmedge", tmp_path / "both.mmedge")
    with Bundle.open(path) as bundle:
        base = bundle.manifest.variants[0]
        bundle.with_variant(replace(base, backend="openvino"), {}).close()
    for longest in (4, 7):  # golden samples have 4
        words = (installed_onnxruntime(), "cut", 300, "openvino-fp32-cpu", installed_openvino())
        out = check(installed / "pipeline_allocations", path, *words, longest)
        good, *ours, engine = map(int, out.split())
        assert (good, ours) == (1, [0, 0, 0])
        assert engine > 0


@pytest.fixture(scope="module")
def examples(installed, tmp_path_factory):
    """The programs of examples/cpp, built against what is installed."""
    build = tmp_path_factory.mktemp("examples")
    check(
        *("cmake", "-S", ROOT / "examples/cpp", "-B", build),
        *(f"-DCMAKE_PREFIX_PATH={installed / 'sdk'}", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"),
    )
    check("cmake", "--build", build)
    return build


def test_an_example_is_built_against_it_and_gives_what_python_gives(examples, vqa, tmp_path):
    rng = np.random.default_rng(0)
    inputs = {
        "image": rng.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8),
        "audio": rng.uniform(-1, 1, (1, 2000)).astype(np.float32),
    }
    for name, array in inputs.items():
        (tmp_path / name).write_bytes(array.tobytes())
    words = [f"{name}={tmp_path / name}" for name in inputs]
    # ONNX Runtime under the name that a system gives it.
    (library,) = Path(installed_onnxruntime()).glob("libonnxruntime.so.1.*")
    (tmp_path / "libonnxruntime.so.1").symlink_to(library)
    environment = {"LD_LIBRARY_PATH": str(tmp_path)}
    out = check(examples / "run_bundle", vqa, *words, env=environment)
    (line,) = (line for line in out.splitlines() if line.startswith("answer:"))
    values = [float(word) for word in line.split("(")[0].split()[1:]]
    with mmedge.load(vqa) as pipe:
        expected = pipe(**inputs)["answer"][0]
    assert np.allclose(values, expected, rtol=1e-4, atol=1e-4)


def test_a_robots_sensors_push_at_their_rates_and_one_fails(examples):
    options = ("--fails", "voice", "--seconds", "3", "--deadline-ms", "200")
    out = check(
        *(examples / "multi_rate", CASES / "both.mmedge", "camera=20", "voice=40", "state=100"),
        *(*options, "--onnxruntime", installed_onnxruntime()),
    )
    check_drive(out)
    refused = run(examples / "multi_rate", CASES / "both.mmedge", "lidar=10")
    assert refused.returncode != 0


def check_drive(out):
    """What the program says: the sensor goes and comes back, and every sample is somewhere."""
    lines = re.findall(r"until +([\d.]+) s: +(\d+) results, +(\d+) in time; oldest:(.*)", out)
    assert len(lines) >= 5, out
    assert sum(int(results) for _, results, _, _ in lines) > 20, out
    assert any("voice" in ages and "state" in ages for *_, ages in lines), out
    changes = re.findall(r"([\d.]+) s: voice is (.*)", out)
    gone = [float(t) for t, what in changes if what.startswith("absent: too_old")]
    back = [float(t) for t, what in changes if what == "used"]
    assert any(1.0 < t < 2.0 for t in gone), out
    assert any(2.0 <= t < 3.0 for t in back), out
    pushed = dict(re.findall(r"(\w+): (\d+) pushed", out))
    assert pushed["camera"] == "60"
    assert pushed["state"] == "300"
    assert 75 <= int(pushed["voice"]) <= 85
    (ended,) = re.findall(r"(\d+) triggers, (\d+) results, (\d+) with outputs, (\d+) later", out)
    triggers, results, with_outputs, _ = map(int, ended)
    assert triggers == 60
    assert with_outputs <= results <= triggers


def test_a_c_program_is_compiled_by_pkg_config(installed, tmp_path):
    source = tmp_path / "digest.c"
    source.write_text(
        "#include <mmedge/mmedge.h>\n#include <stdio.h>\n"
        "int main(int n, char** a) {\n  mmedge_bundle* b = NULL;\n"
        "  if (mmedge_bundle_open(a[n - 1], &b) != MMEDGE_OK)\n"
        "    return puts(mmedge_last_error()), 1;\n"
        "  puts(mmedge_bundle_digest(b));\n  mmedge_bundle_close(b);\n  return 0;\n}\n"
    )
    environment = {"PKG_CONFIG_PATH": str(installed / "sdk/lib/pkgconfig"), "PATH": "/usr/bin:/bin"}
    flags = (installed / "sdk/lib/pkgconfig/mmedge.pc").read_text()
    assert "@" not in flags
    words = ("--cflags", "--libs", "mmedge")
    options = check("pkg-config", *words, env=environment).split()
    program = tmp_path / "digest"
    check("cc", "-std=c99", "-Wall", "-Werror", "-pedantic", source, "-o", program, *options)
    environment = {"LD_LIBRARY_PATH": str(installed / "sdk/lib")}
    with mmedge.Bundle.open(CASES / "tiny.mmedge") as bundle:
        assert check(program, CASES / "tiny.mmedge", env=environment) == f"{bundle.digest}\n"
    refused = run(program, CASES / "nothing", env=environment)
    assert refused.returncode == 1
    assert "nothing" in refused.stdout


def test_verify_says_by_its_exit_code_whether_a_bundle_works_here(installed, tmp_path):
    verify = installed / "sdk/bin/mmedge-verify"
    options = ("--onnxruntime", installed_onnxruntime(), "--threads", 1)
    out = check(verify, *options, "--plan", "cut", CASES / "both.mmedge")
    assert "plan cut (it was asked for)" in out
    assert out.endswith("passes\n")
    off = run(verify, *options, CASES / "off.mmedge")
    assert off.returncode == 1
    assert off.stdout.endswith("FAILS\n")
    assert "'score' of stage" in off.stderr
    altered = tmp_path / "altered.mmedge"
    altered.write_bytes((CASES / "tiny.mmedge").read_bytes().replace(b"onnx", b"omnx"))
    refused = run(verify, "--open-only", altered)
    assert refused.returncode == 1
    assert str(altered) in refused.stderr
    assert run(verify, "--onnxruntime", tmp_path, CASES / "tiny.mmedge").returncode == 1
    assert "unsigned; not checked: no key was given" in check(
        verify, "--open-only", CASES / "tiny.mmedge"
    )
    assert run(verify, "--colour", CASES / "tiny.mmedge").returncode == 2
    assert run(verify).returncode == 2


def test_verify_says_who_signed_a_bundle(installed, tmp_path):
    verify = installed / "sdk/bin/mmedge-verify"
    signed = CASES.parent / "signatures" / "signed.mmedge"
    content = json.loads((signed.parent / "signatures.json").read_text())
    keys = {}
    for name in ("a", "b", "c", "nothing"):
        keys[name] = tmp_path / f"{name}.pub"
        keys[name].write_text(content["keys"][name])
    one, other = content["key_ids"]["a"], content["key_ids"]["b"]
    out = check(verify, "--open-only", signed)
    assert f"{one}: not checked: no key was given" in out
    out = check(verify, "--open-only", "--key", keys["a"], "--lowest-version", 7, signed)
    assert "release  version 7, signed 2026-09-21 14:13:20 UTC, expires never" in out
    assert f"{one}: verified" in out
    assert f"{other}: not checked: not a trusted key" in out
    both = check(verify, "--open-only", "--key", keys["c"], "--key", keys["b"], signed)
    assert f"{other}: verified" in both
    for words, text in (
        (("--key", keys["c"]), "no signature by a trusted key"),
        (("--key", keys["a"], "--lowest-version", 8), "expected 8 or higher"),
        (("--key", keys["nothing"]), "expected one Ed25519 public key"),
        (("--key", tmp_path / "none"), "cannot be read"),
        (("--lowest-version", 1), "without trusted keys"),
    ):
        done = run(verify, "--open-only", *words, signed)
        assert done.returncode == 1, words
        assert text in done.stderr
    unsigned = run(verify, "--open-only", "--key", keys["a"], CASES / "tiny.mmedge")
    assert "not signed" in unsigned.stderr
    assert run(verify, "--lowest-version", "x", signed).returncode == 2


def test_the_library_is_small_shows_its_own_names_and_runs_on_old_systems(installed):
    library = installed / "sdk/lib/libmmedge.so.0"
    assert library.stat().st_size <= 1_500_000
    symbols = check("objdump", "-T", library)
    own = {line.split()[-1] for line in symbols.splitlines() if ".text" in line}
    assert {"mmedge_bundle_open", "mmedge_pipeline_run"} <= own
    assert [name for name in own if not name.startswith("mmedge_")] == []
    versions = re.findall(r"\(?GLIBC_(\d+)\.(\d+)", symbols)
    assert max((int(a), int(b)) for a, b in versions) <= (2, 27)
    assert "GLIBCXX" not in symbols
