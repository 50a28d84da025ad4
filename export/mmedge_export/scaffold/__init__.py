"""``mmedge init``: a factory's text from a network, with what is to be filled in marked."""

from typing import NoReturn

from mmedge_export.scaffold.text import Draft, DraftInput, write_draft

__all__ = ["Draft", "DraftInput", "fill_in", "write_draft"]


def fill_in(what: str) -> NoReturn:
    """Stand in a factory where something is still to be written.

    It lies here, and not in the factory, so that the error names the factory's own line.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(f"fill in {what}")
