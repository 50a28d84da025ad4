"""Loading a bundle first in a child process, for one whose maker is not trusted.

mmedge checks a bundle before any library sees it, but what libraries then do with it is theirs: a
graph within the rules may still crash ONNX Runtime, or take more memory or time than there is. Such
a bundle ends a child that loads it as asked and runs its golden samples, and not this process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, BinaryIO

from mmedge import errors
from mmedge.errors import BundleError, MMEdgeError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MEMORY_BYTES", "SECONDS", "load_in_child"]

#: Most time and resident memory of the child.
SECONDS, MEMORY_BYTES = 60.0, 4 << 30

#: How often its memory is looked at, in seconds.
_PERIOD = 0.02

_CHILD = """
import json, sys
from mmedge.errors import MMEdgeError
settings = json.loads(sys.argv[1])
try:
    from mmedge.loader import load
    with load(**settings) as pipe:
        digest = pipe.bundle.digest
        for sample in pipe.bundle.samples():
            tokens = sample.loop.get("tokens")
            options = {} if tokens is None else {"limit": tokens.shape[1]}
            pipe.run(sample.inputs, cached=False, **options)
    print(json.dumps({"digest": digest}))
except MMEdgeError as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


def load_in_child(settings: Mapping[str, Any]) -> str:
    """Load a bundle in a child process and run its golden samples.

    Args:
        settings: arguments of :func:`mmedge.load` that JSON can hold.

    Returns:
        The digest of the manifest of the bundle that was loaded.

    Raises:
        MMEdgeError: what the child raised; BundleError where the child crashed, took more than
            :data:`SECONDS` or :data:`MEMORY_BYTES`, or ended without a word.
    """
    path = settings["bundle"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", _CHILD, json.dumps(dict(settings))]
    # What libraries say when they end goes beside the answer, not behind it.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as words:
        with subprocess.Popen(  # noqa: S603 - this very Python
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=words, env=environment
        ) as child:
            try:
                fault = _watch(child)
            finally:
                child.kill()
                child.wait()
        lines, error_lines = _lines(output), _lines(words)
    if fault is None and child.returncode < 0:
        fault = f"ended it by {signal.Signals(-child.returncode).name}"
    if fault is not None:
        raise BundleError(f"{path}: loading it in a child process {fault}; it is not loaded here")
    try:
        answer = json.loads(lines[-1])
        if "digest" in answer:
            return str(answer["digest"])
        error_class = getattr(errors, answer["error"])
    except (IndexError, ValueError, KeyError, AttributeError, TypeError) as error:
        last_line = (error_lines or lines or ["it said nothing"])[-1]
        raise BundleError(
            f"{path}: a child process could not load it (status {child.returncode}): {last_line}"
        ) from error
    if not (isinstance(error_class, type) and issubclass(error_class, MMEdgeError)):
        raise BundleError(f"{path}: a child process could not load it: {answer['message']}")
    raise error_class(answer["message"])


def _lines(file: BinaryIO) -> list[str]:
    file.seek(0)
    return file.read().decode("utf-8", "replace").splitlines()


def _watch(child: subprocess.Popen[bytes]) -> str | None:
    """Wait for the child's end; what it did too much of, if anything."""
    end = monotonic() + SECONDS
    while True:
        try:
            child.wait(_PERIOD)
        except subprocess.TimeoutExpired:
            if monotonic() > end:
                return f"took more than {SECONDS:g} s"
            if _resident_bytes(child.pid) > MEMORY_BYTES:
                return f"took more than {MEMORY_BYTES / 1e9:.1f} GB of memory"
        else:
            return None


def _resident_bytes(process: int) -> int:
    """Memory that a process has; 0 where the system does not say."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
