"""How many threads a stage is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge.device import usable_cores

if TYPE_CHECKING:
    from mmedge.spec import Stage

__all__ = ["FLOPS_PER_THREAD", "stage_threads"]

#: Fewest floating-point operations for which a further thread pays. Measured with ONNX Runtime
#: 1.32 on 2 cores (AMD EPYC): stages of 1 to 12 MFLOP took 1.0 to 1.4 times as long with 2 threads
#: as with 1, one of 25 MFLOP 0.9, those above 48 MFLOP 0.6 to 0.8. Waking a thread that sleeps
#: costs processor time, too.
FLOPS_PER_THREAD = 8_000_000


def stage_threads(stage: Stage, *, alone: bool, threads: int | None = None) -> int | None:
    """Threads of a stage's session; None: the library's default.

    Args:
        stage: the stage; one with little work gets few threads.
        alone: whether it is the only stage.
        threads: most threads; None: the library's default.
    """
    if alone or not stage.flops:
        return threads
    enough = max(1, stage.flops // FLOPS_PER_THREAD)
    return enough if enough < (threads or usable_cores()) else threads
