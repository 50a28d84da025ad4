"""Results as rows of Arrow tables: the schema of the Parquet files, and arrays out of them again.

docs/howto/logs.md lists the columns. An output of shape ``[batch, 13]`` is a column of lists of
fixed-size lists of 13: an axis whose size the bundle states is a fixed-size list, one that it
leaves open a list. So files of one bundle have one schema, whatever came.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mmedge import BackendError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.spec import Array, Manifest, TensorSpec
    from mmedge.stream import Result

__all__ = ["Rows", "output_fields", "read_outputs", "sample_schema", "stream_schema"]

#: Rows, and bytes of outputs, after which a row group is written: what a worker holds at once.
GROUP_ROWS, GROUP_BYTES = 4096, 16 << 20

#: Arrow types of the dtypes that a bundle may use.
TYPES: Mapping[str, pa.DataType] = {
    "bool": pa.bool_(), "float16": pa.float16(), "float32": pa.float32(), "float64": pa.float64(),
    "int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(),
    "uint8": pa.uint8(), "uint16": pa.uint16(), "uint32": pa.uint32(), "uint64": pa.uint64(),
}  # fmt: skip

USED = pa.list_(pa.struct([("seq", pa.int64()), ("t", pa.float64())]))
DROPPED = pa.list_(
    pa.struct([("modality", pa.string()), ("reason", pa.string()), ("count", pa.int64())])
)


def output_fields(manifest: Manifest) -> list[pa.Field]:
    """A field for each output of a call: arrays as nested lists, texts as lists of strings."""
    specs = {spec.name: spec for stage in manifest.stages for spec in stage.outputs}
    inputs = {spec.name: spec for stage in manifest.stages for spec in stage.inputs}
    fields = {name: _field(name, specs[name]) for name in manifest.returned_outputs()}
    loop = manifest.loop
    if loop is not None:
        texts = ["finish"]
        if loop.kind == "generate":
            fields["tokens"] = _array_field("tokens", "int64", ("batch", "tokens"))
            fields["lengths"] = _array_field("lengths", "int64", ("batch",))
            texts += ["text"] if loop.tokenizer is not None else []
        elif loop.decoder is None:
            latent = inputs[loop.latent]
            fields["latent"] = _array_field("latent", latent.dtype, latent.shape)
        else:
            decoder = next(stage for stage in manifest.stages if stage.name == loop.decoder)
            fields |= {spec.name: _field(spec.name, spec) for spec in decoder.outputs}
        fields |= {name: pa.field(name, pa.list_(pa.string())) for name in texts}
    return list(fields.values())


def stream_schema(manifest: Manifest) -> pa.Schema:
    """Columns of the results of a recording; docs/howto/logs.md says what they hold."""
    names = [modality.name for modality in manifest.modalities]
    return pa.schema(
        [
            ("recording", pa.string()),
            ("t", pa.float64()),
            ("made", pa.float64()),
            ("latency", pa.float64()),
            ("trigger", pa.string()),
            ("fresh", pa.bool_()),
            ("met", pa.bool_()),
            ("reason", pa.string()),
            ("outputs_t", pa.float64()),
            ("outputs", pa.struct(output_fields(manifest))),
            ("ages", pa.struct([(name, pa.float64()) for name in names])),
            ("absent", pa.struct([(name, pa.string()) for name in names])),
            ("samples", pa.struct([(name, USED) for name in names])),
            ("dropped", DROPPED),
            ("notes", pa.map_(pa.string(), pa.string())),
        ]
    )


def sample_schema(manifest: Manifest) -> pa.Schema:
    """Columns of single calls: the sample's file, its outputs, or why there are none."""
    return pa.schema(
        [
            ("sample", pa.string()),
            ("outputs", pa.struct(output_fields(manifest))),
            ("error", pa.string()),
        ]
    )


