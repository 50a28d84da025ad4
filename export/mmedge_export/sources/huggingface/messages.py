"""Keep what transformers says to itself away from the user's output."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from mmedge.errors import ExportError
from mmedge_export.install import remedy

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["errors_alone"]


@contextlib.contextmanager
def errors_alone() -> Iterator[None]:
    """No log of transformers below errors: what matters of it is raised, or is a remark.

    Raises:
        ExportError: transformers is not installed.
    """
    try:
        from transformers.utils import logging
    except ImportError as error:
        raise ExportError(f"hf: needs transformers: {remedy(error)}") from error
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
