"""How a network is called with tokens some of which stand for features.

Networks differ in what they do with such tokens beside putting features in their places: some count
positions in rows and columns, some add features in several layers, in some the tokens of a picture
see each other. None of it is told by a class's metadata. It is tried: of a few ways to call the
network, the first counts whose result is that of the network's own call.
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmedge.errors import ExportError
from mmedge_export.noise import quiet
from mmedge_export.sources.huggingface.candidates import look_up
from mmedge_export.sources.huggingface.example_prompt import NEAR, call, first_tensor, type_names
from mmedge_export.sources.huggingface.places import (
    FeaturesInPlace,
    positions_of,
    read_positions,
    traceable,
)
from mmedge_export.sources.huggingface.sensors import parameters_of, required_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mmedge_export.sources.huggingface.example_prompt import Prompt
    from mmedge_export.sources.huggingface.feature_encoder import FeatureEncoder
    from mmedge_export.sources.huggingface.places import PositionTable

__all__ = ["PlacedTokens", "find_way"]

#: How near a result is to that of the network's own call where nothing nearer is looked for.
_SAME = 1e-5
#: How far the nearest may be: sums in another order. Positions that are wrong by a few tokens were
#: seen to change results of random networks by 7e-4.
_NEAR = 1e-4
#: Name of what the embedding of tokens is to give, among arguments of a network.
_WORDS = "words"


@dataclass(frozen=True)
class _Way:
    """A way to call a network.

    Attributes:
        entrance: where features enter: in ``inputs_embeds``, as what its encoder gives
            (``mm_encoder_outputs``), or as what its embedding of tokens gives.
        table: of positions; None: the network counts them.
        has_types: whether it takes token types.
    """

    entrance: str
    table: PositionTable | None
    has_types: bool


class PlacedTokens(nn.Module):
    """Tokens and features to arguments of a network.

    Args:
        network: that takes them.
        token: that stands for a feature.
        encoder: of the features.
        prompt: the example.
        way: of several.
    """

    def __init__(
        self,
        network: nn.Module,
        token: int,
        encoder: FeatureEncoder,
        prompt: Prompt,
        way: _Way,
        modality: str,
    ) -> None:
        super().__init__()
        self.network = network
        self._token, self._names = token, list(encoder.constants)
        self._layout, self._modality = encoder.layout, modality
        self._types, self._way = prompt.types, way
        self.table = way.table
        width = next(iter(encoder.constants.values())).shape[-1]
        #: What makes words of tokens; in a tuple, since it is a part of ``network`` already.
        self._embedding = (_embedding_of(network, width),)
        self._replaced = _replaced_tokens(network)
        # Networks that want a picture beside tokens do without it where its features are there.
        self._absent = dict.fromkeys(required_parameters(network))
        #: Whether tokens that are taken at once are others than one after another.
        self.sees_ahead = False
        #: What the network itself takes for the example.
        self.network_values: Mapping[str, Tensor] = {}

    def arguments(
        self,
        input_ids: Tensor,
        tensors: Mapping[str, Tensor],
        places: Tensor,
        start: Tensor | None = None,
        past: int = 0,
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What the network takes, and how many places and positions were seen.

        Args:
            input_ids: [rows, tokens].
            tensors: features, by name.
            places: before these tokens, [rows].
            start: where the first of these tokens stands, where positions are of a table.
            past: number of tokens before these.
        """
        network: Any = self.network
        is_token = input_ids == self._token
        order = places[:, None] + is_token.long().cumsum(1) - 1
        seen = {"places_seen": places + is_token.long().sum(1)}
        features = [tensors[name] for name in self._names]
        last = features[0].shape[1] - 1
        # A token beyond the last feature, such as one that was chosen, is a word like any other.
        stands = is_token & (order <= last)
        index = order.clamp(min=0).clamp(max=last)[..., None]
        placed = [f.gather(1, index.expand(-1, -1, f.shape[2])) for f in features]
        table = network.get_input_embeddings()
        is_word = self._token < getattr(table, "num_embeddings", self._token + 1)
        ids = input_ids if is_word else input_ids.masked_fill(is_token, 0)
        for token, other in self._replaced.items():
            ids = ids.masked_fill(input_ids == token, other)
        words = self._embedding[0](ids)
        words = torch.where(stands[..., None], placed[0].to(words.dtype), words)
        taken: dict[str, Any] = {**self._absent}
        if self._way.entrance == "mm_encoder_outputs":
            layers = [torch.where(stands[..., None], layer, 0) for layer in placed]
            if self._layout.has_words:
                layers[0] = words
            taken["input_ids"] = input_ids
            taken["mm_encoder_outputs"] = {self._modality: self._layout.result(layers)}
        elif self._way.entrance == "inputs_embeds":
            taken["inputs_embeds"] = words
        else:
            taken["input_ids"], taken[_WORDS] = input_ids, words
        if self.table is not None:
            assert start is not None  # noqa: S101 - it comes with the table
            taken["position_ids"], seen["position_seen"] = self.table(stands, order, start)
        if self._way.has_types:
            assert self._types is not None  # noqa: S101 - it comes with the way
            text, feature = self._types
            now = torch.where(stands, feature, text)
            before = now.new_full((now.shape[0], past), 0 if feature else 1)
            types = torch.cat([before, now], 1)
            taken.update(dict.fromkeys(type_names(self.network), types))
        return taken, seen

    def forward(self, function: Callable[..., Any], taken: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Call ``function`` with arguments that were made here."""
        taken = dict(taken)
        words = taken.pop(_WORDS, None)
        with FeaturesInPlace(), traceable(), self._embedding_gives(words):
            return function(**taken)

    @contextlib.contextmanager
    def _embedding_gives(self, words: Tensor | None) -> Iterator[None]:
        """Let the network's embedding of tokens give ``words``, if there are any."""
        if words is None:
            yield
            return
        hook = self._embedding[0].register_forward_hook(lambda *_: words)
        try:
            yield
        finally:
            hook.remove()


def _embedding_of(network: Any, width: int) -> nn.Module:  # noqa: ANN401
    """The module that makes words of tokens: the table, or what has it and makes it wider."""
    table: nn.Module = network.get_input_embeddings()
    if getattr(table, "embedding_dim", width) == width:
        return table
    name = next((name for name, part in network.named_modules() if part is table), "")
    token = torch.zeros((1, 1), dtype=torch.int64)
    while "." in name:
        name = name.rpartition(".")[0]
        part: nn.Module = network.get_submodule(name)
        with contextlib.suppress(Exception), torch.no_grad():  # whatever a foreign class raises
            if part(token).shape == (1, 1, width):
                return part
    return table


def _replaced_tokens(network: Any) -> dict[int, int]:  # noqa: ANN401
    """Tokens that stand for something, and which a network embeds as another one where they do not.

    A network that chose such a token goes on with what it embeds for it.
    """
    table = network.get_input_embeddings()
    replaced: dict[int, int] = {}
    for modality in ("image", "video", "audio"):
        token = look_up(network.config, f"{modality}_token_id", f"{modality}_token_index")
        if not isinstance(token, int):
            continue
        prompt = torch.tensor([[3, token]])
        seen: list[Tensor] = []
        hook = table.register_forward_pre_hook(lambda _, taken, seen=seen: seen.append(taken[0]))
        # One that takes no such token by itself never goes on with it.
        with contextlib.suppress(Exception):
            call(network, {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)})
        hook.remove()
        if seen and seen[0].shape == prompt.shape and int(seen[0][0, 1]) != token:
            replaced[token] = int(seen[0][0, 1])
    return replaced


