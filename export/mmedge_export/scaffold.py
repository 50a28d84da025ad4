"""What stands in a factory that ``mmedge init`` wrote, where something is still to be written."""

from typing import NoReturn

__all__ = ["fill_in"]


def fill_in(what: str) -> NoReturn:
    """Stand in a factory where something is still to be written.

    It lies here, and not in the factory, so that the error names the factory's own line.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(f"fill in {what}")
