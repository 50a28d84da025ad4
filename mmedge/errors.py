"""Every error that mmedge raises on purpose.

::

    MMEdgeError
    ├── BundleError        a bundle is malformed, altered, incomplete or from another schema
    │   └── SignatureError its signature is not as asked, or cannot be checked or made
    ├── InputError         a value handed to a pipeline does not fit what the bundle declares
    ├── NoVariantError     no variant of a bundle can run here; ``decisions`` says why for each
    ├── BackendError       a backend could not be loaded, built or run, or ran elsewhere than asked
    ├── ExportError        a network could not be turned into a bundle
    └── AccuracyError      outputs or a task metric left their limit

A message says what happened, where, what was expected and what was found, and how to mend it.
mmedge either logs or raises, never both; a caller who catches ``MMEdgeError`` catches all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmedge.spec import Decision

__all__ = [
    "AccuracyError",
    "BackendError",
    "BundleError",
    "ExportError",
    "InputError",
    "MMEdgeError",
    "NoVariantError",
    "SignatureError",
]


class MMEdgeError(Exception):
    """Base of every error raised by mmedge."""


class BundleError(MMEdgeError):
    """A bundle cannot be trusted or read: the message names the file and the rule it broke."""


class SignatureError(BundleError):
    """A bundle's signature is missing, wrong, expired, of no trusted key or of an old version.

    Also raised where a signature or a key cannot be read or made.
    """


class InputError(MMEdgeError):
    """An input is missing, unknown, or of another dtype, rank or size than the bundle declares."""


class NoVariantError(MMEdgeError):
    """No variant of the bundle can run on this device as asked.

    ``decisions`` holds one :class:`mmedge.spec.Decision` for each variant, in manifest order.
    """

    def __init__(self, message: str, decisions: Sequence[Decision] = ()) -> None:
        super().__init__(message)
        self.decisions = tuple(decisions)


class BackendError(MMEdgeError):
    """A backend failed, is not installed, or placed a node elsewhere than the variant says."""


class ExportError(MMEdgeError):
    """A network could not be traced, or the traced graph does not compute what the network does."""


class AccuracyError(MMEdgeError):
    """Outputs differ from the golden outputs, or a metric fell, by more than the stated limit."""
