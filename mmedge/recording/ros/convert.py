"""A message of ROS to the value that :meth:`mmedge.Stream.push` takes, by the message's type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge.errors import InputError
from mmedge.recording.ros.fit import Target
from mmedge.recording.ros.images import compressed_converter, image_converter
from mmedge.recording.ros.points import cloud_converter, scan_converter
from mmedge.recording.ros.vectors import array_converter, imu_converter, joint_converter
from mmedge.stream import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmedge.recording.ros.topics import Topic
    from mmedge.spec import Array, Manifest

__all__ = ["TYPES", "Converter", "seconds"]

STRING = "std_msgs/msg/String"
#: What makes a converter of each type: a function of the message, and notes that it adds to.
_MAKERS: Mapping[str, Callable[[Target], tuple[Callable[[Any], Array], dict[str, str]]]] = {
    "sensor_msgs/msg/CompressedImage": compressed_converter,
    "sensor_msgs/msg/Image": image_converter,
    "sensor_msgs/msg/Imu": imu_converter,
    "sensor_msgs/msg/JointState": joint_converter,
    "sensor_msgs/msg/LaserScan": scan_converter,
    "sensor_msgs/msg/PointCloud2": cloud_converter,
    **{
        f"std_msgs/msg/{name}MultiArray": array_converter(name.lower())
        for name in (
            "Float32", "Float64", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32",
            "UInt64",
        )
    },
}  # fmt: skip
#: Types of messages that are converted.
TYPES = tuple(sorted([*_MAKERS, STRING]))


def seconds(sec: int, nanosec: int) -> float:
    """Seconds as a stream takes them, of a time of ROS; some 0.2 us exact in this century."""
    return sec + nanosec / 1e9


class Converter:
    """Converts the messages of one topic.

    Args:
        manifest: of the bundle.
        modality: for which the topic is.
        topic: what the user says of it.
        kind: type of its messages, one of :data:`TYPES`.

    Attributes:
        kind: see above.

    Raises:
        InputError: an unknown modality or type, a modality of several inputs, or an input that
            takes no such message; the message says which and what to set.
    """

    def __init__(self, manifest: Manifest, modality: str, topic: Topic, kind: str) -> None:
        self.kind = kind
        self._topic = topic
        self._notes: dict[str, str] = {}
        chosen = next((each for each in manifest.modalities if each.name == modality), None)
        where = self._where = f"modality {modality!r}, topic {topic.topic}"
        if chosen is None:
            names = ", ".join(each.name for each in manifest.modalities)
            raise InputError(f"{where}: unknown modality; this bundle has {names}")
        self._convert: Callable[[Any], Array | str]
        if kind == STRING:
            if chosen.tokenizer is None:
                raise InputError(f"{where}: takes no text: this modality has no tokenizer")
            self._convert = _text
            return
        if kind not in _MAKERS:
            raise InputError(
                f"{where}: messages of type {kind} are not converted; there are {', '.join(TYPES)}"
            )
        if len(chosen.inputs) != 1:
            raise InputError(
                f"{where}: the modality has inputs {', '.join(chosen.inputs)}, and a message is one"
            )
        spec = manifest.inputs()[chosen.inputs[0]]
        policy = topic.policy()
        rows = policy.axis_of(spec) if isinstance(policy, Window) else None
        try:
            self._convert, self._notes = _MAKERS[kind](Target(spec, rows, topic))
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

    @property
    def notes(self) -> tuple[str, ...]:
        """What is changed in messages on their way, in words, as far as some came that need it."""
        return tuple(self._notes.values())

    def __call__(self, message: Any) -> Array | str:  # noqa: ANN401
        """The message's value; an array may be a view of the message's data.

        Raises:
            InputError: it does not fit the modality; the message says what, and what was expected.
        """
        try:
            return self._convert(message)
        except InputError as error:
            raise InputError(f"{self._where}: {error}") from error

    def stamp(self, message: Any) -> float | None:  # noqa: ANN401
        """When it was measured, in seconds; None: the type has no header, or its arrival counts."""
        header = getattr(message, "header", None)
        if header is None or self._topic.stamp == "arrival":
            return None
        return seconds(header.stamp.sec, header.stamp.nanosec)


def _text(message: Any) -> str:  # noqa: ANN401
    return str(message.data)