class Rows:
    """Rows that wait to be written as one row group.

    Args:
        schema: :func:`stream_schema` or :func:`sample_schema`.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._fields: list[pa.Field] = list(schema.field("outputs").type)
        self._names = {field.name for field in self._fields}
        self._rows: list[dict[str, Any]] = []
        self._outputs: list[Mapping[str, Any] | None] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def full(self) -> bool:
        """Whether it is time to write them."""
        return len(self._rows) >= GROUP_ROWS or self._bytes >= GROUP_BYTES

    def add_result(self, recording: str, result: Result) -> None:
        """Take in a result of a stream."""
        dropped = [
            {"modality": modality, "reason": reason, "count": count}
            for modality, reasons in sorted(result.dropped.items())
            for reason, count in sorted(reasons.items())
        ]
        row = {
            "recording": recording,
            "t": result.t,
            "made": result.made,
            "latency": result.latency,
            "trigger": result.trigger,
            "fresh": result.fresh,
            "met": result.met,
            "reason": result.reason,
            "outputs_t": result.outputs_t,
            "ages": result.ages,
            "absent": result.absent,
            "samples": {
                name: [{"seq": sample.seq, "t": sample.t} for sample in used]
                for name, used in result.samples.items()
            },
            "dropped": dropped,
            "notes": sorted(result.notes.items()),
        }
        self._add(row, result.outputs)

    def add_call(self, sample: str, outputs: Mapping[str, Any] | None, error: str = "") -> None:
        """Take in the outputs of a call, or why there are none."""
        self._add({"sample": sample, "error": error or None}, outputs)

    def _add(self, row: dict[str, Any], outputs: Mapping[str, Any] | None) -> None:
        if outputs is not None:
            if set(outputs) != self._names:
                raise BackendError(
                    f"expected the outputs {', '.join(sorted(self._names))}, got "
                    f"{', '.join(sorted(outputs))}: this mmedge_ray does not fit this mmedge"
                )
            self._bytes += sum(getattr(value, "nbytes", 0) for value in outputs.values())
        self._rows.append(row)
        self._outputs.append(outputs)

    def take(self) -> pa.Table:
        """The rows as a table; then there are none."""
        columns = []
        for field in self._schema:
            if field.name == "outputs":
                columns.append(self._outputs_column())
            else:
                columns.append(pa.array([row[field.name] for row in self._rows], field.type))
        table = pa.Table.from_arrays(columns, schema=self._schema)
        self._rows, self._outputs, self._bytes = [], [], 0
        return table

    def _outputs_column(self) -> pa.StructArray:
        children = []
        for field in self._fields:
            values = [None if each is None else each[field.name] for each in self._outputs]
            if field.metadata is None:  # texts
                lists = [[each] if isinstance(each, str) else each for each in values]
                children.append(pa.array(lists, field.type))
            else:
                children.append(_nested(values, field))
        return pa.StructArray.from_arrays(
            children,
            fields=self._fields,
            mask=pa.array([each is None for each in self._outputs]),
        )


def read_outputs(table: pa.Table, name: str) -> list[Array | None]:
    """One output of a table that was read from Parquet: an array for each row, None without one.

    Args:
        table: with the column ``outputs``, as ``pyarrow.parquet.read_table(file)`` gives it.
        name: the output's.

    Raises:
        KeyError: there is no such output of arrays.
    """
    kind = table.schema.field("outputs").type
    index = kind.get_field_index(name)
    if index < 0 or (kind.field(index).metadata or {}).get(b"dtype") is None:
        raise KeyError(f"{name!r} is no array among the outputs {', '.join(f.name for f in kind)}")
    metadata = kind.field(index).metadata
    dtype, spec = np.dtype(metadata[b"dtype"].decode()), json.loads(metadata[b"shape"])
    column = table["outputs"].combine_chunks()
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    arrays: list[Array | None] = []
    for chunk in chunks:
        child = pa.compute.struct_field(chunk, [index])
        arrays += (_array(child[row], dtype, spec) for row in range(len(child)))
    return arrays


def _array(scalar: pa.Scalar, dtype: np.dtype[Any], spec: Sequence[int | str]) -> Array | None:
    if not scalar.is_valid:
        return None
    if not spec:
        return np.array(scalar.as_py(), dtype)
    values, shape = scalar.values, []
    for axis, size in enumerate(spec):
        if isinstance(size, int):
            shape.append(size)
        elif axis == 0:
            shape.append(len(values))
        else:
            shape.append(len(values[0]) if len(values) else 0)
        if axis:
            values = values.flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype).reshape(shape)


def _field(name: str, spec: TensorSpec) -> pa.Field:
    return _array_field(name, spec.dtype, spec.shape)


def _array_field(name: str, dtype: str, shape: Sequence[int | str]) -> pa.Field:
    kind = TYPES[dtype]
    for size in reversed(shape):
        kind = pa.list_(kind, size) if isinstance(size, int) else pa.list_(kind)
    return pa.field(name, kind, metadata={"dtype": dtype, "shape": json.dumps(list(shape))})


def _nested(arrays: Sequence[Array | None], field: pa.Field) -> pa.Array:
    """Arrays, or None, as one column of nested lists."""
    dtype, spec = field.metadata[b"dtype"].decode(), json.loads(field.metadata[b"shape"])
    there = [array for array in arrays if array is not None]
    flat = [array.reshape(-1) for array in there]
    values = pa.array(np.concatenate(flat) if flat else np.empty(0, dtype), TYPES[dtype])
    for axis in reversed(range(len(spec))):
        size = spec[axis]
        counts = [int(np.prod(array.shape[:axis])) for array in there]
        if isinstance(size, int):
            kind = pa.list_(values.type, size)
            values = pa.FixedSizeListArray.from_arrays(values, type=kind)
        else:
            lengths = np.repeat([array.shape[axis] for array in there], counts)
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            values = pa.ListArray.from_arrays(pa.array(offsets), values)
    places = iter(range(len(there)))
    # A place that is null gives a null.
    order = pa.array([None if array is None else next(places) for array in arrays], pa.int32())
    return values.take(order).cast(field.type)
