"""State and loops as a bundle says them: what a stage is given back, and who runs it step by step.

A *state* is an output of a stage that its next run takes as an input. A *loop* runs one stage again
and again within a call: until a stop token (:class:`GenerateLoop`), or over a fixed schedule
(:class:`DenoiseLoop`). A state without a loop lives from call to call. docs/reference/bundle.md
("State", "Loop") specifies every field and what a step computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "CACHE_LAST",
    "CACHE_TOTAL",
    "SCHEDULE_COLUMNS",
    "DenoiseLoop",
    "GenerateLoop",
    "Initial",
    "StateSpec",
]

Initial = Literal["empty", "zeros", "stored", "output"]

#: Inputs that the file of a cache in place takes beside those of its stage: for each row the place
#: of its last token, and how many there are with those of the run.
CACHE_LAST, CACHE_TOTAL = "cache.last", "cache.total"

#: What the numbers of a schedule's row are, in order; docs/reference/bundle.md has the formulas.
SCHEDULE_COLUMNS = (
    "time",
    "input_scale",
    "estimate_latent",
    "estimate_prediction",
    "next_estimate",
    "next_latent",
    "next_prediction",
    "next_last_estimate",
    "next_noise",
)


@dataclass(frozen=True, slots=True)
class StateSpec:
    """What a stage hands to itself: its ``output`` of one run is its ``input`` of the next.

    ``axis`` is the one along which it grows by what a run adds; None: it keeps its shape. The first
    run takes what ``initial`` says: ``empty`` (size 0 along ``axis``), ``zeros``, ``stored`` (the
    tensor ``state.<input>`` of the samples file), or ``output`` (the network's output ``source``).
    """

    stage: str
    input: str
    output: str
    axis: int | None = None
    initial: Initial = "zeros"
    source: str | None = None


@dataclass(frozen=True, slots=True)
class GenerateLoop:
    """A stage that is run token by token: the last tokens in, scores of the next one out.

    ``token`` is the stage's input for int32 or int64 tokens, [batch] or [batch, new]. The first run
    takes ``start``, and after it the caller's tokens where ``token`` is an input of a modality too.
    ``position`` is the input for the number of tokens before each token. ``logits`` is the output
    with a score of every token, [batch, vocabulary] or [batch, new, vocabulary], of which the last
    counts. Tokens of ``suppress`` are never chosen, those of ``suppress_first`` not as the first.
    A row ends at a token of ``stop``; all end after ``limit`` tokens. ``temperature`` 0 chooses the
    best; ``top_k`` 0 and ``top_p`` 1 leave all tokens to choose from. ``tokenizer`` is the path of
    what turns tokens into text, in the format of the ``tokenizers`` library. With ``whole_prompt``
    the caller's tokens see each other: they are taken in one run, and none is kept for a call that
    begins with the same ones.
    """

    kind: Literal["generate"]
    stage: str
    token: str
    logits: str
    limit: int
    position: str | None = None
    start: tuple[int, ...] = ()
    stop: tuple[int, ...] = ()
    suppress: tuple[int, ...] = ()
    suppress_first: tuple[int, ...] = ()
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    tokenizer: str | None = None
    whole_prompt: bool = False


@dataclass(frozen=True, slots=True)
class DenoiseLoop:
    """A stage that is run over a fixed schedule, from noise to a latent.

    ``latent`` is the stage's input that each step changes, ``time`` the one that takes the step's
    time, ``prediction`` the output, of the latent's shape. A row of ``schedule`` has the numbers
    that :data:`SCHEDULE_COLUMNS` names. The latent begins as ``initial_scale`` times normal noise.
    ``clip`` limits every estimate to plus and minus itself. With ``guidance`` g the stage runs
    twice, the second time with the tensors ``unconditional.<name>`` of the samples file in place of
    those that ``unconditional`` names, and the prediction is second + g * (first - second).
    ``decoder`` is a stage that makes outputs of the last latent.
    """

    kind: Literal["denoise"]
    stage: str
    latent: str
    time: str
    prediction: str
    schedule: tuple[tuple[float, ...], ...]
    initial_scale: float = 1.0
    clip: float | None = None
    guidance: float | None = None
    unconditional: tuple[str, ...] = ()
    decoder: str | None = None
