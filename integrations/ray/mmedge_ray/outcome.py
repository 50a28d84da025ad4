"""What came of each recording, and of all of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Outcome", "Summary"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one recording, or of one part of a folder of samples.

    Attributes:
        name: its name, as the Parquet file has it.
        status: ``done`` (run now), ``finished`` (an earlier run has done it, so nothing was run),
            ``failed``.
        rows: results in the Parquet file.
        errors: what is wrong: of a failed one why, with no file written; of a part of a folder of
            samples also each sample that could not be run, which the file names as well.
        attempts: how often a worker began it in this run; 0: it was finished before.
        missing: in words, what the recording itself lacks (:class:`mmedge.recording.Recording`).
        seconds: ``digest`` (reading all of it once for its digest), ``read`` (reading and decoding
            samples), ``run`` (the stream and the network), ``write`` (Parquet), wall time; empty
            unless it was run now.
        read_bytes: bytes of its files.
        written_bytes: bytes of the Parquet file.
        worker: host and process that ran it.
    """

    name: str
    status: Literal["done", "finished", "failed"]
    rows: int = 0
    errors: tuple[tuple[str, str], ...] = ()
    attempts: int = 0
    missing: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    read_bytes: int = 0
    written_bytes: int = 0
    worker: str = ""

    def to_json(self) -> str:
        """As one line of JSON, which crosses from a worker to the driver."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """Undo :meth:`to_json`."""
        data = json.loads(text)
        return cls(**{**data, "errors": tuple((name, what) for name, what in data["errors"])})


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of a run.

    Attributes:
        outcomes: of each recording, in the order of their names.
        wall_seconds: from the first look at the recordings to the last outcome.
    """

    outcomes: tuple[Outcome, ...]
    wall_seconds: float

    @property
    def errors(self) -> tuple[tuple[str, str], ...]:
        """The error table: name of a recording or sample, and what is wrong with it."""
        return tuple(error for outcome in self.outcomes for error in outcome.errors)

    def count(self, status: Literal["done", "finished", "failed"]) -> int:
        """How many recordings came to ``status``."""
        return sum(outcome.status == status for outcome in self.outcomes)

    def __str__(self) -> str:
        rows = sum(outcome.rows for outcome in self.outcomes)
        return (
            f"{self.count('done')} run, {self.count('finished')} finished before, "
            f"{self.count('failed')} failed; {rows} results in all, {len(self.errors)} errors, "
            f"{self.wall_seconds:.1f} s"
        )
