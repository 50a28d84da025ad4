"""Vectors: sensor_msgs/Imu and JointState, and the arrays of std_msgs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.recording.ros.fit import number_cast
from mmedge.schema.names import MAX_ELEMENTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmedge.recording.ros.fit import Target
    from mmedge.spec import Array

__all__ = ["array_converter", "imu_converter", "joint_converter"]

#: Parts of an Imu, their elements, and which fields there are where none are named, by size.
IMU = {"orientation": "xyzw", "angular_velocity": "xyz", "linear_acceleration": "xyz"}
USUAL_IMU = {6: ("angular_velocity", "linear_acceleration"), 10: tuple(IMU)}
JOINT_FIELDS = ("position", "velocity", "effort")


def imu_converter(target: Target) -> tuple[Callable[[Any], Array], dict[str, str]]:
    """How sensor_msgs/Imu is converted: its fields one after another, a quaternion as x y z w.

    Raises:
        InputError: other fields, or an input of another dtype or size.
    """
    fields = target.topic.fields
    if not fields:
        size = target.spec.shape[-1] if target.spec.shape else 0
        fields = USUAL_IMU.get(size, ()) if isinstance(size, int) else ()
    if not fields or not set(fields) <= set(IMU):
        raise target.error("an Imu", f"set fields to some of {', '.join(IMU)}")
    cast, change = number_cast(target, "float64", "an Imu")
    notes = {"imu": change} if change else {}
    parts = [(name, IMU[name]) for name in fields]

    def convert(message: Any) -> Array:  # noqa: ANN401
        values: list[float] = []
        for name, elements in parts:
            # sensor_msgs/Imu: the first covariance is -1 where there is no such measurement.
            if getattr(message, f"{name}_covariance")[0] == -1:
                raise target.error(f"an Imu that measures no {name}", "leave it out of fields")
            part = getattr(message, name)
            values += [getattr(part, element) for element in elements]
        return target.fit(cast(np.array(values)), f"an Imu's {', '.join(fields)}")

    return convert, notes


def joint_converter(target: Target) -> tuple[Callable[[Any], Array], dict[str, str]]:
    """How sensor_msgs/JointState is converted: the joints in the order of ``joints``.

    Several fields follow one another: all positions, then all velocities.

    Raises:
        InputError: no joints, other fields, or an input of another dtype.
    """
    joints = target.topic.joints
    fields = target.topic.fields or ("position",)
    if not joints or not set(fields) <= set(JOINT_FIELDS):
        raise target.error(
            "a JointState",
            f"set joints to their names in the network's order, and fields to some of "
            f"{', '.join(JOINT_FIELDS)}",
        )
    cast, change = number_cast(target, "float64", "a JointState")
    notes = {"joints": change} if change else {}
    places: dict[tuple[str, ...], Any] = {}

    def convert(message: Any) -> Array:  # noqa: ANN401
        names = tuple(message.name)
        order = places.get(names)
        if order is None:
            absent = [joint for joint in joints if joint not in names]
            if absent:
                raise target.error(f"a JointState without {', '.join(absent)}")
            order = np.array([names.index(joint) for joint in joints])
            if len(places) < 64:  # publishers whose names change each time
                places[names] = order
        rows: list[Array] = []
        for field in fields:
            values: Array = np.asarray(getattr(message, field), np.float64)
            if values.size != len(names):
                raise target.error(f"a JointState with {values.size} of {field} for {len(names)}")
            rows.append(values[order])
        joined: Array = np.concatenate(rows)
        return target.fit(cast(joined), f"a JointState of {len(joints)} joints")

    return convert, notes


def array_converter(kind: str) -> Callable[[Target], tuple[Callable[[Any], Array], dict[str, str]]]:
    """Converters of a std_msgs array of dtype ``kind``: the shape of its layout, or flat."""

    def converter(target: Target) -> tuple[Callable[[Any], Array], dict[str, str]]:
        elements = target.topic.elements or kind
        if elements != kind and kind != "uint8":
            raise target.error(f"elements {elements}", "only the bytes of a UInt8MultiArray hold")
        cast, change = number_cast(target, elements, f"an array of {elements}")
        notes = {"array": change} if change else {}
        dtype = np.dtype(elements).newbyteorder("<")

        def convert(message: Any) -> Array:  # noqa: ANN401
            flat: Array = np.asarray(message.data, np.dtype(kind))
            if elements != kind:
                if flat.size % dtype.itemsize:
                    raise target.error(f"{flat.size} bytes are no whole {elements}")
                flat = flat.view(dtype)
            layout = message.layout
            start = int(layout.data_offset)
            shape = [int(dimension.size) for dimension in layout.dim]
            count = math.prod(shape) if shape else flat.size - start
            # Of nothing, a layout may claim sizes that no array can have.
            most = math.prod(max(size, 1) for size in shape)
            if start + count != flat.size or most > MAX_ELEMENTS:
                raise target.error(
                    f"an array of {flat.size} {elements} whose layout says {shape} from {start}"
                )
            values = flat[start:].reshape(shape) if shape else flat[start:]
            return target.fit(cast(values), "an array")

        return convert, notes

    return converter
