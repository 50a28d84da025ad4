"""What callers pass to a stream, checked: numbers that can be meant, and names that there are."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import InputError
from mmedge.stream.clock import read_seconds

if TYPE_CHECKING:
    from collections.abc import Collection

    from mmedge.spec import Manifest

__all__ = [
    "check_names",
    "check_numbers",
    "read_deadline",
    "read_loop_options",
    "read_reset_after",
    "read_timeout",
    "read_trigger",
]

#: Triggers a second of a timer: one a day to what float64 seconds since 1970 can tell apart.
LEAST_HZ, MOST_HZ = 1e-5, 1e5


def check_names(what: str, by_modality: Mapping[str, object], modalities: list[str]) -> None:
    """Raise InputError where ``by_modality`` has a modality that the bundle has not."""
    for name in by_modality:
        if name not in modalities:
            raise InputError(
                f"{what}: unknown modality {name!r}; this bundle has {', '.join(modalities)}"
            )


def check_numbers(counts: Mapping[str, tuple[Any, int]], future: Any) -> None:  # noqa: ANN401
    """Raise InputError for a count below its least, one that is not whole, or a bad ``future``."""
    for what, (value, least) in counts.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise InputError(f"{what} must be a whole number, got {value!r}")
        if not value >= least:
            raise InputError(f"{what} must be at least {least}, got {value}")
    if not read_seconds(future, "future") >= 0:
        raise InputError(f"future must be at least 0, got {future}")


def read_deadline(deadline_ms: Any) -> float | None:  # noqa: ANN401
    """A deadline in seconds; None: none.

    Raises:
        InputError: it is no finite number above 0.
    """
    if deadline_ms is None:
        return None
    deadline = read_seconds(deadline_ms, "deadline_ms (milliseconds; None: no deadline)")
    if not deadline > 0:
        raise InputError(f"deadline_ms must be above 0, got {deadline_ms}")
    return deadline / 1000.0


def read_loop_options(
    manifest: Manifest,
    newer_trigger: Any,  # noqa: ANN401
    loop_options: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The options of every run of the loop.

    Raises:
        InputError: options of a loop where there is none, or those that a stream has itself.
    """
    if newer_trigger not in ("wait", "cancel"):
        raise InputError(f"newer_trigger: expected 'wait' or 'cancel', got {newer_trigger!r:.80}")
    if manifest.loop is None and (newer_trigger != "wait" or loop_options):
        name = "loop_options" if loop_options else "newer_trigger"
        raise InputError(f"{name}: bundle {manifest.name!r} has no loop; leave it out")
    options = dict(loop_options or {})
    for name, instead in (("state", "begins each loop anew"), ("deadline_ms", "has its own")):
        if name in options:
            raise InputError(f"loop_options: {name!r}: a stream {instead}; leave it out")
    return options


def read_reset_after(
    reset_after: Any,  # noqa: ANN401
    names: Collection[str],
) -> dict[str, float]:
    """Seconds by name, of modalities and fusion stages with state, after which it begins anew.

    Args:
        reset_after: a number for all of them, or a number by name; None: none.
        names: those that have a state.

    Raises:
        InputError: a name without state, or no finite number above 0.
    """
    if reset_after is None:
        return {}
    by_name = reset_after if isinstance(reset_after, Mapping) else dict.fromkeys(names, reset_after)
    if not names:
        raise InputError("reset_after: no stage that this stream runs has a state; leave it out")
    limits: dict[str, float] = {}
    for name, seconds in by_name.items():
        if name not in names:
            raise InputError(f"reset_after: {name!r} has no state; {', '.join(names)} do")
        limits[name] = read_seconds(seconds, f"reset_after of {name!r}")
        if not limits[name] > 0:
            raise InputError(f"reset_after of {name!r} must be above 0 s, got {seconds}")
    return limits


def read_timeout(timeout: Any) -> float | None:  # noqa: ANN401
    """Seconds to wait; None for as long as it takes, as are infinity and centuries.

    Raises:
        InputError: it is no number, NaN or below 0.
    """
    if timeout is None or (isinstance(timeout, float) and timeout == float("inf")):
        return None
    seconds = read_seconds(timeout, "timeout (None: as long as it takes)")
    if seconds < 0:
        raise InputError(f"timeout must be 0 s or more, got {timeout}; 0 does not wait")
    return None if seconds > threading.TIMEOUT_MAX else seconds


def read_trigger(
    trigger: Any,  # noqa: ANN401
    manifest: Manifest,
) -> tuple[frozenset[str], float | None]:
    """The modalities that trigger (none: a timer), and the rate of triggers in Hz if known.

    Raises:
        InputError: it is no modality, and no rate that a timer can keep.
    """
    rates = {modality.name: modality.rate_hz for modality in manifest.modalities}
    if isinstance(trigger, str):
        if trigger == "any":
            return frozenset(rates), None
        if trigger not in rates:
            raise InputError(
                f"trigger {trigger!r}: expected 'any', a rate in Hz, or one of {', '.join(rates)}"
            )
        return frozenset({trigger}), rates[trigger]
    if isinstance(trigger, bool) or not isinstance(trigger, int | float | np.integer | np.floating):
        raise InputError(
            f"trigger: expected 'any', a rate in Hz, or one of {', '.join(rates)}, got {trigger!r}"
        )
    if not trigger > 0:
        raise InputError(f"a trigger's rate must be above 0 Hz, got {trigger}")
    if not LEAST_HZ <= trigger <= MOST_HZ:
        raise InputError(f"a trigger's rate must be {LEAST_HZ:g} to {MOST_HZ:g} Hz, got {trigger}")
    return frozenset(), float(trigger)
