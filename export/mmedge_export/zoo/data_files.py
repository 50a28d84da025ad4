"""Where the weights and the samples of the reference networks are: in the distribution mmedge-zoo.

They are larger than the rest of mmedge together, and a device that runs bundles has no use for
them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from mmedge.errors import ExportError

__all__ = ["samples", "weight_path", "weights"]

PACKAGE = "mmedge_zoo"
#: Where a checkout has them; code that runs from one is read with the data of the same commit.
CHECKOUT = Path(__file__).resolve().parents[3] / "zoo" / PACKAGE


def weights() -> Path:
    """The folder of the shipped weights.

    Raises:
        ExportError: mmedge-zoo is not installed.
    """
    return _directory() / "weights"


def weight_path(name: str, given: Path | None, training: str) -> Path:
    """The weight file of a network: the one that is given, or the one that is shipped.

    Args:
        name: of the network.
        given: a file; None: the shipped one.
        training: arguments of ``mmedge-train`` that make one.

    Raises:
        ExportError: none is given and none is shipped, or mmedge-zoo is not installed.
    """
    path = weights() / f"{name}.safetensors" if given is None else given
    if given is None and not path.exists():
        raise ExportError(
            f"no weights are shipped for {name}; train them with `mmedge-train {training} --out "
            f"trained` (from mmedge[train]) and give weights=trained/{name}.safetensors"
        )
    return path


def samples(task: str) -> Path:
    """The folder of a task's samples, such as ``vqa``.

    Raises:
        ExportError: mmedge-zoo is not installed.
    """
    return _directory() / "samples" / task


def _directory() -> Path:
    if CHECKOUT.is_dir():
        return CHECKOUT
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ExportError(
            "the weights and samples of the reference networks (zoo:NAME) are not installed; they "
            "come in a wheel of their own: pip install mmedge-zoo, or from a checkout of mmedge: "
            "pip install ./zoo"
        )
    return Path(spec.origin).parent
