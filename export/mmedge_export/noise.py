"""Keep what torch's exporter says to itself away from the user's output."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings, no torch or onnxscript log below ERROR, nothing printed to stdout or stderr.

    All that matters of an export is raised.
    """
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    handlers = [handler for logger in loggers for handler in logger.handlers]
    levels = [logger.level for logger in loggers]
    for handler in handlers:
        handler.addFilter(_is_error)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        unread = io.StringIO()
        with (
            contextlib.redirect_stdout(unread),
            contextlib.redirect_stderr(unread),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(_is_error)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
