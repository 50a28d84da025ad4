"""Recordings on real Ray: equal to local, also where workers are killed; refusals with a reason."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray
from logs import NAMES, STREAMING, files, record, tables

from mmedge import BackendError, InputError
from mmedge_ray import run_recordings

HALF = {"CPU": 0.5}


def test_six_recordings_are_bit_equal_to_local(cluster, logs, local, tmp_path):
    lines = []
    summary = run_recordings(
        STREAMING, logs, tmp_path / "out", trigger="camera", actors=2, resources=HALF,
        say=lines.append,
    )  # fmt: skip
    assert not summary.errors
    assert tuple(one.name for one in summary.outcomes) == NAMES
    assert {one.status for one in summary.outcomes} == {"done"}
    assert {one.attempts for one in summary.outcomes} == {1}
    assert 1 <= len({one.worker for one in summary.outcomes}) <= 2
    assert str(os.getpid()) not in {one.worker.split(":")[1] for one in summary.outcomes}
    assert len(lines) == 6
    remote, here = tables(tmp_path / "out"), tables(local)
    assert remote.keys() == here.keys()
    assert all(remote[name].equals(here[name]) for name in NAMES)
    # Once more: nothing is run.
    before = files(tmp_path / "out")
    again = run_recordings(
        STREAMING, logs, tmp_path / "out", trigger="camera", actors=2, resources=HALF
    )
    assert {(one.status, one.attempts) for one in again.outcomes} == {("finished", 0)}
    assert files(tmp_path / "out") == before


def attempts(output, name):
    """Processes that have begun a recording and not ended it."""
    path = output / f".{name}.parquet.attempts"
    try:
        return [int(line.rpartition(":")[2]) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return []


class Killer:
    """Kills the workers that begin a recording, each once it writes rows, the first ``most``."""

    def __init__(self, output, name, most):
        self._output, self._name, self._most = output, name, most
        self.killed = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._stop.is_set() and len(self.killed) < self._most:
            workers = attempts(self._output, self._name)
            parts = list(self._output.glob(f".{self._name}.parquet.*.part"))
            if len(workers) > len(self.killed) and parts:
                os.kill(workers[-1], signal.SIGKILL)
                self.killed.append(workers[-1])
            time.sleep(0.002)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Four short recordings, and one that takes seconds."""
    folder = tmp_path_factory.mktemp("long")
    for name in "abcd":
        record(folder / name, seconds=1.0)
    record(folder / "long", seconds=40.0)
    return folder


def test_a_worker_that_is_killed_is_replaced_and_results_are_the_same(cluster, long, tmp_path):
    run_recordings(STREAMING, long, tmp_path / "local", trigger="camera")
    with Killer(tmp_path / "out", "long", most=1) as killer:
        summary = run_recordings(
            STREAMING, long, tmp_path / "out", trigger="camera", actors=2, resources=HALF
        )
    assert len(killer.killed) == 1
    assert not summary.errors
    assert {one.name: one.attempts for one in summary.outcomes} == {
        "a": 1, "b": 1, "c": 1, "d": 1, "long": 2,
    }  # fmt: skip
    remote, here = tables(tmp_path / "out"), tables(tmp_path / "local")
    assert remote.keys() == here.keys()
    assert all(remote[name].equals(here[name]) for name in here)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"_run.json", *(f"{name}.parquet" for name in here)}


def test_a_recording_that_kills_each_worker_is_told_by_name(cluster, long, tmp_path):
    with Killer(tmp_path / "out", "long", most=99) as killer:
        summary = run_recordings(
            STREAMING, long, tmp_path / "out", trigger="camera", actors=1, resources=HALF,
            attempts=2,
        )  # fmt: skip
    assert len(killer.killed) == 2
    assert [name for name, _ in summary.errors] == ["long"]
    assert "2 workers began it and ended without a word" in summary.errors[0][1]
    assert str(killer.killed[0]) in summary.errors[0][1]
    assert summary.count("done") == 4
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "_run.json", "_errors.json", *(f"{name}.parquet" for name in "abcd"),
    }  # fmt: skip


