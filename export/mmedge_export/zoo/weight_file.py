"""Weight files: safetensors with the network's parts and the recipe in their metadata."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

__all__ = ["ReferenceNetwork", "load", "load_into", "save"]


class ReferenceNetwork(Protocol):
    """A network that can be built anew from ``parts``, the arguments of its class by keyword."""

    @property
    def parts(self) -> Mapping[str, object]:
        """Arguments of its class."""

    def state_dict(self) -> dict[str, Tensor]:
        """As a torch module has it."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """As a torch module has it."""

    def eval(self) -> Any:  # noqa: ANN401
        """As a torch module has it."""


Net = TypeVar("Net", bound=ReferenceNetwork)


def save(net: ReferenceNetwork, recipe: Mapping[str, object], path: Path, **facts: str) -> None:
    """Write a network's weights, with its parts, its recipe and ``facts`` as metadata."""
    metadata = {"parts": json.dumps(net.parts), "recipe": json.dumps(recipe), **facts}
    tensors = {name: value.contiguous() for name, value in net.state_dict().items()}
    save_file(tensors, path, metadata=metadata)


def load(path: Path, build: Callable[..., Net]) -> Net:
    """Build the network that a weight file holds, in evaluation mode.

    Args:
        path: from :func:`save`.
        build: the network's class, which takes its parts.

    Raises:
        ExportError: when the file is missing, is no weight file of this network, or does not fit.
    """
    parts, tensors = _read(path)
    try:
        net = build(**parts)
        net.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _misfit(path, error) from error
    net.eval()
    return net


def load_into(path: Path, net: ReferenceNetwork, *, may_lack: Sequence[str]) -> None:
    """Give a network the weights of a file, which may be those of an earlier and smaller form.

    Args:
        path: from :func:`save`, of a network of the same parts.
        net: what gets them; weights that the file lacks stay as they are.
        may_lack: how the names of weights begin that the file need not have.

    Raises:
        ExportError: when the file is missing, is no weight file, or is of another network.
    """
    parts, tensors = _read(path)
    if parts != net.parts:
        raise ExportError(f"{path} holds {parts}, not {dict(net.parts)}")
    own = net.state_dict()
    lacking = {name for name in own if name.startswith(tuple(may_lack))} - tensors.keys()
    try:
        net.load_state_dict({**{name: own[name] for name in lacking}, **tensors})
    except RuntimeError as error:
        raise _misfit(path, error) from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Parts and weights of a file."""
    if not path.is_file():
        raise ExportError(f"no weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            parts = json.loads((file.metadata() or {})["parts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise _misfit(path, error) from error
    return parts, tensors


def _misfit(path: Path, error: Exception) -> ExportError:
    return ExportError(f"{path} does not hold the weights of a reference network: {error}")
