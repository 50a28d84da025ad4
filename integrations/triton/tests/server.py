"""A real Triton server on the loopback, from the wheel of nvidia-pytriton.

The wheel holds a tritonserver with the Python backend. Its libraries and the program that runs
Python for a model lie where the server does not look; a folder of links puts them in place.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Server", "free_ports", "serve"]

#: Seconds until a server must have answered.
START_S = 60.0


class Server:
    """A server that runs: where it listens, and its process. ``log`` is the file of its words."""

    def __init__(self, process: subprocess.Popen[bytes], http: int, grpc: int, log: Path) -> None:
        self.process, self.log = process, log
        self.http, self.grpc = f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"

    def words(self) -> str:
        """What it has said so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def installed_server(folder: Path) -> Path:
    """A folder with what ``tritonserver`` needs, made of links to the wheel's files."""
    import pytriton

    source = Path(pytriton.__file__).parent / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True)
    for file in (source / "backends" / "python").iterdir():
        if file.is_file():
            (backend / file.name).symlink_to(file)
    stub = source / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, backend / stub.name)
    (folder / "tritonserver").symlink_to(source / "bin" / "tritonserver")
    return folder


@contextmanager
def serve(repository: Path, folder: Path, *options: str, wait: bool = True):
    """A server of a model repository, ended at the end.

    Args:
        repository: its models.
        folder: for its files; made.
        options: more of ``tritonserver``'s.
        wait: until every model is ready, else until the server lives.

    Raises:
        RuntimeError: it ended, or did not answer in time; with its words.
    """
    import pytriton

    installed = installed_server(folder)
    http, grpc = free_ports(2)
    libraries = Path(pytriton.__file__).parent.parent / "nvidia_pytriton.libs"
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(libraries),
        # The backend embeds Python, which takes the environment of the first python3 in PATH, and
        # nothing of PYTHONPATH.
        "PATH": f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    log = folder / "server.log"
    command = [
        str(installed / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={installed / 'backends'}",
        "--http-address=127.0.0.1", f"--http-port={http}",
        "--grpc-address=127.0.0.1", f"--grpc-port={grpc}",
        "--allow-metrics=false", "--exit-timeout-secs=10",
        *options,
    ]  # fmt: skip
    with log.open("wb") as words:
        process = subprocess.Popen(command, env=environment, stdout=words, stderr=words)
    server = Server(process, http, grpc, log)
    try:
        _await(server, "ready" if wait else "live")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(server: Server, what: str) -> None:
    import urllib.error
    import urllib.request

    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://{server.http}/v2/health/{what}", timeout=5) as got:
                if got.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"the server is not {what}:\n{server.words()}")
