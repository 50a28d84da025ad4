"""Logs at scale: recordings, or folders of samples, through a bundle by Ray Data; Parquet out.

>>> from mmedge_ray import run_recordings
>>> summary = run_recordings(                                   # doctest: +SKIP
...     "robot.mmedge", "/logs", "/results", trigger="camera", actors=8
... )

Each recording is played on a simulated clock, so that its results do not depend on how fast the
machine is, and become one Parquet file. A run that was stopped goes on where it ended.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmedge_ray.outcome import Outcome, Summary
    from mmedge_ray.run import run_recordings, run_samples
    from mmedge_ray.sources import find_recordings
    from mmedge_ray.tables import read_outputs

__all__ = [
    "Outcome",
    "Summary",
    "find_recordings",
    "read_outputs",
    "run_recordings",
    "run_samples",
]

#: Where the names live; imported on first use, since the command line of mmedge imports the package
#: for its verb whatever is run, and pyarrow takes its time.
_HOMES = {
    "Outcome": "mmedge_ray.outcome",
    "Summary": "mmedge_ray.outcome",
    "find_recordings": "mmedge_ray.sources",
    "read_outputs": "mmedge_ray.tables",
    "run_recordings": "mmedge_ray.run",
    "run_samples": "mmedge_ray.run",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
