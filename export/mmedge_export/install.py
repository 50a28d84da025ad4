"""What to install when a module that exporting needs is missing."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["installed", "remedy"]

#: Modules that come with mmedge's own extras.
_OURS = frozenset(
    {"onnx", "onnx_ir", "onnxruntime", "onnxscript", "PIL", "safetensors", "tokenizers", "torch"}
)

#: Modules that policies of lerobot need, which pins an older torch and so comes without the rest.
_OF_POLICIES = frozenset({"diffusers", "draccus", "einops", "lerobot"})


def remedy(error: ImportError) -> str:
    """The line to type so that what ``error`` misses is there."""
    name = (error.name or "").partition(".")[0]
    if name in ("transformers", "huggingface_hub"):
        return "pip install 'mmedge[hf,cpu]'"
    if name in _OF_POLICIES:
        return "pip install 'mmedge[lerobot,cpu]' and pip install --no-deps lerobot==0.4.4"
    if name in _OURS:
        return "pip install 'mmedge[export,cpu]'"
    if isinstance(error, ModuleNotFoundError) and name:
        return f"pip install {name}, or the package that provides the module {name!r}"
    return f"install the package of the module {name!r} again: it is there but does not import"


@contextlib.contextmanager
def installed(doing: str) -> Iterator[None]:
    """Turn a missing module into what to install.

    Args:
        doing: what needs the module, at the start of the message.

    Raises:
        ExportError: a module that the body imports is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ExportError(
            f"{doing} needs {error.name}, which is not installed: {remedy(error)}"
        ) from error
