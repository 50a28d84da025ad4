"""Loading and running a bundle asks nothing of the network and leaves no file behind.

A library that phones home does so from native code, so nothing is patched: the system calls of a
process with an empty home, and where the kernel allows it without a network, are read from strace.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from mmedge.bundle import Bundle

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("strace") is None, reason="needs strace"
)

LOAD = """
import sys, time
import mmedge
with mmedge.load(sys.argv[1], backend=sys.argv[2]) as pipe:
    pipe.run(pipe.bundle.samples()[0].inputs)
    time.sleep(0.5)  # whatever a thread of a library does besides
"""


@pytest.fixture(scope="session")
def traceable(tmp_path_factory):
    """The command that traces: without a network where the kernel lets a user make a namespace."""
    strace = ["strace", "-f", "-qq", "-e", "trace=network,file"]
    for alone in (["unshare", "-rn"], []):
        command = [*alone, *strace, "-o", str(tmp_path_factory.mktemp("trace") / "t"), "true"]
        if (
            shutil.which(command[0])
            and subprocess.run(command, capture_output=True).returncode == 0
        ):
            return [*alone, *strace]
    pytest.skip("tracing is not allowed here")


def trace(traceable, tmp_path, program, *arguments, **settings):
    """(system calls, files left in an empty home and temporary folder) of a Python program."""
    home = tmp_path / "home"
    (home / "tmp").mkdir(parents=True)
    log = tmp_path / "calls"
    kept = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home / "tmp")}
    done = subprocess.run(
        [*traceable, "-o", str(log), sys.executable, "-B", "-c", program, *map(str, arguments)],
        env=kept | settings,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    left = [path.relative_to(home) for path in home.rglob("*") if path != home / "tmp"]
    return log.read_text(errors="replace").splitlines(), left


def suspicious(calls):
    """Sockets, look-ups of names, and files made anywhere but in /dev."""
    asked = re.compile(r"\b(socket|connect|send\w*)\(|/etc/(resolv\.conf|hosts|nsswitch\.conf)")
    written = re.compile(r"\b(creat|mkdir\w*|rename\w*|symlink\w*|link\w*)\(|O_CREAT")
    return [
        line
        for line in calls
        if " execve(" not in line  # whose arguments are the program
        and (asked.search(line) or (written.search(line) and '"/dev/' not in line))
    ]


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_a_load_opens_no_socket_and_leaves_no_file(traceable, tmp_path, tiny, backend):
    if backend == "openvino":
        pytest.importorskip("openvino")
    path = bundle_for(tiny, tmp_path / "b", backend)
    calls, left = trace(traceable, tmp_path, LOAD, path, backend)
    assert any("onnx/net.onnx" in line for line in calls)  # or nothing was traced
    assert left == []
    assert suspicious(calls) == []


def test_what_is_looked_for_would_be_seen(traceable, tmp_path):
    # Or a library that changes its ways, or a test that looks at the wrong place, would pass.
    program = (
        "import os, socket\n"
        "socket.socket().close()\n"
        "open(os.environ['HOME'] + '/deviceid', 'w').close()\n"
    )
    calls, left = trace(traceable, tmp_path, program)
    assert len(suspicious(calls)) == 2
    assert [str(path) for path in left] == ["deviceid"]


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0"), ("", "")])
def test_who_sets_the_variable_decides(given, expected):
    settings = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    if given is not None:
        settings["ORT_DISABLE_TELEMETRY"] = given
    for module in ("mmedge", "mmedge_export.targets.variants"):
        program = f"import os, {module}; print(os.environ['ORT_DISABLE_TELEMETRY'])"
        done = subprocess.run(
            [sys.executable, "-c", program], env=settings, capture_output=True, text=True
        )
        assert done.stdout.strip() == expected, done.stderr


def bundle_for(tiny, path, backend):
    variants = tuple(replace(variant, backend=backend) for variant in tiny.manifest.variants)
    manifest = replace(tiny.manifest, variants=variants)
    Bundle.write(path, manifest, tiny.files, samples=tiny.samples).close()
    return path
