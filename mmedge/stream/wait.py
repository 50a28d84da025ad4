"""What a stream without a result waits for, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmedge.stream.result import Health

__all__ = ["describe_wait"]


def describe_wait(health: Health, trigger: str | float, timeout: float | None) -> str:
    """Why there was no result within ``timeout`` seconds, and what to do."""
    lines = []
    for name, state in health.modalities.items():
        drops = ", ".join(f"{count} {why}" for why, count in state.dropped.items())
        lines.append(
            f"{name} {'present' if state.present else f'absent ({state.reason})'}, "
            f"{state.pushed} pushed" + (f" ({drops})" if drops else "")
        )
    span = "before nothing was left to happen" if timeout is None else f"within {timeout:g} s"
    return (
        f"no result {span}: trigger {trigger!r} fired {health.triggers} times, "
        f"{health.triggers_pending} under way; {'; '.join(lines)}. "
        "Push what triggers, or wait longer"
    )
