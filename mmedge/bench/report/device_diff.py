"""What differs in the state of the machine between two reports, and may explain their figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mmedge.bench.report.report import Report

__all__ = ["explanations", "mean"]

#: Words in the name of a figure of the device's state that bears on speed.
STATE = ("frequency", "load", "temperature", "power")
#: Relative difference up to which such a figure is the same; absolute below 1, for shares.
STATE_DIFFERS = 0.1


def explanations(a: Report, b: Report) -> Iterator[str]:
    """A line for each part of the state that bears on speed and differs."""
    for who, report in (("A", a), ("B", b)):
        throttled = report.device.get("throttled")
        if throttled and not throttled.startswith("unknown"):
            yield f"{who} was throttled: {throttled}"
    ours, theirs = _state(a.device), _state(b.device)
    for key in dict.fromkeys((*ours, *theirs)):
        here, there = ours.get(key), theirs.get(key)
        if _differs(key, here, there):
            yield f"{key}: {_words(here)} in A, {_words(there)} in B"


def _state(device: Mapping[str, Any]) -> dict[str, Any]:
    """What the device was, by dotted name: lasting facts, its state before, and means during."""
    before = device.get("before", {})
    moments = {"before", "during", "after", "sampling", "throttled"}
    lasting = {key: value for key, value in device.items() if key not in moments | before.keys()}
    samples = [_leaves(sample, "during.") for sample in device.get("during", ())]
    names = dict.fromkeys(name for sample in samples for name in sample if _bears(name))
    return {
        **_leaves(lasting),
        **_leaves(before, "before."),
        **{name: mean([sample.get(name) for sample in samples]) for name in names},
    }


def _leaves(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{path}{key}"
        if isinstance(value, dict):
            leaves |= _leaves(value, f"{name}.")
        elif key == "load_average" and value:
            leaves[name] = value[0]  # over the last minute
        elif key.startswith("frequency") and isinstance(value, list):
            leaves[name] = mean(value)
        else:
            leaves[name] = value
    return leaves


def mean(values: Sequence[Any]) -> float | None:
    """Of those that are numbers; None where none is."""
    numbers = [value for value in values if isinstance(value, int | float)]
    return sum(numbers) / len(numbers) if numbers else None


def _bears(name: str) -> bool:
    """Whether a figure of that name bears on speed."""
    return any(word in name for word in STATE)


def _differs(name: str, a: Any, b: Any) -> bool:  # noqa: ANN401
    """Whether two values of one part of the state are worth a word."""
    if a == b:
        return False
    numbers = [value for value in (a, b) if isinstance(value, int | float)]
    if _bears(name) and len(numbers) == 2:
        return bool(abs(a - b) > STATE_DIFFERS * max(abs(a), abs(b), 1.0))
    # Counters and free memory differ between any two runs.
    return not numbers or not name.startswith(("before.", "during."))


def _words(value: Any) -> str:  # noqa: ANN401
    return f"{value:g}" if isinstance(value, float) else str(value)
