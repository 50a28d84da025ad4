"""A process that answers questions, a line of JSON each: one framework, alone with its threads."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["PeerProcess", "answer_as"]


def answer_as(frameworks: Mapping[str, type[Any]], serve: Callable[[Any, TextIO], None]) -> None:
    """Be the process of one of ``frameworks``, which the command line names with its threads."""
    parser = argparse.ArgumentParser()
    parser.add_argument("framework", choices=frameworks)
    parser.add_argument("threads", type=int)
    arguments = parser.parse_args()
    # Libraries that print must not do so between the answers.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        serve(frameworks[arguments.framework](arguments.threads), answers)


class PeerProcess:
    """The process of one framework; its first line says its ``version``.

    Args:
        command: program and arguments.
        folder: to work in; None: this one.

    Raises:
        RuntimeError: the process ended; its own errors are on standard error.
    """

    def __init__(self, command: list[str], folder: Path | None = None) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
        )
        self.version: dict[str, str] = self._read()["version"]

    def ask(self, **question: Any) -> dict[str, Any]:  # noqa: ANN401
        """The answer to one question."""
        if self.process.stdin is None:
            raise RuntimeError("the process has no input")
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise RuntimeError(f"{self.process.args!r} ended; see its errors above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()
