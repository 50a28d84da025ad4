"""Reads the dump of a flight recorder: everything that it says, with its arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import InputError
from mmedge.recording.flight.channels import BEGIN, CHANNELS, END, VERSION
from mmedge.recording.flight.header import MAX_JSON_BYTES, read_header
from mmedge.recording.recorder import need_mcap
from mmedge.recording.sample import unpack, value_of
from mmedge.schema.read import Misfit, decode

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from mmedge.recording.mcap import McapRecording
    from mmedge.recording.sample import Value
    from mmedge.spec import Array

__all__ = ["Computed", "DumpItem", "DumpResult", "DumpRun", "DumpSample", "FlightDump", "is_dump"]


@dataclass(frozen=True, slots=True)
class DumpSample:
    """One pushed sample (:class:`mmedge.recording.flight.records.SampleRecord`).

    ``value`` is None where it was not kept, and ``missing`` says why. ``held``: it is from before
    the window.
    """

    modality: str
    seq: int
    t: float
    arrival: float
    fault: str | None
    missing: str
    held: bool
    told: int
    alignment: Mapping[str, int]
    value: Value | None


@dataclass(frozen=True, slots=True)
class DumpItem:
    """What was encoded (:class:`mmedge.recording.flight.records.ItemRecord`), by numbers."""

    modality: str
    samples: tuple[int, ...]
    first_row: int | None
    weight: float | None


@dataclass(frozen=True, slots=True)
class DumpRun:
    """One run of an encoder with state; ``states`` is None where they were not kept."""

    item: DumpItem
    network: int
    epoch: int
    succeeded: bool
    states: Mapping[str, Mapping[str, Array]] | None
    held: bool


@dataclass(frozen=True, slots=True)
class Computed:
    """What the fusion of a result took."""

    items: Mapping[str, DumpItem | None]
    sizes: Mapping[str, int]
    turns: Mapping[str, tuple[int, Mapping[str, Mapping[str, Array]] | None]]
    steps: int
    end: tuple[str, str | None] | None


@dataclass(frozen=True, slots=True)
class DumpResult:
    """One result: ``fields`` are those of :class:`mmedge.stream.Result` but outputs and lateness.

    ``outputs_of`` is the number of the result whose outputs these are: its own, or that of one
    before, whose outputs were repeated. ``computed`` is None where no fusion ran.
    """

    number: int
    network: int
    told: int
    fields: Mapping[str, Any]
    outputs: Mapping[str, Any] | None
    outputs_of: int | None
    computed: Computed | None


@dataclass(frozen=True, slots=True)
class DumpEvent:
    """One event, as :class:`mmedge.stream.Event`; ``told`` as of a sample."""

    kind: str
    t: float
    message: str
    details: Mapping[str, Any]
    told: int


#: What a dump holds, in the order in which it was told.
Entry = DumpSample | DumpRun | DumpResult | DumpEvent

#: Fields of :class:`mmedge.stream.Result` that a dump has as they are.
FIELDS = (
    "t", "made", "latency", "trigger", "fresh", "met", "outputs_t", "reason", "ages", "samples",
    "absent", "notes", "dropped",
)  # fmt: skip


@dataclass
class FlightDump:
    """A dump, read whole into memory; :meth:`open` makes it.

    Attributes:
        path: of the file.
        header: what it says of itself (docs/reference/recording.md).
        meanwhile: triggers that came while it was written.
        missing: in words, what is missing of a file that was cut short; empty: nothing.
        entries: samples, runs, results and events, in the order in which the stream told them.
        machine: states of the machine.
        samples: by modality and number.
    """

    path: Path
    header: Mapping[str, Any]
    meanwhile: tuple[Mapping[str, Any], ...]
    missing: str
    entries: list[Entry] = field(default_factory=list)
    machine: list[Mapping[str, Any]] = field(default_factory=list)
    samples: dict[tuple[str, int], DumpSample] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> FlightDump:
        """Read a dump.

        Raises:
            InputError: nothing readable is there, it is no dump, or it is damaged.
            BackendError: the mcap library is not installed.
        """
        need_mcap()
        from mmedge.recording.mcap import McapRecording  # of an extra

        recording = McapRecording(Path(path))
        begin = recording.metadata(BEGIN)
        if begin is None:
            raise InputError(
                f"{path}: not a dump of a flight recorder; replay a recording with --trigger"
            )
        if begin.get("flight_version") != VERSION:
            raise InputError(
                f"{path}: expected flight_version {VERSION}, got {begin.get('flight_version')!a}; "
                "read it with the mmedge that wrote it"
            )
        try:
            header = read_header(begin.get("flight", ""))
            end = recording.metadata(END)
            meanwhile: Any = decode(end["triggers_meanwhile"]) if end else []
            dump = cls(Path(path), header, tuple(meanwhile), recording.missing)
            _Parser(dump).read(recording)
        except Misfit as error:
            raise InputError(f"{path}: damaged: {error}; copy it anew") from error
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise InputError(f"{path}: damaged: {error!r:.200}; copy it anew") from error
        return dump

    @property
    def results(self) -> list[DumpResult]:
        """All results, oldest first."""
        return [entry for entry in self.entries if isinstance(entry, DumpResult)]

    @property
    def events(self) -> list[DumpEvent]:
        """All events, oldest first."""
        return [entry for entry in self.entries if isinstance(entry, DumpEvent)]


def is_dump(path: str | os.PathLike[str]) -> bool:
    """Whether a recording is the dump of a flight recorder.

    Raises:
        InputError: it is an MCAP file that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        return False
    need_mcap()
    from mmedge.recording.mcap import McapRecording  # of an extra

    return McapRecording(path).metadata(BEGIN) is not None


