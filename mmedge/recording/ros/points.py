"""Points and rays: sensor_msgs/PointCloud2 and LaserScan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import InputError
from mmedge.recording.ros.fit import number_cast
from mmedge.spec import DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmedge.recording.ros.fit import Target
    from mmedge.spec import Array

__all__ = ["cloud_converter", "read_cloud", "scan_converter"]

#: ``datatype`` of a sensor_msgs/PointField.
KINDS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
#: Fields of a cloud where none are named, by their number.
USUAL = {3: ("x", "y", "z"), 4: ("x", "y", "z", "intensity")}


def read_cloud(message: Any) -> Any:  # noqa: ANN401
    """A sensor_msgs/PointCloud2 as a view: a structured array [height, width], a field each.

    Raises:
        InputError: fields that lie outside a point, or data of another length than it says.
    """
    height, width = int(message.height), int(message.width)
    step, row = int(message.point_step), int(message.row_step)
    order = ">" if message.is_bigendian else "<"
    names: list[str] = []
    kinds: list[Any] = []
    offsets: list[int] = []
    for field in message.fields:
        kind, count = KINDS.get(int(field.datatype)), max(int(field.count), 1)
        if kind is None or field.name in names:
            raise InputError(f"field {field.name!r} of datatype {field.datatype}, or a second one")
        names.append(str(field.name))
        kinds.append((order + kind, (count,)) if count > 1 else order + kind)
        offsets.append(int(field.offset))
    data = np.asarray(message.data, np.uint8)
    if row < width * step or data.size != row * height:
        raise InputError(
            f"{width} x {height} points of {step} bytes in rows of {row}: expected rows of at "
            f"least {width * step} bytes and {row * height} bytes in all, got {data.size}"
        )
    try:
        dtype = np.dtype(
            {"names": names, "formats": kinds, "offsets": offsets, "itemsize": max(step, 1)}
        )
    except ValueError as error:  # a field beyond the end of a point
        raise InputError(f"fields {', '.join(names)} in points of {step} bytes: {error}") from error
    return np.ndarray((height, width), dtype, data, 0, (row, step))


def cloud_converter(target: Target) -> tuple[Callable[[Any], Array], dict[str, str]]:
    """How sensor_msgs/PointCloud2 is converted: points [n, fields], or [fields, n], row by row.

    Raises:
        InputError: the input takes no points, or which fields is not known.
    """
    topic, shape = target.topic, target.spec.shape
    fields = topic.fields
    layout = topic.layout
    if layout not in ("", "nc", "cn") or len(shape) < 2 or target.spec.dtype not in _FLOATS:
        raise target.error("points", "expected a float input [..., n, fields] or [..., fields, n]")
    if not layout:
        counts = {len(fields)} if fields else set(USUAL)
        layout = "nc" if shape[-1] in counts or shape[-2] not in counts else "cn"
    if not fields:
        size = shape[-1] if layout == "nc" else shape[-2]
        fields = USUAL.get(size, ()) if isinstance(size, int) else ()
        if not fields:
            raise target.error("points", "say which fields: fields: [x, y, z]")
    dtype = DTYPES[target.spec.dtype]
    scale, fill = topic.scale, topic.non_finite
    notes: dict[str, str] = {}
    if scale:
        notes["scale"] = f"points times {scale:g}"

    def convert(message: Any) -> Array:  # noqa: ANN401
        cloud = read_cloud(message)
        points = np.empty((cloud.size, len(fields)), dtype)
        # What a float32 does not hold becomes infinite, which sanity or non_finite looks after.
        with np.errstate(over="ignore"):
            for column, name in enumerate(fields):
                points[:, column] = _field(target, cloud, name, notes).reshape(-1)
            if scale:
                points *= dtype.type(scale)
        if fill == "remove":
            finite = np.isfinite(points).all(axis=1)
            if not finite.all():
                points = points[finite]
                notes["remove"] = "points with NaN or infinity are removed"
        else:
            points = _fill(points, fill, notes)
        if layout == "cn":
            points = np.ascontiguousarray(points.T)
        return target.fit(points, f"a cloud of {cloud.size} points")

    return convert, notes


#: Dtypes whose values float32 holds exactly.
_EXACT = ("i1", "u1", "i2", "u2", "f4")
_FLOATS = ("float32", "float64")


def _field(target: Target, cloud: Any, name: str, notes: dict[str, str]) -> Array:  # noqa: ANN401
    """One field of all points."""
    names = cloud.dtype.names or ()
    if name not in names:
        raise target.error(
            f"a cloud without field {name!r}; it has {', '.join(names)}", "set fields"
        )
    values: Array = cloud[name]
    if values.ndim != 2:
        raise target.error(f"field {name!r} of a cloud has {values.shape[2]} numbers a point")
    kind = f"{values.dtype.kind}{values.dtype.itemsize}"
    if kind not in _EXACT and target.spec.dtype == "float32":
        if kind != "f8":
            raise target.error(f"field {name!r} of a cloud is {values.dtype.name}, which rounds")
        notes[name] = f"{name}: float64 is rounded to float32"
    elif values.dtype.kind != "f":
        notes[name] = f"{name}: {values.dtype.name} as {target.spec.dtype}"
    return values


def _fill(values: Array, fill: str | float, notes: dict[str, str]) -> Array:
    """The values, with a number in place of what is not finite where one is set."""
    if isinstance(fill, str):
        return values
    finite = np.isfinite(values)
    if finite.all():
        return values
    notes["non_finite"] = f"NaN and infinity are {fill:g}"
    return np.where(finite, values, values.dtype.type(fill))


def scan_converter(target: Target) -> tuple[Callable[[Any], Array], dict[str, str]]:
    """How sensor_msgs/LaserScan is converted: ``ranges`` [rays], or [fields, rays].

    Raises:
        InputError: another field, or an input of another dtype.
    """
    fields = target.topic.fields or ("ranges",)
    fill = target.topic.non_finite
    if not set(fields) <= {"ranges", "intensities"} or fill == "remove":
        raise target.error(
            f"a scan's fields {', '.join(fields)}, non_finite {fill}",
            "fields are ranges and intensities, and no ray is removed",
        )
    cast, change = number_cast(target, "float32", "a scan")
    notes = {"scan": change} if change else {}

    def convert(message: Any) -> Array:  # noqa: ANN401
        rows = [np.asarray(getattr(message, name), np.float32) for name in fields]
        if len({row.size for row in rows}) > 1:
            sizes = ", ".join(f"{row.size} {name}" for row, name in zip(rows, fields, strict=True))
            raise target.error(f"a scan of {sizes}")
        values = _fill(cast(rows[0] if len(rows) == 1 else np.stack(rows)), fill, notes)
        return target.fit(values, f"a scan of {rows[0].size} rays")

    return convert, notes
