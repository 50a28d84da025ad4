"""What every verb does alike: versions, words, errors, signals, pipes, and where results go."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import pytest

import mmedge
from mmedge.bundle import Bundle
from mmedge.spec import Tolerance, Variant

COMMAND = [sys.executable, "-m", "mmedge"]


def call(*words, expect=0, **options):
    done = subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, **options)
    assert done.returncode == expect, done.stderr + done.stdout
    assert "Traceback" not in done.stderr or "--debug" in words
    return done


@pytest.fixture
def two(pair, tmp_path):
    """``pair`` with a second variant that has a file of its own."""
    path = shutil.copy(pair, tmp_path / "two.mmedge")
    bundle = Bundle.open(path)
    first = bundle.manifest.variants[0]
    files = {**first.files, "ear": "onnx/other/ear.onnx"}
    variant = Variant("ort", "int8", "cpu", files, Tolerance(1e-5, 1e-6))
    content = bytes(bundle.read("onnx/ear.onnx"))
    bundle.with_variant(variant, {"onnx/other/ear.onnx": content}).close()
    return path


def test_the_version():
    assert call("--version").stdout == f"mmedge {mmedge.__version__}\n"


def test_short_help_on_every_verb():
    verbs = [line.split()[1] for line in call("-h").stdout.splitlines() if line.startswith("│ ")]
    verbs = [word for word in verbs if word.isalpha()]
    assert {"export", "quantize", "build", "tune", "remove", "record"} <= set(verbs)
    for verb in ("remove", "tune"):
        said = call(verb, "-h").stdout
        for option in ("--verbose", "--quiet", "--debug", "--output", "--json", "-h"):
            assert option in said


def test_quiet_and_verbose(pair, tmp_path):
    words = ("record", pair, "-o")
    assert "wrote" in call(*words, tmp_path / "a", "--from-samples").stderr
    assert call(*words, tmp_path / "b", "--from-samples", "-q").stderr == ""
    assert call("-q", *words, tmp_path / "c", "--from-samples").stderr == ""
    assert " s] wrote" in call(*words, tmp_path / "d", "--from-samples", "-v").stderr
    call(*words, tmp_path / "e", "-v", "-q", expect=2)


@pytest.mark.parametrize(
    ("words", "kind", "code"),
    [
        (("verify", "none"), "BundleError", 1),
        (("verify", "none", "--backend", "tensorflow"), "UsageError", 2),
        (("verify",), "UsageError", 2),
        (("nonsense",), "UsageError", 2),
        (("bench", "none", "--warmup", "x"), "UsageError", 2),
        (("bench", "none", "--interference", "cpu:x"), "UsageError", 2),
        (("bench", "none", "--rate", "inf"), "UsageError", 2),
        (("bench", "none", "--seconds", "inf"), "UsageError", 2),
        (("replay", "none", "--trigger", "nan"), "UsageError", 2),
        (("record", "none", "-o", "x", "--seconds", "inf"), "UsageError", 2),
        (("record", "none", "-o", "x", "--rate", "a=nan"), "UsageError", 2),
        (("run", "none", "-i", "a"), "UsageError", 2),
        (("compare", "a.json", "b.json"), "InputError", 1),
    ],
)
def test_an_error_is_one_json_object_under_json(words, kind, code):
    done = call(*words, "--json", expect=code)
    said = json.loads(done.stdout)["error"]
    assert (said["kind"], said["exit_code"]) == (kind, code)
    assert said["message"]
    assert said["message"] in done.stderr


@pytest.mark.parametrize(("verb", "distribution"), [("logs", "ray"), ("triton", "triton")])
def test_a_verb_of_another_distribution_says_what_to_install(verb, distribution):
    if find_spec(f"mmedge_{distribution}") is not None:
        pytest.skip(f"mmedge-{distribution} is installed")
    done = call("-q", verb, "none", expect=2)
    assert f"it comes with mmedge-{distribution}" in done.stderr
    assert f"pip install ./integrations/{distribution}" in done.stderr


def test_a_verb_imports_what_it_needs_and_no_other_verb(tmp_path):
    script = """