def test_actors_that_this_machine_cannot_hold_are_refused(cluster, logs, tmp_path):
    with pytest.raises(InputError, match=r"3 actors with 1 CPU each .* there is 2 CPU in all"):
        run_recordings(STREAMING, logs, tmp_path / "a", trigger="camera", actors=3)
    with pytest.raises(InputError, match=r"there is 0 GPU in all"):
        run_recordings(
            STREAMING, logs, tmp_path / "a", trigger="camera", actors=1, resources={"GPU": 1}
        )


def test_actors_without_room_end_with_what_was_asked_and_what_is_there(cluster, logs, tmp_path):
    @ray.remote(num_cpus=1.5)
    class Other:
        def ready(self):
            return True

    other = Other.remote()
    assert ray.get(other.ready.remote())
    try:
        with pytest.raises(BackendError, match=r"2 actors with 0.5 CPU each found no room") as told:
            run_recordings(
                STREAMING, logs, tmp_path / "a", trigger="camera", actors=2, resources=HALF,
                placement_timeout_s=1.0,
            )  # fmt: skip
        assert "The cluster has 2 CPU" in str(told.value)
    finally:
        ray.kill(other)


def test_actors_that_hold_all_cpus_do_not_hang(cluster, logs, local, tmp_path):
    summary = run_recordings(STREAMING, logs, tmp_path / "out", trigger="camera", actors=2)
    assert not summary.errors
    assert all(table.equals(tables(local)[n]) for n, table in tables(tmp_path / "out").items())


#: 127.0.0.1 as /proc/net/tcp6 writes it.
LOOPBACK = "0000000000000000FFFF00000100007F"


def addresses(root):
    """Addresses on which a process and its descendants listen, as IPv6."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            number = int(path.read_text().rpartition(")")[2].split()[1])
            parents[int(path.parent.name)] = number
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    sockets = set()
    for pid in family:
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    sockets.add(str(link.readlink()))
    there = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in sockets:
                address = columns[1].split(":")[0]
                there.add(address if len(address) == 32 else f"{'0' * 16}FFFF0000{address}")
    return there


def test_the_command_starts_a_ray_of_its_own_and_its_exit_status_tells(logs, tmp_path):
    folder = tmp_path / "logs"
    for name in ("a", "b"):
        shutil.copytree(logs / name, folder / name)
    (folder / "b" / "chunk-000000.safetensors").unlink()
    command = [
        sys.executable, "-m", "mmedge", "logs", str(STREAMING), str(folder),
        "-o", str(tmp_path / "out"), "--trigger", "camera", "--actors", "1", "--cpus", "0.5",
        "--json",
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment["RAY_worker_niceness"] = "0"
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip
    listening = set()
    while process.poll() is None:
        listening |= addresses(process.pid)
        time.sleep(0.1)
    done = subprocess.CompletedProcess(command, process.returncode, *process.communicate())
    # Nobody on the network can talk to it.
    assert listening == {LOOPBACK}
    assert done.returncode == 1, done.stderr
    outcomes = {one["name"]: one for one in json.loads(done.stdout)["outcomes"]}
    assert (outcomes["a"]["status"], outcomes["b"]["status"]) == ("done", "failed")
    assert "2/2 b: failed: " in done.stderr or "1/2 b: failed: " in done.stderr
    shutil.rmtree(folder / "b")
    here = [*command[:-5], "--actors", "0"]
    done = subprocess.run(here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0 run, 1 finished before, 0 failed" in done.stdout
    done = subprocess.run([*here, "--deadline", "9"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "InputError" in done.stderr
    assert "options.deadline_ms was null, is 9.0" in done.stderr
    # Without a trigger the folder is one of samples, of which there are none.
    for words, code in ((command[:6], 1), ([*command[:6], "--cost", "fuse=1"], 2)):
        done = subprocess.run([*words, "-o", str(tmp_path / "x")], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
