"""A network whose weights or answers are NaN proves nothing: NaN equals NaN."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mmedge.spec import Array
    from mmedge_export.model import Model

__all__ = ["broken_weights", "check_outputs", "check_weights", "has_nan"]

#: Operators that multiply by weights: infinity among these is no mask.
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "GRU", "LSTM", "MatMul", "RNN"})

#: Weights that a message names.
_SHOWN = 4


def has_nan(value: Array) -> bool:
    """Whether floats have NaN among them."""
    return bool(np.issubdtype(value.dtype, np.inexact) and np.isnan(value).any())


def broken_weights(model: Model) -> list[str]:
    """Names of weights that have NaN, or infinity where it is no mask.

    Of a torch network that is infinity among its parameters; buffers may hold masks. Of an ONNX
    file it is infinity among the constants that products take.
    """
    return [name for name, fault in _weights(model) if fault]


def check_outputs(model: Model, outputs: Mapping[str, Array], what: str) -> None:
    """Raise ExportError where the network's own answers to ``what`` have NaN."""
    nan_outputs = [name for name, value in outputs.items() if has_nan(value)]
    if nan_outputs:
        share = float(np.isnan(outputs[nan_outputs[0]]).mean())
        fault = (
            f"output {nan_outputs[0]!r} of the network is NaN for {what} ({share:.0%} of its "
            "elements): nothing could be compared there. Give an example and samples that the "
            "network answers (a mask with nothing valid gives NaN), mend the network, or say that "
            "it is meant: --allow-nan, allow_nan=True"
        )
        raise _error(model, fault)


def check_weights(model: Model) -> None:
    """Raise ExportError where :func:`broken_weights` names any."""
    names = broken_weights(model)
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        fault = (
            f"weights have NaN or infinity: {', '.join(map(repr, names[:_SHOWN]))}{more}. "
            "A training that diverged leaves them; load another checkpoint, or say that they are "
            "meant: --allow-nan, allow_nan=True"
        )
        raise _error(model, fault)


def _error(model: Model, fault: str) -> ExportError:
    if isinstance(model.module, Path):
        # onnx is not needed before, and a command line that only reads words does without it.
        from mmedge_export.sources.onnx_rules import refusal

        return refusal(f"{model.module}: {fault}", "not-a-number")
    return ExportError(fault)


def _weights(model: Model) -> Iterator[tuple[str, bool]]:
    if isinstance(model.module, Path):
        yield from _onnx_weights(model.module)
        return
    if model.module is None:
        return
    import torch

    for name, parameter in model.module.named_parameters():
        if parameter.is_floating_point() and not parameter.is_meta:
            yield name, not bool(torch.isfinite(parameter).all())
    for name, buffer in model.module.named_buffers():
        if buffer.is_floating_point() and not buffer.is_meta:
            yield name, bool(torch.isnan(buffer).any())


def _onnx_weights(path: Path) -> Iterator[tuple[str, bool]]:
    from mmedge_export.sources.onnx_normalize import read_model

    graph = read_model(path)[0].graph
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None or not tensor.dtype.is_floating_point():
            continue
        array = tensor.numpy()
        if array.dtype.kind != "f":
            array = array.astype(np.float32)  # bfloat16 and the like
        product = any(use.node.op_type in _PRODUCTS for use in value.uses())
        is_broken = not np.isfinite(array).all() if product else np.isnan(array).any()
        yield str(value.name), bool(is_broken)
