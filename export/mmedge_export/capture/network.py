"""The network itself, run by torch: what every exported graph is held against."""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmedge.errors import ExportError
from mmedge_export.capture import locate
from mmedge_export.capture.results import named_results

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from mmedge.spec import Array
    from mmedge_export.model import Model

__all__ = ["Called", "TorchNetwork", "evaluation"]


@dataclass(frozen=True)
class Called:
    """A torch module, and the names by which it is called and answers."""

    module: torch.nn.Module
    inputs: Collection[str]
    outputs: Sequence[str] | Mapping[str, str]


class TorchNetwork:
    """A torch module that takes and gives NumPy arrays by name.

    Args:
        model: the module, or a model whose ``module`` is a torch module.

    Raises:
        ExportError: the module's forward cannot take the inputs by keyword, or its weights cannot
            be used.
    """

    def __init__(self, model: Model | Called) -> None:
        self._model = model
        self.module: torch.nn.Module = model.module  # type: ignore[assignment]
        self._device = _check_weights(self.module)
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
            with torch.no_grad(), _as_traced():
                return self.module(**self.tensors(feeds))
        except Exception as error:
            place = locate.of_exception(self.module, error) or type(self.module).__name__
            shapes = ", ".join(f"{n}: {v.dtype} {list(v.shape)}" for n, v in feeds.items())
            doubles = [name for name, value in feeds.items() if value.dtype == np.float64]
            hint = f"; float64 is NumPy's default: make {doubles[0]} np.float32" if doubles else ""
            raise ExportError(
                f"the network itself fails in {place}: {type(error).__name__}: {error}. "
                f"Inputs: {shapes}. Give an example that the network takes{hint}"
            ) from error

    def written_inputs(self, feeds: Mapping[str, Array]) -> list[str]:
        """Names of inputs that a call writes to. Raises what the module raises."""
        tensors = self.tensors(feeds)
        with torch.no_grad(), _as_traced():
            self.module(**tensors)
        return [
            name
            for name, tensor in tensors.items()
            if tensor.cpu().numpy().tobytes() != np.asarray(feeds[name]).tobytes()
        ]

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. Raises what :meth:`call` and :func:`named_results` raise."""
        tensors = named_results(self.call(feeds), self._model.outputs)
        # A copy: an output may be a view of an input or of a parameter.
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}


@contextlib.contextmanager
def _as_traced() -> Iterator[None]:
    """Transformers of torch by the way that torch.export takes, which is that of training.

    The other, kernels for evaluation alone, puts 0 at hidden positions of an encoder and cuts
    those off that all rows hide.
    """
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


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


def _check_weights(network: torch.nn.Module) -> torch.device:
    """The device that all weights are on.

    Raises:
        ExportError: a part is TorchScript, weights have no data, or lie on several devices.
    """
    for name, part in network.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            what = f"its module {name!r}" if name else "it"
            raise ExportError(
                f"module: {what} is TorchScript ({part.original_name}), which torch.export does "
                "not take; give the Python module that it was scripted or traced from"
            )
    devices: dict[torch.device, str] = {}
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        if value.is_meta:
            raise ExportError(
                f"module: {name!r} has no data (device meta); load the weights first, with "
                "to_empty and load_state_dict, or without a meta device"
            )
        devices.setdefault(value.device, name)
    if len(devices) > 1:
        places = ", ".join(f"{name!r} on {device}" for device, name in devices.items())
        raise ExportError(f"module: weights lie on several devices ({places}); move it to one")
    return next(iter(devices), torch.device("cpu"))


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
