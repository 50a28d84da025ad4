"""What libraries print on stdout goes to stderr: stdout carries data alone."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

__all__ = ["stdout_on_stderr"]


@contextlib.contextmanager
def stdout_on_stderr() -> Iterator[None]:
    """Send what Python code and the libraries' own code print to stderr.

    TensorRT-RTX writes some warnings past its logger, to file descriptor 1.
    """
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