def find_way(
    network: Any,  # noqa: ANN401
    token: int,
    encoder: FeatureEncoder,
    prompt: Prompt,
    modality: str,
) -> PlacedTokens:
    """The first way to call a network that gives what the network's own call gives.

    Raises:
        ExportError: the network does not take the example, or none does.
    """
    least: float | None = None
    for values, expected, positions in _calls(network, token, encoder, prompt, modality):
        best, off = _nearest_way(network, token, encoder, prompt, modality, expected, positions)
        if best is not None and off <= _NEAR:
            best.network_values = values
            return best
        if best is not None:
            least = off if least is None else min(least, off)
    raise ExportError(
        f"{type(network).__name__} does more with an input of {modality} than put features in the "
        "places of tokens: "
        + (
            "it takes them in none of the ways that mmedge knows"
            if least is None
            else f"results are off by {least:.2g} of the largest"
        )
        + "; write a factory with mmedge init"
    )


def _nearest_way(
    network: Any,  # noqa: ANN401
    token: int,
    encoder: FeatureEncoder,
    prompt: Prompt,
    modality: str,
    expected: Tensor,
    positions: Sequence[Tensor],
) -> tuple[PlacedTokens | None, float]:
    """The way whose result is nearest to what is expected, and how far off that is."""
    scale = float(expected.abs().max())
    best: PlacedTokens | None = None
    least = float("inf")
    for way in _ways(network, prompt, positions):
        placed = PlacedTokens(network, token, encoder, prompt, way, modality).eval()
        try:
            result = _result(placed, prompt, encoder.constants)
        except Exception:  # noqa: BLE001, S112 - whatever a foreign class raises: another way
            continue
        off = float((result - expected).abs().max()) / scale
        # Where tokens see later ones, a network that is told so does not go by what is cached.
        is_told = off <= _SAME and way.has_types and best is not None and best.sees_ahead
        if off >= least and not is_told:
            continue
        best, least = placed, off
        best.sees_ahead = prompt.sees_itself or _sees_later_features(best, prompt, encoder)
        if off <= _SAME and (is_told or not best.sees_ahead):
            break
    return best, least


