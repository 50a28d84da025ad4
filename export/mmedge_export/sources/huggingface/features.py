"""What a network's encoder of a modality gives: features for the places of its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FeatureLayout", "feature_function", "has_feature_function", "read_layout"]

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


@dataclass(frozen=True)
class _Field:
    """A field of an encoder's result.

    Attributes:
        name: of the field.
        layers: for how many layers of the decoder it has features; None: it is no list of layers.
        is_list: whether features of each picture are an item of a list.
    """

    name: str
    layers: int | None
    is_list: bool


@dataclass(frozen=True)
class FeatureLayout:
    """How features lie in an encoder's result.

    Attributes:
        kind: class of the result; None: it is features alone.
        fields: that have features, the ones of the tokens first.
    """

    kind: Any
    fields: tuple[_Field, ...]

    def tensors(self, result: Any, rows: int) -> tuple[Tensor, ...]:  # noqa: ANN401
        """Features [rows, tokens, width] of an encoder's result."""
        tensors: list[Tensor] = []
        for field in self.fields:
            value = result if self.kind is None else result[field.name]
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
            layers = [(tensor,) if field.is_list else tensor for tensor in waiting[:count]]
            waiting = waiting[count:]
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
        raise ValueError(f"its result has none of {', '.join(_MAIN)}")
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


def _joined(value: Any, rows: int) -> Tensor:  # noqa: ANN401
    """Features of all pictures, [rows, tokens, width]."""
    parts = [part.reshape(-1, part.shape[-1]) for part in _pytree.tree_leaves(value)]
    joined = parts[0] if len(parts) == 1 else torch.cat(parts)
    return joined.reshape(rows, -1, joined.shape[-1])
