"""How a network of transformers generates, read off its own ``generate()`` just before it begins.

``generate()`` has worked out by then which module decodes, with which first tokens, which tokens
are forced or suppressed and when it ends. That is taken over; nothing of it is worked out again.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mmedge.errors import ExportError
from mmedge_export.noise import quiet
from mmedge_export.sources.huggingface.candidates import look_up
from mmedge_export.sources.huggingface.task import text_alone

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from mmedge_export.model import Model
    from mmedge_export.sources.huggingface.checkpoint import Checkpoint

__all__ = ["Generation", "TokenRules", "compare_tokens", "read_generation"]


@dataclass(frozen=True)
class Generation:
    """What ``generate()`` begins with.

    Attributes:
        decoder: the module whose tokens are chosen.
        start: int64 [batch, tokens] that it begins with.
        arguments: that it is called with beside them.
        rules: which tokens may follow, and when it ends.
    """

    decoder: Any
    start: Tensor
    arguments: Mapping[str, Any]
    rules: TokenRules


@dataclass(frozen=True)
class TokenRules:
    """Which tokens may be chosen, and when a run ends.

    Attributes:
        forced: first tokens after those that it begins with.
        stop: tokens that end it.
        suppress: tokens that are never chosen.
        suppress_first: tokens that are not chosen first.
        length: most tokens, with those that it begins with.
        is_whole: whether that is all that ``generate()`` does.
        remarks: what of ``generate()`` is not taken over.
    """

    forced: tuple[int, ...]
    stop: tuple[int, ...]
    suppress: tuple[int, ...]
    suppress_first: tuple[int, ...]
    length: int | None
    is_whole: bool
    remarks: tuple[str, ...]


def compare_tokens(
    checkpoint: Checkpoint,
    rules: TokenRules,
    model: Model,
    inputs: Mapping[str, Tensor],
    sensors: Mapping[str, Tensor] | None = None,
    constants: Mapping[str, Tensor] | None = None,
) -> None:
    """Hold the tokens of a model against ``generate()``, where that does no more than the model.

    Args:
        checkpoint: the network.
        rules: of its tokens.
        model: with a loop.
        inputs: of the network.
        sensors: what the model takes of them, where it takes them in another form.
        constants: what the model's module gave for them, where it was run.

    Raises:
        ExportError: they differ.
    """
    from mmedge_export.sources.huggingface.generate_check import check_tokens

    if rules.is_whole:
        check_tokens(checkpoint.network, model, inputs, sensors, constants)
    else:
        checkpoint.remarks.append("tokens were not held against generate(), which does more")


class _Begun(Exception):  # noqa: N818 - no error: it carries what was looked for
    """Ends ``generate()`` where it begins to choose tokens."""


def read_generation(network: Any, example: Mapping[str, Tensor]) -> Generation:  # noqa: ANN401
    """What ``generate()`` begins with for an example.

    Args:
        network: of transformers, that generates.
        example: a tensor for each of its inputs.

    Raises:
        ExportError: ``generate()`` fails, or does not choose one token after another.
    """
    seen: dict[str, Any] = {}
    with quiet(), torch.no_grad(), _stopped_at_first_token(seen):
        try:
            network.generate(
                **{name: value.clone() for name, value in example.items()},
                **text_alone(network),
                do_sample=False,
                num_beams=1,
            )
        except _Begun:
            pass
        except Exception as error:
            raise ExportError(
                f"{type(network).__name__}.generate() fails on a made-up example: "
                f"{type(error).__name__}: {error}"
            ) from error
    if not seen:
        raise ExportError(
            f"{type(network).__name__}.generate() does not choose one token after another in the "
            "way of transformers; write a factory with mmedge init"
        )
    decoder = seen["decoder"]
    rules = _read_rules(
        seen["logits_processor"],
        seen["stopping_criteria"],
        seen["input_ids"].shape[1],
        getattr(network, "generation_config", None),
        look_up(decoder.config, "vocab_size") or 2**31,
    )
    return Generation(decoder, seen["input_ids"], seen["arguments"], rules)


@contextlib.contextmanager
def _stopped_at_first_token(seen: dict[str, Any]) -> Iterator[None]:
    """Note what the loop of ``generate()`` is given, and end there."""
    from transformers import GenerationMixin

    def begin(
        decoder: Any,  # noqa: ANN401
        input_ids: Tensor,
        logits_processor: Any,  # noqa: ANN401
        stopping_criteria: Any,  # noqa: ANN401
        generation_config: Any,  # noqa: ANN401, ARG001
        synced_gpus: bool = False,  # noqa: ARG001, FBT001, FBT002 - as it is called
        streamer: Any = None,  # noqa: ANN401, ARG001
        **arguments: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        seen.update(
            decoder=decoder,
            input_ids=input_ids,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            arguments=arguments,
        )
        raise _Begun

    original = GenerationMixin._sample  # noqa: SLF001 - transformers has no public door
    GenerationMixin._sample = begin  # noqa: SLF001
    try:
        yield
    finally:
        GenerationMixin._sample = original  # noqa: SLF001


def _read_rules(
    processors: Any,  # noqa: ANN401
    criteria: Any,  # noqa: ANN401
    start: int,
    config: Any,  # noqa: ANN401
    words: int,
) -> TokenRules:
    """What mmedge can do of what ``generate()`` would; unknown tokens have no score."""
    from transformers.generation import logits_process, stopping_criteria

    forced: list[int] = []
    suppress: list[int] = []
    suppress_first: list[int] = []
    remarks: list[str] = []
    spare = 0
    for each in processors:
        if isinstance(each, logits_process.ForcedBOSTokenLogitsProcessor):
            if start == 1:
                forced.append(int(each.bos_token_id))
        elif isinstance(each, logits_process.SuppressTokensAtBeginLogitsProcessor):
            # It counts from the beginning; what is forced is a beginning too.
            if each.begin_index in (start, start + len(forced)):
                suppress_first += _ids(each.begin_suppress_tokens)
        elif isinstance(each, logits_process.SuppressTokensLogitsProcessor):
            suppress += _ids(each.suppress_tokens)
        elif isinstance(each, logits_process.NoBadWordsLogitsProcessor):
            suppress += [int(word[0]) for word in each.bad_word_ids if len(word) == 1]
            if any(len(word) > 1 for word in each.bad_word_ids):
                remarks.append("bad words of several tokens are not suppressed, as generate() does")
        elif isinstance(
            each,
            (logits_process.InfNanRemoveLogitsProcessor, logits_process.LogitNormalization),
        ):
            continue  # of no effect on which score is the largest
        elif isinstance(each, logits_process.ForcedEOSTokenLogitsProcessor):
            spare = 1  # the last token of a full length is a stop token
        else:
            name = type(each).__name__.removesuffix("Processor").removesuffix("Logits")
            remarks.append(
                f"generate() changes scores by {name}, which mmedge does not: tokens may differ"
            )
    is_whole = not remarks
    stop: list[int] = []
    length: int | None = None
    for criterion in criteria:
        if isinstance(criterion, stopping_criteria.EosTokenCriteria):
            stop += _ids(criterion.eos_token_id)
        elif isinstance(criterion, stopping_criteria.MaxLengthCriteria):
            length = int(criterion.max_length) - spare
        else:
            remarks.append(f"generate() also stops by {type(criterion).__name__}; mmedge does not")
    if (getattr(config, "num_beams", None) or 1) > 1:
        remarks.append(
            f"generation_config says num_beams {config.num_beams}: mmedge takes the best token of "
            "each step, as num_beams 1 does"
        )
    if getattr(config, "do_sample", None):
        remarks.append("generation_config says do_sample: mmedge takes the best token by default")
    return TokenRules(
        tuple(forced),
        tuple(dict.fromkeys(token for token in stop if token < words)),
        tuple(dict.fromkeys(t for t in suppress if t not in stop and t < words)),
        tuple(dict.fromkeys(token for token in suppress_first if token < words)),
        length,
        is_whole,
        tuple(remarks),
    )


def _ids(tokens: Any) -> Sequence[int]:  # noqa: ANN401
    return [int(token) for token in torch.as_tensor(tokens).flatten().tolist()]