import sys
from mmedge.cli.app import run
code = run(sys.argv[1:])
print(sorted(name for name in sys.modules if name.startswith(("mmedge.cli.", "mmedge_export"))))
"""
    command = [sys.executable, "-c", script, "keygen", "robot"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    modules = done.stdout.splitlines()[-1]
    assert "mmedge.cli.keygen" in modules
    assert "mmedge.cli.bench" not in modules
    assert "mmedge_export" not in modules


def test_help_that_is_asked_for_before_a_verb_has_every_verb():
    said = call("-h", "verify").stdout
    for verb in ("bench", "export", "quantize", "run", "verify"):
        assert f" {verb} " in said


def test_why_no_variant_runs_is_in_the_json(pair):
    done = call("verify", pair, "--precision", "int3", "--json", expect=1)
    said = json.loads(done.stdout)["error"]
    assert said["kind"] == "NoVariantError"
    assert said["decisions"][0]["variant"] == "ort-fp32-cpu"


def test_a_traceback_only_when_asked_for(tmp_path):
    assert "Traceback" in call("verify", tmp_path / "none", "--debug", expect=1).stderr
    assert "Traceback" in call("--debug", "verify", tmp_path / "none", expect=1).stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell, tmp_path):
    env = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = call("--show-completion", shell, env=env)
    assert "_MMEDGE_COMPLETE" in done.stdout
    call("--install-completion", shell, env=env)
    assert any("MMEDGE_COMPLETE" in p.read_text() for p in tmp_path.rglob("*") if p.is_file())


def test_completion_offers_verbs_and_options():
    env = {**os.environ, "_MMEDGE_COMPLETE": "complete_bash", "COMP_WORDS": "mmedge ver"}
    assert "verify" in call(env={**env, "COMP_CWORD": "1"}).stdout
    env["COMP_WORDS"] = "mmedge tune b --out"
    assert "--output" in call(env={**env, "COMP_CWORD": "3"}).stdout


def test_a_folder_that_is_no_bundle(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / "my results.txt").write_text("dear")
    (tmp_path / "package.zip").write_bytes(b"PK\x03\x04 something")
    for path in (tmp_path, tmp_path / "my results.txt", tmp_path / "package.zip"):
        for verb in ("bench", "inspect", "tune"):
            said = call(verb, path, expect=1).stderr
            assert "is not a bundle" in said
            assert "remove" not in said
            assert "delete" not in said


@pytest.mark.parametrize("at", [0.05, 0.15, 0.4, 0.8, 1.5, 3.0])
def test_ctrl_c_at_any_moment(pair, tmp_path, at):
    """As a terminal sends it: to every process of the group."""
    bundle = shutil.copy(pair, tmp_path / "b.mmedge")
    before = bundle.read_bytes()
    process = subprocess.Popen(
        [*COMMAND, "tune", str(bundle)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started = time.monotonic()
    while not _main_runs(process.pid) and process.poll() is None:
        time.sleep(0.002)
    time.sleep(max(0.0, at - (time.monotonic() - started)))
    ended = process.poll() is not None
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    if not ended:
        assert process.returncode == 130, err + out
        assert bundle.read_bytes() == before
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["b.mmedge"]


def _main_runs(pid):
    """Whether Python has begun to import mmedge's own modules: SIGINT has a handler by then."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        caught = next(line for line in lines if line.startswith("SigCgt"))
    except (OSError, StopIteration):
        return True
    # SIGTERM is handled by mmedge alone, where Python handles SIGINT from its start.
    return bool(int(caught.split()[1], 16) & (1 << (signal.SIGTERM - 1)))


SWALLOWED = """
import os, signal, sys, time
from mmedge.cli.signals import stop

stop.watch()
try:
    try:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)
        except KeyboardInterrupt as error:  # as pybind11 does while a module is initialized
            raise ImportError("initialization failed") from error
    except ImportError:
        pass  # whoever can do without it goes on
    time.sleep(30)
except KeyboardInterrupt:
    time.sleep(0.5)  # what cleans up is not cut short
    stop.settled = True
    print("cleaned up")
    time.sleep(0.5)
    print("ended")
"""


def test_an_interruption_that_a_library_took_for_an_error_comes_once_more():
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "cleaned up\nended\n"), done.stderr
    assert time.monotonic() - start < 20


