"""Whether a module is a step at all, and whether runs of a graph are those of the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import ExportError
from mmedge.tolerance import difference
from mmedge_export.capture.golden import repeatable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mmedge.spec import Array, Tolerance
    from mmedge_export.capture.golden import Run
    from mmedge_export.capture.proof_options import ProofOptions
    from mmedge_export.capture.token_steps import TokenRun, TokenSteps
    from mmedge_export.loops import Generate

__all__ = ["check_generate", "check_logits", "check_prefill", "compare_tokens"]


def check_logits(
    loop: Generate, logits: Array, tokens: Array, token_shape: Sequence[int | str]
) -> None:
    """Refuse scores of another form, and tokens of the loop that have none.

    Args:
        loop: names tokens that stop or are never chosen.
        logits: of one run.
        tokens: that it took, [batch, new].
        token_shape: of the token input.
    """
    batch, new = tokens.shape
    forms = [(batch,)] if len(token_shape) == 1 else [(batch,), (batch, new)]
    if logits.dtype.kind != "f" or logits.shape[:-1] not in forms:
        text = " or ".join(str([*form, "vocabulary"]) for form in forms)
        raise ExportError(
            f"Generate: {loop.logits!r} is {logits.dtype} {list(logits.shape)} for tokens "
            f"{list(tokens.shape)}; expected floats {text}: a score of each token of the vocabulary"
        )
    words = logits.shape[-1]
    for name in ("stop", "suppress", "suppress_first"):
        for token in getattr(loop, name):
            if token >= words:
                raise ExportError(
                    f"Generate: {name} has token {token}, but {loop.logits!r} scores {words} "
                    f"tokens, 0 to {words - 1}; it would never be chosen"
                )


def check_generate(
    steps: TokenSteps,
    run: Run,
    example: Mapping[str, Array],
    tolerance: Tolerance,
    leave: Callable[[str], None],
    prompt: tuple[Mapping[str, Array], Mapping[str, Array], Array] | None = None,
) -> None:
    """Refuse a step that writes to what it takes, or whose scores do not follow from it.

    Args:
        steps: names of what it takes.
        run: the step.
        example: what it takes in the middle of a run.
        tolerance: of what it gives when it is run again.
        leave: called with a line on a state that no score follows from.
        prompt: what a first run takes: constants, states and tokens. Something else may stand in
            the place of the example's token, as a picture does in places of a prompt.
    """
    loop = steps.loop
    scores = steps.scores(repeatable(run, example, tolerance))

    def changes(others: Mapping[str, Array]) -> bool:
        """Whether scores are others with other values in place of some."""
        return steps.scores(run({**example, **others})).tobytes() != scores.tobytes()

    find_writes = getattr(run, "written_inputs", None)  # of a torch module
    for name in () if find_writes is None else find_writes(example):
        raise ExportError(
            f"Generate: the step writes to its input {name!r}; a state is returned, not written: "
            "build the new one with torch.cat, torch.where or a clone"
        )
    words = scores.shape[-1]
    other = {loop.token: _other_tokens(example[loop.token], words)}
    if not changes(other) and not (
        prompt is not None and _prompt_changes(steps, run, *prompt, words)
    ):
        raise ExportError(
            f"Generate: {loop.logits!r} stays the same whatever {loop.token!r} is; use the token "
            "in step"
        )
    rng = np.random.default_rng(0)
    others = {state.input: _other(example[state.input], rng) for state in steps.states}
    if not others:
        return
    if not changes(others):
        raise ExportError(
            f"Generate: {loop.logits!r} stays the same whatever the states are "
            f"({', '.join(others)}): step does not use what came before; attend to the past, or "
            "leave state out"
        )
    for name, value in others.items():
        if len(others) > 1 and not changes({name: value}):
            leave(f"state {name!r}: {loop.logits!r} of the example does not depend on it")


def _prompt_changes(
    steps: TokenSteps,
    run: Run,
    constants: Mapping[str, Array],
    states: Mapping[str, Array],
    tokens: Array,
    words: int,
) -> bool:
    """Whether scores after a prompt are others after another one."""
    if not steps.takes_many:
        return False
    scores: list[bytes] = []
    for each in (tokens, _other_tokens(tokens, words)):
        (end,) = steps.force(run, constants, states, [each])
        scores.append(steps.scores(end.outputs).tobytes())
    return scores[0] != scores[1]


def _other_tokens(tokens: Array, words: int) -> Array:
    return ((tokens.astype(np.int64) + 1) % words).astype(tokens.dtype)


def _other(value: Array, rng: np.random.Generator) -> Array:
    """Another state of the same kind, in the same order of magnitude."""
    if value.dtype.kind == "f":
        scale = float(np.abs(value).max(initial=0.0)) or 1.0
        noise = rng.uniform(-scale, scale, value.shape)
        return noise.astype(value.dtype)
    return np.logical_not(value) if value.dtype == np.bool_ else np.flip(value).copy()


def check_prefill(
    steps: TokenSteps,
    run: Run,
    constants: Mapping[str, Array],
    states: Mapping[str, Array],
    tokens: Array,
    tolerance: Tolerance,
) -> None:
    """Refuse a step for which tokens taken at once are another thing than one after another.

    Args:
        steps: how the step is called.
        run: the step.
        constants: what stays the same.
        states: what the first run takes.
        tokens: [batch, several].
        tolerance: of what it gives.
    """
    if not steps.takes_many:
        return
    (whole,) = steps.force(run, constants, states, [tokens])
    count = tokens.shape[1]
    single_tokens = [tokens[:, at : at + 1] for at in range(count)]
    *_, last = steps.force(run, constants, states, single_tokens)
    pairs = {
        state.output: (whole.outputs[state.output], last.outputs[state.output])
        for state in steps.states
    }
    pairs[steps.loop.logits] = steps.scores(whole.outputs), steps.scores(last.outputs)
    for name, (at_once, in_turn) in pairs.items():
        deviation = difference(at_once, in_turn, tolerance)
        if not deviation.passes:
            raise ExportError(
                f"Generate: {count} tokens at once are not what they are one after another: "
                f"{name!r} {deviation}. Check that a token sees itself, the past and no later "
                "token (a causal mask of [new, past + new]), and that positions count from the "
                'size of the past; or take one token at a time: token_shape=("batch", 1)'
            )


def compare_tokens(
    steps: TokenSteps, what: str, golden: TokenRun, result: TokenRun, options: ProofOptions
) -> None:
    """Hold a greedy run of a graph against the network's, token by token.

    Where they part and the network's two tokens are nearer than the tolerance, it is a tie, which
    is told and no fault.

    Args:
        steps: how a token is chosen, and which end a row.
        what: the case.
        golden: the network's run.
        result: the graph's.
        options: tolerance, and who is told.

    Raises:
        ExportError: they part elsewhere.
    """
    same = golden.tokens.shape == result.tokens.shape and np.array_equal(
        golden.tokens, result.tokens
    )
    if same:
        return
    ended = np.zeros(len(golden.tokens), bool)
    for at, (expected, got) in enumerate(zip(golden.scores, result.scores, strict=False)):
        choices = steps.choose(expected, first=not at), steps.choose(got, first=not at)
        for row in np.flatnonzero(~ended & (choices[0] != choices[1])):
            best, other = (int(choice[row]) for choice in choices)
            scale = float(np.abs(expected[row]).max())
            margin = float(expected[row, best] - expected[row, other])
            allowed = 2 * (options.tolerance.rtol * scale + options.tolerance.atol)
            values = (
                f"{what}, row {row}, token {at}: the network chooses {best} "
                f"({expected[row, best]:.7g}), the graph {other} ({expected[row, other]:.7g} in "
                f"the network, {got[row, other]:.7g} against {got[row, best]:.7g} in the graph)"
            )
            if abs(margin) <= allowed:
                options.leave(f"{values}: a tie; tokens after it were not compared")
                return
            raise ExportError(f"the graph does not generate what the network does: {values}")
        ended |= np.isin(choices[0], steps.loop.stop)
    raise ExportError(
        f"the graph does not generate what the network does: {what}: the network gives "
        f"{golden.tokens.shape[1]} tokens, the graph {result.tokens.shape[1]}"
    )
