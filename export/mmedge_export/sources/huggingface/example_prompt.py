"""A prompt for a network some of whose tokens stand for features, and the network's call of it."""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmedge_export.noise import quiet
from mmedge_export.sources.huggingface.sensors import parameters_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mmedge_export.sources.huggingface.feature_encoder import FeatureEncoder

__all__ = ["NEAR", "Prompt", "call", "first_tensor", "make_prompt", "nothing_stays", "type_names"]

#: How far results may be from those of the network's own call, as a share of the largest.
NEAR = 1e-3


@dataclass(frozen=True)
class Prompt:
    """An example of tokens around the places of a picture.

    Attributes:
        tokens: [rows, tokens].
        begin: index of the first place.
        count: of places.
        network_values: what the network's forward takes beside a sensor's values.
        types: values of token types, of text and of features; None: the network takes none.
        sees_itself: whether tokens of it see later ones.
    """

    tokens: Tensor
    begin: int
    count: int
    network_values: Mapping[str, Tensor]
    types: tuple[int, int] | None = None
    sees_itself: bool = False


def type_names(network: Any) -> list[str]:  # noqa: ANN401
    """Parameters for token types: the network's own, or those that it hands to a part of it."""
    parts = [network]
    parameters = inspect.signature(network.forward).parameters.values()
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        parts += [part for part in network.children() if hasattr(part, "get_input_embeddings")]
    names = [[n for n in parameters_of(p) if n.endswith("token_type_ids")] for p in parts]
    types: list[str] = next(filter(None, names), [])
    return types if _generates_with(network, types) else []


def _generates_with(network: Any, names: Sequence[str]) -> bool:  # noqa: ANN401
    """Whether ``generate()`` of a network takes parameters of these names, if it has one."""
    if not names or not network.can_generate():
        return True
    try:
        network._validate_model_kwargs(dict.fromkeys(names, True))  # noqa: SLF001 - it is not asked else
    except ValueError:
        return False
    return True


def make_prompt(network: Any, encoder: FeatureEncoder, token: int) -> Prompt:  # noqa: ANN401
    """A prompt for an encoder's example.

    Args:
        network: that takes it.
        encoder: of the sensor.
        token: that stands for a feature.
    """
    rows, count = next(iter(encoder.constants.values())).shape[:2]
    text = torch.randint(3, 9, (rows, 5), generator=torch.Generator().manual_seed(0))
    tokens = torch.cat([text[:, :1], torch.full((rows, count), token), text[:, 1:]], 1)
    values = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    names = type_names(network)
    if not names:
        return Prompt(tokens, 1, count, values)
    # Type 1 is that of features in most networks; in some 0 is that of a prompt, which sees itself.
    zeros = dict.fromkeys(names, torch.zeros_like(tokens))
    sees_itself = _looks_ahead(network, {**encoder.network_values[0], **values, **zeros})
    types = (0, 0) if sees_itself else (0, 1)
    stands = torch.where(tokens == token, types[1], types[0])
    return Prompt(tokens, 1, count, {**values, **dict.fromkeys(names, stands)}, types, sees_itself)


def _looks_ahead(network: Any, values: Mapping[str, Tensor]) -> bool:  # noqa: ANN401
    """Whether what the first token gives depends on the last."""
    other = values["input_ids"].clone()
    other[:, -1] += 1
    try:
        first, second = (
            first_tensor(call(network, {**values, "input_ids": tokens}))[:, 0]
            for tokens in (values["input_ids"], other)
        )
    except Exception:  # noqa: BLE001 - whatever a foreign class raises
        return False
    return not torch.allclose(first, second, rtol=NEAR, atol=NEAR * float(first.abs().max()))


def call(network: Any, values: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """The network's result without a cache."""
    options = {"use_cache": False} if "use_cache" in parameters_of(network) else {}
    with quiet(), torch.no_grad(), nothing_stays(network):
        return network(**{k: _copy(v) for k, v in values.items()}, return_dict=True, **options)


@contextlib.contextmanager
def nothing_stays(network: nn.Module) -> Iterator[None]:
    """Take back what a call leaves in a network, such as positions that the next would go on from.

    A graph is of one call: what it gives must follow from its inputs.
    """
    attributes = [(part, dict(vars(part))) for part in network.modules()]
    try:
        yield
    finally:
        for part, before in attributes:
            for name, value in dict(vars(part)).items():
                if isinstance(value, Tensor) and value is not before.get(name):
                    setattr(part, name, before.get(name))


def _copy(value: Any) -> Any:  # noqa: ANN401
    return value.clone() if isinstance(value, Tensor) else value


def first_tensor(result: Any) -> Tensor:  # noqa: ANN401
    """The first tensor of a result: what it is for."""
    return next(value for value in result.values() if isinstance(value, Tensor))
