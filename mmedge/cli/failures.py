"""What a failed command says: one line for a person, one JSON object for a program."""

from __future__ import annotations

import contextlib
import errno
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from mmedge.cli.console import emit_json, settings, stderr
from mmedge.errors import MMEdgeError, NoVariantError

__all__ = ["READER_GONE", "UsageError", "tell", "tell_stopped"]

#: What typer raises for words that cannot be meant (its public names give the class alone).
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

#: Exit codes.
FAILED, MISUSED, READER_GONE = 1, 2, 141


def tell(error: Exception) -> int:
    """Say what happened, on stderr and under ``--json`` on stdout; the exit code for it."""
    if isinstance(error, BrokenPipeError):
        return READER_GONE
    kind, message, code = _described(error)
    if not message:  # no verb: the help was printed
        return code
    if settings.debug:
        stderr().print("".join(traceback.format_exception(error)), markup=False, soft_wrap=True)
    usage = _usage(error)
    if usage:
        stderr().print(usage, markup=False, soft_wrap=True)
    stderr().print(f"{kind}: {message}", style="red", markup=False, soft_wrap=True)
    more = {}
    if isinstance(error, NoVariantError):
        more["decisions"] = [asdict(decision) for decision in error.decisions]
    _emit(kind, message, code, **more)
    return code


def tell_stopped(words: str, error: BaseException, *, code: int) -> None:
    """Say that a signal ended the command."""
    if settings.debug:
        stderr().print("".join(traceback.format_exception(error)), markup=False, soft_wrap=True)
    stderr().print(words, markup=False)
    _emit("Interrupted", words, code)


def _emit(kind: str, message: str, code: int, **more: object) -> None:
    # A result that was printed before stands alone: stdout holds one document.
    if settings.json and not settings.emitted:
        # Where stdout takes nothing, the message stands on stderr already.
        with contextlib.suppress(OSError):
            emit_json({"error": {"kind": kind, "message": message, "exit_code": code, **more}})


def _described(error: Exception) -> tuple[str, str, int]:
    """Kind, message and exit code."""
    if isinstance(error, UsageError):
        cause: Any = error
        return "UsageError", cause.format_message(), MISUSED
    if isinstance(error, MMEdgeError):
        return type(error).__name__, str(error), FAILED
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "OSError", f"the disk is full: {error}", FAILED
    if isinstance(error, MemoryError):
        return "MemoryError", "there is not enough memory for this on this machine", FAILED
    if isinstance(error, typer.Abort):
        return "Aborted", "standard input ended", FAILED
    return "InternalError", _internal(error), FAILED


def _internal(error: Exception) -> str:
    """Of an error that nobody raised on purpose: where, and what to do."""
    frames = traceback.extract_tb(error.__traceback__)
    where = ""
    if frames:
        file = Path(frames[-1].filename)
        where = f" ({'/'.join(file.parts[-2:])}, line {frames[-1].lineno})"
    hint = "" if settings.debug else "; run it again with --debug, which shows the traceback, and"
    return (
        f"{type(error).__name__}: {error}{where}. This should have been told better, or is a fault "
        f"of mmedge{hint} report it"
    )


def _usage(error: Exception) -> str:
    """How the verb is called, above what was wrong."""
    context: Any = getattr(error, "ctx", None)
    if not isinstance(error, UsageError) or context is None:
        return ""
    return f"{context.get_usage()}\nTry '{context.command_path} --help'.\n"
