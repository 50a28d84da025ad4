"""What tests of streams ask of a result, and of the account that a stream keeps."""

from __future__ import annotations

from streaming import COLUMNS


def part(result, modality):
    return result.outputs["out"][0, COLUMNS[modality]].tolist()


def balanced(stream):
    """The account of every modality and of the triggers adds up; returns the snapshot."""
    health = stream.health()
    for name, state in health.modalities.items():
        assert state.pushed == state.used + sum(state.dropped.values()) + state.pending, name
    assert health.triggers == (
        health.results
        + health.triggers_superseded
        + health.triggers_closed
        + health.triggers_pending
    )
    return health
