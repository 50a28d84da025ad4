"""The stages of a loop, and what they were held against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmedge.loop_spec import DenoiseLoop, GenerateLoop, StateSpec
    from mmedge.spec import Array
    from mmedge_export.proof.loop_parts import LoopCase
    from mmedge_export.proof.network import NetworkProof

__all__ = ["LoopProof", "LoopSample"]


@dataclass(frozen=True)
class LoopSample:
    """What a loop adds to a golden sample: one step, and a whole run."""

    step: Mapping[str, Array]
    outputs: Mapping[str, Array]
    loop: Mapping[str, Array]


@dataclass(frozen=True)
class LoopProof:
    """The stages of a loop, and what they were held against.

    Attributes:
        proofs: of the step, and of a decoder.
        loop: as the manifest says it.
        samples: what a step took and gave, and a whole run, for each case.
        cases: what each run began with.
        states: of the step.
        opt: sizes that engines are tuned for, where they are not the example's.
        first_states: what states begin with that are stored.
        unconditional: what stands for constants in a run without condition.
        assets: further files by path in the bundle.
    """

    proofs: tuple[NetworkProof, ...]
    loop: GenerateLoop | DenoiseLoop
    samples: tuple[LoopSample, ...]
    cases: tuple[LoopCase, ...]
    states: tuple[StateSpec, ...] = ()
    opt: Mapping[str, int] = field(default_factory=dict)
    first_states: Mapping[str, Array] = field(default_factory=dict)
    unconditional: Mapping[str, Array] = field(default_factory=dict)
    assets: Mapping[str, Path] = field(default_factory=dict)
