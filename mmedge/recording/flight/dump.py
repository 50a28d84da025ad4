"""Writes what a flight recorder kept as one MCAP file, which is a recording as any other.

docs/reference/recording.md specifies it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.recording.flight.channels import BEGIN, CHANNELS, END, VERSION
from mmedge.recording.flight.options import plain
from mmedge.recording.flight.records import (
    RESULT_FIELDS,
    EventRecord,
    ItemRecord,
    MachineRecord,
    ResultRecord,
    RunRecord,
    SampleRecord,
)
from mmedge.recording.sample import MAX_VALUE_BYTES, Recorded, pack, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from mmedge.recording.flight.cut import MemoryCut
    from mmedge.recording.flight.records import Record
    from mmedge.recording.flight.triggers import DumpReason
    from mmedge.recording.mcap import McapWriter
    from mmedge.spec import Array

__all__ = ["write_dump"]

#: Elements of an output that is written as numbers, too.
FEW_ELEMENTS = 64
#: Seconds after which the writing thread lets others run, and for how long.
BUSY_S, PAUSE_S = 0.5e-3, 0.2e-3
#: Bytes to which arrays are aligned at most, as far as any kernel looks.
ALIGNMENT = 64


def write_dump(path: Path, cut: MemoryCut, merged: Callable[[], Sequence[DumpReason]]) -> None:
    """Write a dump to ``path``, where nothing may be.

    ``merged`` is called at the end for the triggers that came meanwhile.

    Raises:
        OSError: the disk refused.
        InputError: something is there.
    """
    # The library is an extra, and the command line imports this module without it.
    from mmedge.recording.mcap import McapWriter

    network = cut.networks[-1]
    origin = cut.origin
    writer = McapWriter(
        path, network.bundle, origin.modalities, origin=cut.time, start_ns=cut.unix_ns
    )
    try:
        _Dump(writer, cut).write()
        triggers = [asdict(trigger) for trigger in merged()]
        writer.add_metadata(END, {"triggers_meanwhile": json.dumps(plain(triggers))})
        writer.close({})
    except BaseException:
        writer.abandon()
        raise


class _Dump:
    def __init__(self, writer: McapWriter, cut: MemoryCut) -> None:
        self._writer, self._cut = writer, cut
        self._channels = {
            kind: writer.add_channel(channel.topic, channel.encoding, channel.schema)
            for kind, channel in CHANNELS.items()
        }
        self._outputs: tuple[Any, int] = (None, -1)
        self._states = 0
        self._last = float("-inf")

    def write(self) -> None:
        self._writer.add_metadata(
            BEGIN, {"flight_version": VERSION, "flight": json.dumps(plain(self._header()))}
        )
        for needed in sorted(self._cut.held, key=lambda record: record.time):
            self._add(needed, held=True)
        since = perf_counter()
        for record in self._cut.records:
            self._add(record, held=False)
            if perf_counter() - since > BUSY_S:
                # A thread that waits for the interpreter gets it at once, and not after 5 ms.
                sleep(PAUSE_S)
                since = perf_counter()

    def _header(self) -> dict[str, Any]:
        cut = self._cut
        first = cut.records[0].time if cut.records else cut.time
        return {
            "triggers": [asdict(trigger) for trigger in cut.triggers],
            "held_off": cut.held_off,
            "t": cut.t,
            "seconds": cut.seconds,
            "kept_seconds": cut.time - first,
            "memory_bytes": cut.memory_bytes,
            "kept_bytes": cut.nbytes,
            "evicted_for_bytes": cut.evicted,
            "evicted_seconds_ago": None
            if cut.evicted_until is None
            else cut.time - cut.evicted_until,
            "is_whole": cut.is_whole and cut.origin.is_start,
            "told": cut.told,
            "networks": [asdict(network) for network in cut.networks],
            **asdict(cut.origin),
        }

    def _add(self, record: Record, *, held: bool) -> None:
        # What was needed from before the window comes first; times go forward.
        time = self._last = max(self._last, record.time)
        match record:
            case SampleRecord():
                self._add_sample(record, time, held=held)
            case RunRecord():
                self._put("run", time, self._run(record, time, held=held))
            case ResultRecord():
                self._add_result(record, time)
            case EventRecord():
                event = record.event
                tree = {"kind": event.kind, "t": event.t, "message": event.message}
                self._put("event", time, {**tree, "details": event.details, "told": record.told})
            case MachineRecord():
                self._put("machine", time, record.state)

    def _put(self, kind: str, time: float, tree: Mapping[str, Any], number: int = 0) -> None:
        data = json.dumps(plain(tree), allow_nan=False).encode()
        self._writer.add_message(self._channels[kind], data, time, number)

    def _add_sample(self, record: SampleRecord, time: float, *, held: bool) -> None:
        value, missing = record.value, record.missing
        recorded = None
        if value is not None:
            content = (
                {name: np.ascontiguousarray(array) for name, array in value.items()}
                if (not isinstance(value, str))
                else value
            )
            recorded = Recorded(record.modality, record.stamp, time, content)
            missing = self._writer.fault(recorded)
            if size_of(content) > MAX_VALUE_BYTES:
                missing = f"it has more than {MAX_VALUE_BYTES} bytes"
        tree = {
            "modality": record.modality, "seq": record.seq, "t": record.t,
            "arrival": record.arrival, "fault": record.fault, "missing": missing, "held": held,
            "told": record.told, "alignment": _alignment(value),
        }  # fmt: skip
        self._put("sample", time, tree, record.seq)
        if recorded is not None and not missing:
            self._writer.write(recorded)

    def _run(self, record: RunRecord, time: float, *, held: bool) -> dict[str, Any]:
        return {
            **_item(record.item),
            "modality": record.item.modality,
            "network": record.network,
            "epoch": record.epoch,
            "succeeded": record.succeeded,
            "states": self._add_states(record.states, time),
            "held": held,
        }

    def _add_states(
        self, states: Mapping[str, Mapping[str, Array]] | None, time: float
    ) -> int | str | None:
        """Write states; their number, ``first`` for the first values, None: not kept."""
        if states is None:
            return None
        tensors = {
            f"{stage}/{name}": np.ascontiguousarray(array)
            for stage, arrays in states.items()
            for name, array in arrays.items()
        }
        if not tensors:
            return "first"
        self._states += 1
        self._writer.add_message(self._channels["state"], pack(tensors), time, self._states)
        return self._states

    def _add_result(self, record: ResultRecord, time: float) -> None:
        before, outputs_of = self._outputs
        if record.outputs is not None and record.outputs is not before:
            self._outputs = record.outputs, record.number
            outputs_of = record.number
            arrays = {
                name: np.ascontiguousarray(value)
                for name, value in record.outputs.items()
                if isinstance(value, np.ndarray)
            }
            channel = self._channels["output"]
            self._writer.add_message(channel, pack(arrays), time, record.number)
        computed = None
        if record.items is not None:
            turns = {
                stage: {
                    "epoch": epoch,
                    "states": self._add_states(
                        None if states is None else {stage: states} if states else {}, time
                    ),
                }
                for stage, (epoch, states) in record.turns.items()
            }
            computed = {
                "items": {
                    name: None if item is None else _item(item)
                    for name, item in record.items.items()
                },
                "sizes": record.sizes,
                "turns": turns,
                "steps": record.steps,
                "end": record.end,
            }
        tree = {
            "number": record.number, "network": record.network, "told": record.told,
            **dict(zip(RESULT_FIELDS, record.fields, strict=True)),
            "outputs": None
            if record.outputs is None
            else {name: _output(value) for name, value in record.outputs.items()},
            "outputs_of": None if record.outputs is None else outputs_of,
            "computed": computed,
        }  # fmt: skip
        self._put("result", time, tree, record.number)


def _item(item: ItemRecord) -> dict[str, Any]:
    return {
        "samples": [sample.seq for sample in item.samples],
        "first_row": item.first_row,
        "weight": item.weight,
    }


def _output(value: Any) -> dict[str, Any]:  # noqa: ANN401
    """An output in a result's message: of arrays what they are, and the elements of small ones."""
    if not isinstance(value, np.ndarray):
        return {"value": value}
    tree: dict[str, Any] = {"dtype": value.dtype.name, "shape": list(value.shape)}
    if value.size <= FEW_ELEMENTS:
        tree["elements"] = value.reshape(-1).tolist()
    return tree


def _alignment(value: Mapping[str, Any] | str | None) -> dict[str, int] | None:
    """Where arrays lay, as far as a kernel may look: address modulo 64, by input."""
    if value is None or isinstance(value, str):
        return None
    return {name: array.ctypes.data % ALIGNMENT for name, array in value.items()}
