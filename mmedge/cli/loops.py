"""State and loop of a bundle in words, for tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge.cli.console import number

if TYPE_CHECKING:
    from mmedge.loop_spec import DenoiseLoop, GenerateLoop, StateSpec
    from mmedge.spec import Manifest

__all__ = ["loop_rows"]

#: Token ids that a row lists.
_LISTED = 8


def loop_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """What the bundle's loop does, and each state: what it takes, and what it begins with."""
    rows = []
    for loop in manifest.loops:
        words = _generate(loop) if loop.kind == "generate" else _denoise(loop)
        rows.append((f"loop {loop.kind}", words))
    rows += [(f"state {state.input}", _state(manifest, state)) for state in manifest.states]
    return rows


def _generate(loop: GenerateLoop) -> str:
    if loop.temperature:
        choice = f"sampled at temperature {number(loop.temperature)}"
    else:
        choice = "the best token"
    parts = [
        f"{loop.stage} takes {loop.token}, gives {loop.logits}",
        f"at most {loop.limit} tokens",
        choice,
        f"begins with {_tokens(loop.start)}" if loop.start else "begins with the caller's tokens",
        f"stops at {_tokens(loop.stop)}" if loop.stop else "no stop token",
        "gives text" if loop.tokenizer else "gives token ids",
    ]
    return "; ".join(parts)


def _denoise(loop: DenoiseLoop) -> str:
    parts = [
        f"{loop.stage} takes {loop.latent} and {loop.time}, gives {loop.prediction}",
        f"{len(loop.schedule)} steps",
    ]
    if loop.guidance is not None:
        parts.append(f"guidance {number(loop.guidance)} over {', '.join(loop.unconditional)}")
    if loop.decoder is not None:
        parts.append(f"then {loop.decoder}")
    return "; ".join(parts)


def _state(manifest: Manifest, state: StateSpec) -> str:
    stage = next(stage for stage in manifest.stages if stage.name == state.stage)
    spec = next(spec for spec in stage.inputs if spec.name == state.input)
    begins = f"as {state.source}" if state.source else f"as {state.initial}"
    shape = ", ".join(map(str, spec.shape))
    grows = "" if state.axis is None else f"; grows along {spec.shape[state.axis]}"
    return (
        f"{state.stage} takes {state.output} of its run before, {spec.dtype}[{shape}]{grows}; "
        f"begins {begins}"
    )


def _tokens(tokens: tuple[int, ...]) -> str:
    more = f" and {len(tokens) - _LISTED} more" if len(tokens) > _LISTED else ""
    return f"token {', '.join(map(str, tokens[:_LISTED]))}{more}"
