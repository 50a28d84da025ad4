"""Limits that a change must keep: ``p99=5%``, ``p50=0.2ms``, ``metric=0.5``.

A gate is broken when the worsening is larger than the limit *and* shown: its 95 % interval lies on
the worse side of no change. Noise alone rarely does both, and a true change that is larger than the
limit by two standard errors is found in 97 of 100 comparisons. The interval need not lie beyond the
limit: that gate would let most changes of just more than the limit pass. A gate that is kept is no
proof; where the interval reaches beyond the limit the outcome says how far.

Sizes and metrics are exact, and the number alone decides. So it does for figures that are one
number a report (memory, cold start, energy, medians of stages); the outcome says that no confidence
stands behind it.

How often gates err, from 200 simulated pairs of runs for each true slowdown. A run has 10 sessions
of 100 calls; latencies vary by 10 % and are autocorrelated (0.5 between neighbours), and sessions
differ by 0.5 %. Share of gates broken:

=============  ======  ======
true slowdown  p50=3%  p99=5%
=============  ======  ======
none           0       0.015
1 %            0.02    0.02
3 %            0.47    0.095
5 %            0.98    0.485
8 %            1       0.87
=============  ======  ======

So a limit should lie at half of the slowdown that must be found, and well above the half width of
the interval when nothing changed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmedge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmedge.bench.report.compared_figure import ComparedFigure

__all__ = ["Gate", "Outcome", "check", "parse_gate"]

EXAMPLES = "p99=5%, p50=0.2ms, throughput=3%, memory=16MiB, metric=0.005, stage camera p50=10%"

#: Unit of a limit -> unit of the row that it fits, and how many of the row's units it is.
UNITS = {
    "ms": ("ms", 1.0),
    "us": ("ms", 1e-3),
    "s": ("ms", 1e3),
    "Hz": ("Hz", 1.0),
    "KiB": ("bytes", 2.0**10),
    "MiB": ("bytes", 2.0**20),
    "J": ("J", 1.0),
    "mJ": ("J", 1e-3),
}
#: Row -> unit of a limit that is written as a number alone.
PLAIN = {"metric": "", "deadline": "share"}
NAMES = {
    "p50": "ms",
    "p90": "ms",
    "p99": "ms",
    "p99.9": "ms",
    "mean": "ms",
    "throughput": "Hz",
    "deadline": "share",
    "cold_start": "ms",
    "memory": "bytes",
    "size": "bytes",
    "metric": "",
    "energy": "J",
    "first_ms": "ms",
    "step_ms": "ms",
    "steps_per_s": "Hz",
    "state_bytes": "bytes",
}
#: Rows whose calls can be resampled: without an interval their gates are errors.
RESAMPLED = (
    "p50", "p90", "p99", "p99.9", "mean", "throughput", "deadline",
    "first_ms", "step_ms", "steps_per_s",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gate:
    """A limit to the worsening of one figure.

    Attributes:
        text: as it was written.
        name: of the row of a comparison.
        limit: in the row's unit (milliseconds, Hz, bytes, joules, share of calls, the metric's
            own), or a share of the baseline when ``relative``; at least 0.
        relative: whether it was written in percent.
    """

    text: str
    name: str
    limit: float
    relative: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a gate: whether it is ``broken``, and ``why`` in words."""

    gate: Gate
    broken: bool
    why: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"gate": self.gate.text, "broken": self.broken, "why": self.why}


def parse_gate(text: str) -> Gate:
    """Read a gate such as ``p99=5%``.

    A percentage is relative to the baseline, a number with a unit is absolute. ``metric`` takes a
    percentage or a plain number in the metric's own units (0.005 is half a point of an accuracy
    that is stated as a share); ``deadline`` takes a plain number, the share of all calls (0.01: one
    more missed call in a hundred).

    Raises:
        InputError: it cannot be read; the message gives examples.
    """
    match = re.fullmatch(r"\s*([^=]+?)\s*=\s*(\d+(?:\.\d*)?|\.\d+)\s*(%|[A-Za-z]*)\s*", text)
    if match is None:
        raise _misuse(text, "expected NAME=LIMIT with a limit of at least 0")
    name, number, unit = match[1].replace("p99_9", "p99.9"), float(match[2]), match[3]
    kind = "ms" if re.fullmatch(r"stage .+ p50", name) else NAMES.get(name)
    if kind is None:
        raise _misuse(text, f"unknown figure {name!r}, expected {', '.join(NAMES)}, stage NAME p50")
    if unit == "%" and name != "deadline":
        return Gate(text, name, number / 100.0, relative=True)
    if unit == "" and name in PLAIN:
        return Gate(text, name, number, relative=False)
    if unit in UNITS and UNITS[unit][0] == kind:
        return Gate(text, name, number * UNITS[unit][1], relative=False)
    fits = ["%"] if name != "deadline" else []
    fits += ["a number alone"] if name in PLAIN else []
    fits += [unit_name for unit_name, (other, _) in UNITS.items() if other == kind]
    raise _misuse(text, f"the limit of {name} is in {' or '.join(fits)}, got {unit or 'no unit'}")


def check(gate: Gate, rows: Sequence[ComparedFigure]) -> Outcome:
    """Hold a gate against the rows of a comparison.

    Raises:
        InputError: no row has that name, or a report cannot give the figure: that is no pass.
    """
    row = next((row for row in rows if row.name == gate.name), None)
    if row is None:
        names = ", ".join(row.name for row in rows)
        raise InputError(f"gate {gate.text!r}: the reports have no {gate.name!r}, only {names}")
    worse = row.worsening
    if worse is None or row.a is None or (row.name in RESAMPLED and row.verdict == "not shown"):
        raise InputError(
            f"gate {gate.text!r}: {row.name} cannot be judged: {row.note}; measure with more "
            "calls, or with what the figure needs, or leave the gate out"
        )
    if gate.relative and row.a == 0.0:
        raise InputError(
            f"gate {gate.text!r}: {row.name} of A is 0, which has no percentage; give an absolute "
            f"limit such as {EXAMPLES}"
        )
    amount = worse / abs(row.a) if gate.relative else worse
    past = amount > gate.limit and not math.isclose(amount, gate.limit, rel_tol=1e-9)
    worsening_shown = row.verdict in {"slower", "worse"}
    change = f"{_amount(amount, gate, row)} worse" if amount > 0.0 else "no worse"
    worst = _worst(gate, row)
    if row.verdict == "not shown":
        return Outcome(gate, past, f"{change}; {row.note}: no confidence behind it")
    if worst is None:
        return Outcome(gate, past, f"{change}, an exact figure")
    why = f"{change}, {'shown' if worsening_shown else 'no worsening shown'}"
    broken = past and worsening_shown
    if worst > gate.limit and not broken:
        why += f"; up to {_amount(worst, gate, row)} worse cannot be excluded: measure longer"
    return Outcome(gate, broken, why)


def _worst(gate: Gate, row: ComparedFigure) -> float | None:
    """The worse end of the row's interval, as the gate counts; None where there is no interval."""
    if row.difference_95 is not None:
        return row.difference_95[1]
    if row.ratio_95 is None or row.a is None:
        return None
    low, high = row.ratio_95
    share = 1.0 - low if row.higher_is_better else high - 1.0
    return share if gate.relative else share * row.a


def _amount(amount: float, gate: Gate, row: ComparedFigure) -> str:
    return f"{100.0 * amount:.3g} %" if gate.relative else f"{amount:.4g} {row.unit}".rstrip()


def _misuse(text: str, why: str) -> InputError:
    return InputError(f"gate {text!r}: {why}; examples: {EXAMPLES}")