#: A command whose work is a function of this body.
WORK = """
import os, signal, sys, time
from mmedge import cli
import mmedge.cli.app

def work():
    {}

cli._run = work
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "work",
    [
        # As dataclasses and namedtuple make classes: Python takes a KeyboardInterrupt that leaves
        # it for one that nobody handles, and would end by SIGINT whatever was handled.
        "exec('os.kill(os.getpid(), {number}); len(str())')",
        # A library took it for an error.
        """try: exec('os.kill(os.getpid(), {number}); len(str())')
    except BaseException: pass
    time.sleep(30)""",
        # What the command ends by is no interruption.
        """try: os.kill(os.getpid(), {number})
    except BaseException: pass
    sys.exit(3)""",
    ],
    ids=["exec", "exec swallowed", "exit"],
)
def test_the_exit_code_tells_the_signal_wherever_it_came(work, number, tmp_path):
    (tmp_path / "command.py").write_text(WORK.format(work.format(number=int(number))))
    # With -m, Python looks at what was not handled before it ends.
    command = [sys.executable, "-m", "command"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 128 + number, done.stderr
    assert "Traceback" not in done.stderr


def test_a_signal_between_the_end_of_the_work_and_that_of_the_process_leaves_no_traceback():
    """It comes at each call that the command line makes once its work is done."""
    program = """
import os, signal, sys
from mmedge import cli

count = int(sys.argv[1])

def trace(frame, event, arg):
    global count
    if event == "call" and frame.f_code.co_name != "work":
        count -= 1
        if count == 0:
            sys.setprofile(None)
            os.kill(os.getpid(), signal.SIGTERM)

def work():
    sys.setprofile(trace)
    return 0

