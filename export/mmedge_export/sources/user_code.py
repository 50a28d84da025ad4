"""What runs of the user's own code: an exception there names the line that can be changed."""

from __future__ import annotations

import contextlib
import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import mmedge
from mmedge.errors import ExportError, MMEdgeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["described", "each", "running", "safe_metric"]

T = TypeVar("T")


@contextlib.contextmanager
def running(what: str) -> Iterator[None]:
    """Tell whatever the user's code raises as an error of ``what``, with its line.

    Raises:
        ExportError: the body raised; mmedge's own errors pass as they are.
    """
    try:
        yield
    except MMEdgeError:
        raise
    except (Exception, SystemExit) as error:
        raise ExportError(
            f"{what} raised {described(error)}; --debug shows the traceback"
        ) from error


def each(items: Iterable[T], what: str) -> Iterator[T]:
    """``items`` one after another; they may come from a generator that raises.

    Args:
        items: the user's.
        what: one of them, at the start of a message, which gets its number.

    Raises:
        ExportError: they raised, or cannot be iterated over.
    """
    with running(f"{what}s"):
        source = iter(items)
    number = 0
    while True:
        with running(f"{what} {number}"):
            try:
                item = next(source)
            except StopIteration:
                return
        yield item
        number += 1


class _SafeMetric:
    """A metric whose exceptions are told, and whose value is a number."""

    def __init__(self, metric: Callable[[list[dict[str, Any]], list[Any]], float]) -> None:
        self.metric = metric

    def __call__(self, outputs: list[dict[str, Any]], targets: list[Any]) -> float:
        """The value.

        Raises:
            ExportError: it raised, or gave something else.
        """
        with running("the metric"):
            value = self.metric(outputs, targets)
            try:
                return float(value)
            except (TypeError, ValueError) as error:
                raise ExportError(
                    f"the metric returned {type(value).__name__}; expected a number, larger is "
                    "better"
                ) from error


def safe_metric(
    metric: Callable[[list[dict[str, Any]], list[Any]], float] | None,
) -> Callable[[list[dict[str, Any]], list[Any]], float] | None:
    """``metric`` so that what it raises, and what is no number, is an ExportError."""
    return metric if metric is None or isinstance(metric, _SafeMetric) else _SafeMetric(metric)


def described(error: BaseException) -> str:
    """What the user's own code raised, and in which of their lines.

    That is the innermost line that belongs to no installed package: the one that can be changed.
    """
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error}"  # it says where by itself
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SystemExit):
        words = f"SystemExit({error.code!r}): it ends the program; guard it by __name__"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not _is_installed(frame.filename):
            line = f": {frame.line}" if frame.line else ""
            return f"{words} ({frame.filename}, line {frame.lineno}, in {frame.name}{line})"
    return words


def _is_installed(filename: str) -> bool:
    """Whether a file is of Python, of an installed package, or of mmedge itself."""
    toolchain = str(Path(__file__).parents[1])
    runtime = str(Path(mmedge.__file__).parent)
    library = sysconfig.get_paths()["stdlib"]
    parts = Path(filename).parts
    return (
        "site-packages" in parts
        or "dist-packages" in parts
        or filename.startswith((toolchain, runtime, library, "<frozen", "<string>"))
    )
