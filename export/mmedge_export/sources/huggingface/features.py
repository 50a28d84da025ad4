"""What a network's encoder of a modality gives: features for the places of its tokens."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree

from mmedge_export.sources.huggingface.sensors import parameters_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmedge_export.sources.huggingface.sensors import Sensor

__all__ = [
    "FeatureLayout",
    "feature_function",
    "has_feature_function",
    "names_beside",
    "read_layout",
    "required_names",
]

#: Fields of an encoder's result that have the features of tokens, in order of preference.
_MAIN = ("pooler_output", "last_hidden_state")
#: Fields of an encoder's result that stand in no places of tokens.
_INNER = ("last_hidden_state", "hidden_states", "attentions")


def has_feature_function(network: Any, modality: str) -> bool:  # noqa: ANN401
    """Whether a network has a function of its own from values of a modality to features."""
    return any(hasattr(part, f"get_{modality}_features") for part in (network.base_model, network))


def feature_function(network: Any, modality: str) -> Any:  # noqa: ANN401
    """The function from values of a modality to features, of a network or the first of its parts.

    None: there is none. A class without one has its parts: what reads the modality, and what
    projects that.
    """
    for owner in (network.base_model, *network.modules()):
        if (function := getattr(owner, f"get_{modality}_features", None)) is not None:
            return function
    tower = getattr(network.base_model, f"{modality}_tower", None)
    projector = getattr(network.base_model, "multi_modal_projector", None)
    if tower is None or projector is None:
        return None

    def project(*, return_dict: bool = True, **values: Tensor) -> Any:  # noqa: ANN401
        return projector(tower(**values, return_dict=return_dict).last_hidden_state)

    return project


def required_names(network: Any, sensor: Sensor) -> list[str]:  # noqa: ANN401
    """What the function of features cannot be called without, beside the sensor's values."""
    parameters = inspect.signature(feature_function(network, sensor.modality)).parameters
    return [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and name != sensor.name
    ]


def names_beside(network: Any, sensor: Sensor) -> list[str]:  # noqa: ANN401
    """What the function of features takes beside the sensor's values and is a tensor of forward."""
    parameters = inspect.signature(feature_function(network, sensor.modality)).parameters
    names = parameters_of(network)
    takes_any = any(p.kind == p.VAR_POSITIONAL for p in parameters.values())
    return [name for name in names if name in parameters or takes_any]


@dataclass(frozen=True)
class _Field:
    """A field of an encoder's result.

    Attributes:
        name: of the field.
        layers: for how many layers of the decoder it has features; None: it is no list of layers.
        is_list: whether features of each picture are an item of a list.
        numbers: of layers, where each comes in a pair with its number.
    """

    name: str
    layers: int | None
    is_list: bool
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class FeatureLayout:
    """How features lie in an encoder's result.

    Attributes:
        kind: class of the result; None: it is features alone.
        fields: that have features, the ones of the tokens first.
        has_words: whether the first features stand in place of words; else all are of layers.
    """

    kind: Any
    fields: tuple[_Field, ...]
    has_words: bool = True

    def tensors(self, result: Any, rows: int) -> tuple[Tensor, ...]:  # noqa: ANN401
        """Features [rows, tokens, width] of an encoder's result."""
        tensors: list[Tensor] = []
        for field in self.fields:
            value = result if self.kind is None else result[field.name]
            if field.numbers:
                value = [layer for _, layer in value]
            tensors += [
                _joined(layer, rows) for layer in ([value] if field.layers is None else value)
            ]
        return tuple(tensors)

    def result(self, tensors: Sequence[Tensor]) -> Any:  # noqa: ANN401
        """A result of the encoder's class with ``tensors`` in place of features."""
        values: dict[str, Any] = {}
        waiting = list(tensors)
        for field in self.fields:
            count = 1 if field.layers is None else field.layers
            layers: list[Any] = [
                (tensor,) if field.is_list else tensor for tensor in waiting[:count]
            ]
            waiting = waiting[count:]
            if field.numbers:
                layers = list(zip(field.numbers, layers, strict=True))
            values[field.name] = layers[0] if field.layers is None else layers
        return values["pooler_output"] if self.kind is None else self.kind(**values)


def read_layout(result: Any, rows: int) -> FeatureLayout:  # noqa: ANN401
    """The layout of an encoder's result for some rows.

    Raises:
        ValueError: it has no features.
    """
    if isinstance(result, (Tensor, list, tuple)):
        is_list = not isinstance(result, Tensor)
        return FeatureLayout(None, (_Field("pooler_output", None, is_list),))
    main = next((name for name in _MAIN if result.get(name) is not None), None)
    if main is None:
        return _layout_of_layers(result)
    pooled = result[main]
    count = _joined(pooled, rows).shape[1]
    fields = [_Field(main, None, not isinstance(pooled, Tensor))]
    for name, value in result.items():
        if name in (*_INNER, main) or not isinstance(value, (list, tuple)):
            continue
        if not all(isinstance(leaf, Tensor) for leaf in _pytree.tree_leaves(value)):
            continue
        if all(_joined(layer, rows).shape[1] == count for layer in value):
            fields.append(_Field(name, len(value), not isinstance(value[0], Tensor)))
    return FeatureLayout(type(result), tuple(fields))


def _layout_of_layers(result: Any) -> FeatureLayout:  # noqa: ANN401
    """The layout of a result that has features for layers of the decoder alone, with numbers."""
    for name, value in result.items():
        pairs = value if isinstance(value, (list, tuple)) else ()
        numbers = tuple(pair[0] for pair in pairs if isinstance(pair, tuple) and len(pair) == 2)
        if numbers and len(numbers) == len(pairs) and all(type(n) is int for n in numbers):
            is_list = not isinstance(pairs[0][1], Tensor)
            field = _Field(name, len(pairs), is_list, numbers)
            return FeatureLayout(type(result), (field,), has_words=False)
    raise ValueError(f"its result has none of {', '.join(_MAIN)}")


def _joined(value: Any, rows: int) -> Tensor:  # noqa: ANN401
    """Features of all pictures, [rows, tokens, width]."""
    parts = [part.reshape(-1, part.shape[-1]) for part in _pytree.tree_leaves(value)]
    joined = parts[0] if len(parts) == 1 else torch.cat(parts)
    return joined.reshape(rows, -1, joined.shape[-1])