class _Parser:
    """Puts messages together."""

    def __init__(self, dump: FlightDump) -> None:
        self._dump = dump
        self._arrays: dict[int, Mapping[str, Array]] = {}
        self._states: dict[int, Mapping[str, Mapping[str, Array]]] = {}
        self._results: dict[int, Mapping[str, Any]] = {}
        #: Of each modality the sample whose value is the next message of its channel.
        self._expected: dict[str, Mapping[str, Any]] = {}

    def read(self, recording: McapRecording) -> None:
        kinds = {channel.topic: kind for kind, channel in CHANNELS.items()}
        for topic, message in recording.messages():
            kind = kinds.get(topic)
            where = f"{self._dump.path}: {topic} {message.sequence}"
            if kind is None:
                self._take_value(topic.removeprefix("/"), message.data, where)
            elif kind == "output":
                self._arrays[message.sequence] = _owned(unpack(message.data, where))
            elif kind == "state":
                self._states[message.sequence] = _by_stage(unpack(message.data, where))
            else:
                tree: Any = decode(bytes(message.data), most=MAX_JSON_BYTES)
                self._take(kind, tree)

    def _take(self, kind: str, tree: Mapping[str, Any]) -> None:
        dump = self._dump
        if kind == "sample":
            if tree["missing"]:
                self._add_sample(tree, None)
            else:
                self._expected[tree["modality"]] = tree
        elif kind == "run":
            item = _item(tree["modality"], tree)
            states = self._read_states(tree["states"])
            run = DumpRun(
                item,
                int(tree["network"]),
                int(tree["epoch"]),
                bool(tree["succeeded"]),
                states,
                tree["held"],
            )
            dump.entries.append(run)
        elif kind == "result":
            dump.entries.append(self._result(tree))
        elif kind == "event":
            fields = tree["kind"], float(tree["t"]), tree["message"], dict(tree["details"])
            dump.entries.append(DumpEvent(*fields, int(tree["told"])))
        else:
            dump.machine.append(tree)

    def _take_value(self, modality: str, data: bytes, where: str) -> None:
        tree = self._expected.pop(modality, None)
        if tree is None:
            raise InputError(f"{where}: a value of no sample; copy it anew")
        self._add_sample(tree, value_of(unpack(data, where), where))

    def _add_sample(self, tree: Mapping[str, Any], value: Value | None) -> None:
        sample = DumpSample(
            str(tree["modality"]), int(tree["seq"]), float(tree["t"]), float(tree["arrival"]),
            tree["fault"], str(tree["missing"]), bool(tree["held"]), int(tree["told"]),
            {name: int(rest) for name, rest in (tree["alignment"] or {}).items()}, value,
        )  # fmt: skip
        self._dump.samples[sample.modality, sample.seq] = sample
        self._dump.entries.append(sample)

    def _read_states(self, states: int | str | None) -> Mapping[str, Mapping[str, Array]] | None:
        if states is None:
            return None
        return {} if states == "first" else self._states[int(states)]

    def _result(self, tree: Mapping[str, Any]) -> DumpResult:
        outputs = None
        if tree["outputs"] is not None:
            arrays = self._arrays.get(tree["outputs_of"] & 0xFFFFFFFF, {})
            outputs = {
                name: entry["value"] if "value" in entry else arrays[name]
                for name, entry in tree["outputs"].items()
            }
        computed = None
        if tree["computed"] is not None:
            parts = tree["computed"]
            computed = Computed(
                {
                    name: None if item is None else _item(name, item)
                    for name, item in parts["items"].items()
                },
                {name: int(size) for name, size in parts["sizes"].items()},
                {
                    stage: (int(turn["epoch"]), self._read_states(turn["states"]))
                    for stage, turn in parts["turns"].items()
                },
                int(parts["steps"]),
                None if parts["end"] is None else (parts["end"][0], parts["end"][1]),
            )
        return DumpResult(
            int(tree["number"]),
            int(tree["network"]),
            int(tree["told"]),
            {name: tree[name] for name in FIELDS},
            outputs,
            tree["outputs_of"],
            computed,
        )


def _item(modality: str, tree: Mapping[str, Any]) -> DumpItem:
    numbers = tuple(int(number) for number in tree["samples"])
    return DumpItem(modality, numbers, tree["first_row"], tree["weight"])


def _owned(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Copies, so that a chunk of the file is not kept for a few bytes."""
    return {name: array.copy() for name, array in tensors.items()}


def _by_stage(tensors: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    states: dict[str, dict[str, Array]] = {}
    for name, array in tensors.items():
        stage, _, key = name.partition("/")
        states.setdefault(stage, {})[key] = np.ascontiguousarray(array).copy()
    return states
