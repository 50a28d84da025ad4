"""Tokens of a model that was made of a checkpoint, held against those of ``generate()``.

The graphs of a bundle are held against the model's modules. This is the other half: that these
modules, run by the rules that a bundle has, do what the checkpoint does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mmedge.errors import ExportError
from mmedge_export.loops import Generate, StateInput
from mmedge_export.noise import quiet
from mmedge_export.sources.huggingface.task import text_alone

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from mmedge_export.model import Model

__all__ = ["check_tokens"]

#: Tokens that are compared, and how far scores of two tokens may be apart, as a share of the
#: largest, so that it is a tie which of them is chosen; and how far scores may differ.
_TOKENS, _TIE, _SCORES = 8, 1e-4, 1e-4

_MORE = "it does more than its cache tells. Write a factory: mmedge init"


def check_tokens(
    network: Any,  # noqa: ANN401
    model: Model,
    inputs: Mapping[str, Tensor],
    sensors: Mapping[str, Tensor] | None = None,
    constants: Mapping[str, Tensor] | None = None,
) -> None:
    """Refuse a model whose tokens are others than ``generate()`` chooses.

    Args:
        network: of transformers.
        model: with a loop that generates.
        inputs: of the network, of at least one row; the model takes some of them.
        sensors: what the model takes in place of those beside tokens.
        constants: what the model's module gave for them; None: it is run.

    Raises:
        ExportError: tokens differ, and it is no tie.
    """
    loop = model.loop
    if not isinstance(loop, Generate):
        raise TypeError(f"expected a model that generates, got {model.name}")
    count = min(_TOKENS, loop.limit)
    with quiet(), torch.no_grad():
        result = network.generate(
            **{name: value.clone() for name, value in inputs.items()},
            **text_alone(network),
            do_sample=False,
            num_beams=1,
            max_new_tokens=count + len(loop.start),
            output_logits=True,
            return_dict_in_generate=True,
        )
        tokens, scores = _run(model, loop, inputs, sensors, constants, count)
    expected_tokens = getattr(result, "sequences", result)
    if isinstance(expected_tokens, dict):  # a generate() of a class's own
        expected_tokens = expected_tokens["sequences"]
    _check_first_scores(network, getattr(result, "logits", None), scores[0], loop)
    prompt = inputs[loop.token] if loop.token in model.inputs else None
    begin = [*loop.start, *([] if prompt is None else prompt[0].tolist())]
    for row, (expected, chosen) in enumerate(
        zip(expected_tokens.tolist(), tokens.tolist(), strict=True)
    ):
        start = [*loop.start, *([] if prompt is None else prompt[row].tolist())]
        if expected[: len(begin)] == start:
            expected = expected[len(begin) :]  # noqa: PLW2901
        for at, (theirs, ours) in enumerate(zip(expected, chosen, strict=False)):
            if theirs in loop.stop or ours in loop.stop:
                break
            if theirs == ours:
                continue
            values = scores[at][row]
            margin = float(values[ours] - values[theirs])
            if margin <= _TIE * float(values.abs().max()):
                break
            raise ExportError(
                f"{type(network).__name__}.generate() chooses token {theirs} as number {at} of "
                f"row {row}, where a plain loop over its decoder chooses {ours}: {_MORE}"
            )


def _check_first_scores(
    network: Any,  # noqa: ANN401
    expected: Any,  # noqa: ANN401
    scores: Tensor,
    loop: Generate,
) -> None:
    """Hold the first scores against those of ``generate()``, where it gives them."""
    if not expected or len(loop.start) > 1:  # of a forced token there are scores too
        return
    theirs = expected[0].float()
    off = float((theirs - scores).abs().max())
    if theirs.shape == scores.shape and not off <= _SCORES * float(theirs.abs().max()):
        raise ExportError(
            f"first scores of {type(network).__name__}.generate() are up to {off:.2g} off those "
            f"of a plain loop over its decoder: {_MORE}"
        )


def _run(
    model: Model,
    loop: Generate,
    inputs: Mapping[str, Tensor],
    sensors: Mapping[str, Tensor] | None,
    known: Mapping[str, Tensor] | None,
    count: int,
) -> tuple[Tensor, list[Tensor]]:
    """Tokens [rows, count], and the scores of each choice."""
    module: Any = model.module
    step: Any = loop.step
    # Values of the network pass the fronts of the model.
    own = {
        name: value
        for name, value in (inputs if sensors is None else sensors).items()
        if name != loop.token and (name != "attention_mask" or name in model.inputs)
    }
    constants: Mapping[str, Tensor] = known or ({} if module is None else module(**own))
    rows = next(iter((inputs if sensors is None else sensors).values())).shape[0]
    tokens = torch.tensor(loop.start, dtype=torch.int64).repeat(rows, 1)
    if loop.token in model.inputs:
        tokens = torch.cat([tokens, inputs[loop.token]], 1)
    states = {name: _empty(value, rows) for name, value in loop.state.items()}
    outputs = {n: v.output for n, v in loop.state.items() if isinstance(v, StateInput)}
    if "attention_mask" in own:
        constants = {**constants, "attention_mask": own["attention_mask"]}
    chosen: list[Tensor] = []
    scores: list[Tensor] = []
    for at in range(count):
        takes_one = loop.token_shape is not None and loop.token_shape[-1] == 1
        pieces = torch.split(tokens, 1 if takes_one else tokens.shape[1], 1)
        for piece in pieces:
            result = step(**{loop.token: piece}, **constants, **states)
            states = {name: result[output] for name, output in outputs.items()}
        values = result[loop.logits].clone()
        hidden = [*loop.suppress, *(() if at else loop.suppress_first)]
        values[:, hidden] = -torch.inf
        tokens = values.argmax(-1, keepdim=True)
        chosen.append(tokens)
        scores.append(result[loop.logits])
    return torch.cat(chosen, 1), scores


def _empty(state: Any, rows: int) -> Tensor:  # noqa: ANN401
    """What a state begins with."""
    sizes = [
        0 if size == state.grows else rows if isinstance(size, str) else size
        for size in state.shape
    ]
    return torch.zeros(sizes, dtype=getattr(torch, state.dtype))
