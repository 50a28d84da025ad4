"""What a user reads of transformers: none of its log, and of its failures what to do about them."""

from __future__ import annotations

import contextlib
import traceback
from typing import TYPE_CHECKING

from mmedge.errors import ExportError
from mmedge_export.install import remedy

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["errors_alone", "reasons_with_advice"]

_ADVICE = "; write a factory: mmedge init hf:FOLDER -o factory.py writes a first version"


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


@contextlib.contextmanager
def reasons_with_advice(name: str) -> Iterator[None]:
    """Every refusal of a class says what to write; what its own code raises is a refusal.

    Args:
        name: of the class.

    Raises:
        ExportError: the class cannot be taken.
    """
    try:
        yield
    except ExportError as error:
        if "factory" in str(error) or "mmedge init" in str(error):
            raise
        raise ExportError(f"{error}{_ADVICE}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        foreign = [frame for frame in frames if "mmedge_export" not in frame.filename]
        # What runs inside a network's code is called there, whoever wrote it.
        is_inside = any("/transformers/models/" in frame.filename for frame in foreign)
        if foreign[-1:] != frames[-1:] and not is_inside:
            raise  # a fault of mmedge
        frame = foreign[-1]
        raise ExportError(
            f"{name} fails in {frame.filename.rpartition('site-packages/')[2]} line "
            f"{frame.lineno}: {type(error).__name__}: {error}{_ADVICE}"
        ) from error
