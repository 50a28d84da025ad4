"""A program that shows one part of the C++ runtime: it answers each line with a line."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["LineProbe"]


class LineProbe:
    """The running program. Words of a command or an answer are separated by tabs."""

    def __init__(self, program: Path) -> None:
        self.program = program
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, *words: object) -> tuple[bool, list[str]]:
        """Whether the command succeeded, and what it answered."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\t".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        verdict, *answers = self._process.stdout.readline().rstrip("\n").split("\t")
        assert verdict in {"ok", "error"}, f"the program ended: {self._process.wait()}"
        return verdict == "ok", answers

    def get(self, *words: object) -> list[str]:
        """What it answered a command that succeeded."""
        taken, answers = self.ask(*words)
        assert taken, answers
        return answers

    def error(self, *words: object) -> str:
        """Its message for a command that was refused."""
        taken, answers = self.ask(*words)
        assert not taken, answers
        return answers[0]

    def close(self) -> None:
        """End it; a fault that a sanitizer found fails."""
        self._process.communicate()
        assert self._process.returncode == 0