cli._run = work
cli.main()
"""
    codes = []
    for count in range(1, 8):
        command = [sys.executable, "-c", program, str(count)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.stderr == ""
        codes.append(done.returncode)
    # The work was done, so it is not undone: the process ends by the signal, or had ended.
    assert set(codes) <= {-signal.SIGTERM, 0}, codes
    assert codes[0] == -signal.SIGTERM


def test_sigterm_cleans_up_too(pair, tmp_path):
    output = tmp_path / "out.mmedge"
    process = subprocess.Popen(
        [*COMMAND, "tune", str(pair), "-o", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.iterdir()) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "ended by SIGTERM" in err
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_is_no_error(pair):
    command = f"{' '.join(COMMAND)} inspect {pair} --json | head -c 1 >/dev/null; echo $PIPESTATUS"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout in ("0\n", "141\n")
    assert done.stderr == ""
    closed = subprocess.Popen([*COMMAND, "-h"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    closed.stdout.close()
    assert closed.stderr.read() == b""
    assert closed.wait() == 141
    closed.stderr.close()


def test_a_full_disk_behind_stdout_is_told(pair):
    command = f"{' '.join(COMMAND)} inspect {pair} > /dev/full"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    # Nor where the error itself has no place.
    command = f"{' '.join(COMMAND)} run {pair} -i nose=a.npy --json > /dev/full"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.returncode == 1
    assert "InputError: --input 'nose': unknown" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(closed, pair):
    for words, code in (("--json", 0), ("", 0), ("--backend nose", 2)):
        command = f"{' '.join(COMMAND)} verify {pair} {words} {closed}"
        done = subprocess.run(command, shell=True, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr


def test_compare_makes_its_folder_with_the_reports_alone(pair, tmp_path):
    folder = tmp_path / "reports" / "of_both"
    call("compare", pair, pair, "-o", folder, "--precision", "int4", expect=1)
    assert not folder.parent.exists()
    done = call("compare", pair, pair, "-o", pair, expect=2)
    assert "is no folder" in done.stderr


def test_remove(two, tmp_path):
    out = tmp_path / "out"
    said = json.loads(call("remove", two, "ort-int8-cpu", "-o", out, "--json").stdout)
    assert said["variants"] == ["ort-fp32-cpu"]
    assert list(said["dropped_files_bytes"]) == ["onnx/other/ear.onnx"]
    with Bundle.open(two) as untouched, Bundle.open(out) as made:
        assert len(untouched.manifest.variants) == 2
        assert [variant.id for variant in made.manifest.variants] == ["ort-fp32-cpu"]
        assert "onnx/other/ear.onnx" not in made.manifest.files
    call("verify", out)
    done = call("remove", two, "ort-int8-cpu")
    assert f"rewrote {two} in its place" in done.stderr
    last = call("remove", two, "ort-fp32-cpu", expect=1)
    assert "its only variant" in last.stderr
    assert "it has ort-fp32-cpu" in call("remove", two, "ort-int8-cpu", expect=1).stderr


def test_removing_the_original_keeps_the_graphs_that_stages_name(two, tmp_path):
    call("remove", two, "ort-fp32-cpu")
    with Bundle.open(two) as bundle:
        assert "onnx/ear.onnx" in bundle.manifest.files


def test_output_of_a_verb_that_rewrites(two, tmp_path):
    out = tmp_path / "out.mmedge"
    before = two.read_bytes()
    call("remove", two, "ort-int8-cpu", "-o", out)
    assert "already exists" in call("remove", two, "ort-int8-cpu", "-o", out, expect=2).stderr
    call("remove", two, "ort-int8-cpu", "-o", out, "--overwrite")
    done = call("remove", two, "ort-int8-cpu", "-o", two, "--overwrite", expect=2)
    assert "is the bundle itself" in done.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("dear")
    call("remove", two, "ort-int8-cpu", "-o", tmp_path / "mine", "--overwrite", expect=1)
    assert (tmp_path / "mine" / "notes").read_text() == "dear"
    call("remove", two, "ort-int8-cpu", "-o", tmp_path / "none" / "x", expect=2)
    assert "without --output" in call("remove", two, "x", "--overwrite", expect=2).stderr
    assert two.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "out.mmedge", "two.mmedge"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_the_mode_of_a_bundle_stays(two, tmp_path, mode):
    two.chmod(mode)
    call("remove", two, "ort-int8-cpu", "-o", tmp_path / "copy.mmedge")
    assert stat.S_IMODE((tmp_path / "copy.mmedge").stat().st_mode) == mode
    call("remove", two, "ort-int8-cpu", "-o", tmp_path / "folder")
    assert stat.S_IMODE((tmp_path / "folder" / "manifest.json").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == mode | (mode & 0o444) >> 2
    call("remove", two, "ort-int8-cpu")
    assert stat.S_IMODE(two.stat().st_mode) == mode


def test_the_modes_of_a_folder_stay(two, tmp_path):
    folder = tmp_path / "folder"
    with Bundle.open(two) as bundle:
        bundle.copy(folder).close()
    folder.chmod(0o750)
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    call("remove", folder, "ort-int8-cpu")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert modes == {0o600}


def test_an_interruption_in_a_finalizer_is_not_lost():
    """Python drops what is raised there, and the work would go on."""
    program = (
        "import os, signal, time\n"
        "from mmedge.cli import stop\n"
        "stop.watch()\n"
        "class Last:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(0.01)\n"
        "last = Last()\n"
        "try:\n"
        "    del last\n"
        "    time.sleep(20)\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=15
    )
    assert (done.stdout, done.stderr) == ("stopped\n", "")


def test_a_report_says_when_and_by_what_it_was_made(pair, tmp_path):
    words = ("bench", pair, "--calls", 5, "--sessions", 1, "--warmup", 1, "--no-profile", "-o")
    said = json.loads(call(*words, tmp_path / "my report.json", "--json").stdout)
    made = datetime.fromisoformat(said["created"])
    assert abs((datetime.now(UTC) - made).total_seconds()) < 600
    assert shlex.split(said["command"]) == [
        "mmedge", *map(str, words), str(tmp_path / "my report.json"), "--json",
    ]  # fmt: skip
    assert mmedge.Report.from_json(tmp_path / "my report.json").command == said["command"]


def test_missed_deadlines_are_counted_once(pair):
    """A stream's own counter knows fresh results alone; the report counts all triggers."""
    words = ("replay", pair, "--trigger", "camera", "--seconds", "0.5", "--no-profile")
    said = json.loads(call(*words, "--deadline", "0.001", "--json").stdout)
    assert said["deadline"]["missed"] == said["results"]["deadline_misses"]
    assert said["deadline"]["missed"] > 0
    assert said["deadline"]["missed"] <= said["results"]["triggers"]