def _calls(
    network: Any,  # noqa: ANN401
    token: int,
    encoder: FeatureEncoder,
    prompt: Prompt,
    modality: str,
) -> Iterator[tuple[dict[str, Tensor], Tensor, list[Tensor]]]:
    """Calls of a network with an example: what it takes and gives, and positions inside.

    There is one for each form of the example that it takes: some take several pictures in a form
    of which they read the first alone.

    Raises:
        ExportError: it takes none.
    """
    has_any = False
    names = [*parameters_of(network), *type_names(network)]
    failure: Exception | None = None
    for form in encoder.network_values:
        values = {n: v for n, v in {**form, **prompt.network_values}.items() if n in names}
        try:
            result, seen = positions_of(network, prompt.tokens, partial(call, network, values))
        except Exception as error:  # noqa: BLE001 - whatever a foreign class raises
            failure = failure or error
            continue
        has_any = True
        yield values, first_tensor(result), seen
    if has_any:
        return
    text = next(iter(str(failure).splitlines()), "")
    raise ExportError(
        f"{type(network).__name__} does not take the example that was made up for it, a prompt "
        f"with {prompt.count} tokens {token} for one {modality}: {type(failure).__name__}: {text}; "
        "write a factory with mmedge init"
    ) from failure


def _result(placed: PlacedTokens, prompt: Prompt, constants: Mapping[str, Tensor]) -> Tensor:
    zero = torch.zeros(prompt.tokens.shape[0], dtype=torch.int64)
    with quiet(), torch.no_grad():
        taken, _ = placed.arguments(prompt.tokens, constants, zero, zero)
        return first_tensor(placed(lambda **v: call(placed.network, v), taken))


def _sees_later_features(placed: PlacedTokens, prompt: Prompt, encoder: FeatureEncoder) -> bool:
    """Whether what the first place gives depends on the feature of the last."""
    if prompt.count < 2:
        return False
    others = {name: value.clone() for name, value in encoder.constants.items()}
    for value in others.values():
        value[:, -1] *= -2
    first, second = (
        _result(placed, prompt, constants)[:, prompt.begin]
        for constants in (encoder.constants, others)
    )
    return not torch.allclose(first, second, rtol=NEAR, atol=NEAR * float(first.abs().max()))


def _ways(network: Any, prompt: Prompt, positions: Sequence[Tensor]) -> Iterator[_Way]:  # noqa: ANN401
    # Some prepend the order of tokens to their axes.
    further = [value[1:] for value in positions if value.ndim == 3 and value.shape[0] == 4]
    read = [read_positions(value, prompt.begin, prompt.count) for value in [*positions, *further]]
    tables = [None, *(table for table in read if table is not None)]
    named = {"inputs_embeds", "mm_encoder_outputs"}.intersection(parameters_of(network))
    entrances = [*sorted(named), "embedding"]
    types = (False, True) if prompt.types is not None else (False,)
    for has_types, entrance, table in itertools.product(types, entrances, tables):
        yield _Way(entrance, table, has_types)
