"""What a replayed result is compared by, and what came of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ComparedResult", "DumpComparison", "Outcome", "compare_outputs"]

#: ``equal`` and ``different``: it was computed again. ``not_computed``: the stream computed nothing
#: for it, but repeated outputs or had none. ``not_reproducible``: something that it takes is not
#: there.
Outcome = Literal["equal", "different", "not_computed", "not_reproducible"]


@dataclass(frozen=True, slots=True)
class ComparedResult:
    """One result.

    Attributes:
        number: since the recorder began, from 0.
        t: its time, in seconds of the stream's clock.
        outcome: see :data:`Outcome`.
        words: what differs, or why it was not compared; empty where it is equal.
    """

    number: int
    t: float
    outcome: Outcome
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DumpComparison:
    """What came of a replay of a dump.

    Attributes:
        method: ``whole run``: all of the stream ran again on a simulated clock, and each field of
            each result was compared. ``each result``: each was computed again of the samples and
            states that it used, and its outputs, ages and failure were compared.
        compared: in words, what was compared, and what was not.
        results: oldest first.
        remarks: in words, what may explain differences, such as another processor.
    """

    method: Literal["whole run", "each result"]
    compared: str
    results: tuple[ComparedResult, ...]
    remarks: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Results by outcome."""
        return dict(Counter(result.outcome for result in self.results))

    @property
    def is_equal(self) -> bool:
        """Whether some results were compared, and all of those are equal."""
        counts = self.counts
        return bool(counts.get("equal")) and not counts.get("different")


def compare_outputs(
    recorded: Mapping[str, Any] | None,
    replayed: Mapping[str, Any] | None,
    *,
    what: str = "output",
) -> list[str]:
    """What differs between outputs, or ``what`` they are, bit for bit, in words."""
    if recorded is None or replayed is None:
        if recorded is replayed:
            return []
        have, lack = ("recorded", "replayed") if replayed is None else ("replayed", "recorded")
        return [f"{what}s: there are some {have}, and none {lack}"]
    differences = []
    for name in dict.fromkeys((*recorded, *replayed)):
        if name not in recorded or name not in replayed:
            where = "replayed" if name not in recorded else "recorded"
            differences.append(f"{what} {name!r} is only {where}")
            continue
        one, other = recorded[name], replayed[name]
        if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
            if difference := _compare_arrays(one, other):
                differences.append(f"{what} {name!r}: {difference}")
        elif one != other:
            differences.append(f"{what} {name!r}: recorded {one!r:.80}, replayed {other!r:.80}")
    return differences


def _compare_arrays(one: Any, other: Any) -> str:  # noqa: ANN401
    if one.dtype != other.dtype or one.shape != other.shape:
        return f"recorded {one.dtype}{list(one.shape)}, replayed {other.dtype}{list(other.shape)}"
    if one.tobytes() == other.tobytes():
        return ""
    unequal = _rows(one) != _rows(other)
    count = int(unequal.any(axis=1).sum())
    words = f"{count} of {one.size} elements differ"
    if one.dtype.kind in "fiu":
        with np.errstate(all="ignore"):
            gap = np.abs(one.astype(np.float64) - other.astype(np.float64))
        finite = gap[np.isfinite(gap)]
        if finite.size:
            words += f", by up to {finite.max():.3g}"
        if finite.size < gap.size:
            words += f"; {gap.size - finite.size} are not finite"
    return words


def _rows(array: Any) -> Any:  # noqa: ANN401
    """The bytes of each element: uint8 [elements, itemsize]."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(array.size, -1)
