"""The network itself, run by torch: what every exported graph is held against."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils import _pytree as pytree  # torch publishes its pytree under no other name

from mmedge.errors import ExportError
from mmedge.spec import DTYPES, Array
from mmedge_export import locate

if TYPE_CHECKING:
    from mmedge_export.source import Model

__all__ = ["Network", "evaluation", "positions", "tensors_in"]


class Network:
    """A torch module that takes and gives NumPy arrays by name.

    Args:
        model: its ``module`` must be a torch module.

    Raises:
        ExportError: the module's forward cannot take the inputs by keyword.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self.module: torch.nn.Module = model.module  # type: ignore[assignment]
        first = next(iter(self.module.parameters()), None)
        self._device = "cpu" if first is None else first.device
        _check_parameters(self.module, list(model.inputs))

    def tensors(self, feeds: Mapping[str, Array]) -> dict[str, torch.Tensor]:
        """``feeds`` as tensors on the module's device, in the model's order."""
        return {
            # A copy: NumPy arrays may be read-only, and a network may write to its inputs.
            name: torch.from_numpy(np.array(feeds[name])).to(self._device)
            for name in self._model.inputs
        }

    def call(self, feeds: Mapping[str, Array]) -> Any:  # noqa: ANN401
        """What the module returns, as it returns it.

        Raises:
            ExportError: the module raised; the message says where.
        """
        try:
            with torch.no_grad():
                return self.module(**self.tensors(feeds))
        except Exception as error:
            place = locate.of_exception(self.module, error) or type(self.module).__name__
            shapes = ", ".join(f"{n}: {v.dtype} {list(v.shape)}" for n, v in feeds.items())
            raise ExportError(
                f"the network itself fails in {place}: {type(error).__name__}: {error}. "
                f"Inputs: {shapes}. Give an example that the network takes"
            ) from error

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. Raises what :meth:`call` and :func:`positions` raise."""
        result = self.call(feeds)
        tensors = tensors_in(result)
        chosen = positions(result, self._model.outputs)
        # A copy: an output may be a view of an input or of a parameter.
        return {name: tensors[at].detach().cpu().numpy().copy() for name, at in chosen.items()}


@contextlib.contextmanager
def evaluation(module: torch.nn.Module) -> Iterator[None]:
    """Put ``module`` in evaluation mode; put each of its parts back as it was afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def positions(result: Any, names: Sequence[str]) -> dict[str, int]:  # noqa: ANN401
    """Where the output of each name lies among all tensors that ``result`` holds, flattened.

    Raises:
        ExportError: ``result`` does not have these outputs, or they are not plain tensors.
    """
    advice = "name each returned tensor once in outputs, or return a flat tuple or dict"
    if isinstance(result, torch.Tensor):
        values: list[Any] = [result]
        keys = ["the result"]
    elif isinstance(result, Mapping):
        missing = [name for name in names if name not in result]
        if missing:
            raise ExportError(
                f"the network returns no {', '.join(map(repr, missing))}; its dict has the keys "
                f"{', '.join(map(str, result))}"
            )
        values = [result[name] for name in names]
        keys = [f"key {name!r}" for name in names]
    elif isinstance(result, (tuple, list)):
        values = list(result)
        keys = [f"element {index}" for index in range(len(values))]
    else:
        raise ExportError(
            f"the network returns {type(result).__name__}; expected a tensor, or a tuple, list or "
            "dict of tensors: wrap it in a module that returns one"
        )
    if len(values) != len(names):
        raise ExportError(
            f"the network returns {len(values)} outputs, but outputs names {len(names)} "
            f"({', '.join(names)}); {advice}"
        )
    tensors = tensors_in(result)
    found = {}
    for name, key, value in zip(names, keys, values, strict=True):
        if not isinstance(value, torch.Tensor):
            raise ExportError(
                f"output {name!r} ({key}) is {type(value).__name__}, not a tensor; {advice}"
            )
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise ExportError(
                f"output {name!r} is {dtype}, which a bundle cannot hold; convert it in the "
                f"network to one of {', '.join(DTYPES)}"
            )
        found[name] = next(at for at, tensor in enumerate(tensors) if tensor is value)
    return found


def tensors_in(result: Any) -> list[torch.Tensor]:  # noqa: ANN401
    """All tensors in ``result``, in the order in which torch.export flattens it."""
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def _check_parameters(module: torch.nn.Module, names: list[str]) -> None:
    """Raise ExportError unless forward takes exactly ``names`` by keyword."""
    signature = inspect.signature(module.forward).parameters
    by_name = {
        name: parameter
        for name, parameter in signature.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.values())
    unknown = [name for name in names if name not in by_name]
    if unknown and not takes_any:
        raise ExportError(
            f"{type(module).__name__}.forward takes no {', '.join(map(repr, unknown))}; its "
            f"parameters are {', '.join(signature) or 'none'}: name the inputs after them"
        )
    lacking = [
        name
        for name, parameter in by_name.items()
        if parameter.default is parameter.empty and name not in names
    ]
    if lacking:
        raise ExportError(
            f"{type(module).__name__}.forward needs {', '.join(map(repr, lacking))}, which inputs "
            "does not name; add an Input for it, or give the parameter a default"
        )
