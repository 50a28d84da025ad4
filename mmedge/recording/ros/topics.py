"""What a user says of the topic of one modality: in code, on a command line, in a parameter file.

The ROS node, ``mmedge replay`` and ``mmedge record`` read the same parameters, so that a bag is
converted as the node converts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from mmedge.errors import BackendError, InputError
from mmedge.spec import DTYPES
from mmedge.stream import Exact, Hold, Interpolate, Latest, Window

if TYPE_CHECKING:
    from pathlib import Path

    from mmedge.stream import Policy

__all__ = ["Topic", "policies", "read_parameter_file", "read_topics"]

#: Words that an option may be.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "align": ("latest", "hold", "exact", "interpolate", "window"),
    "stamp": ("header", "arrival"),
    "color": ("rgb", "bgr"),
    "layout": ("", "hwc", "chw", "hw", "nc", "cn"),
    "reliability": ("best_effort", "reliable", "system_default"),
    "durability": ("volatile", "transient_local", "system_default"),
}
#: A topic's name; a type's, as ``sensor_msgs/msg/Image``.
_NAME = re.compile(r"~?/?[A-Za-z_{][A-Za-z0-9_{}]*(/[A-Za-z_{][A-Za-z0-9_{}]*)*")
_TYPE = re.compile(r"[a-z][a-z0-9_]*/msg/[A-Z][A-Za-z0-9]*")


@dataclass(frozen=True, kw_only=True)
class Topic:
    """Where a modality's messages come from, and how they become values and are aligned in time.

    Attributes:
        topic: its name, such as ``/camera/image_raw``.
        type: of its messages, such as ``sensor_msgs/msg/Image``. Empty: as the bag says; a node
            needs it.
        stamp: ``header``: the stamp in the message's header, or its arrival where the type has no
            header. ``arrival``: always its arrival.
        color: order of colors that the network takes, ``rgb`` or ``bgr``.
        layout: axes of the network's input: ``hwc``, ``chw`` or ``hw`` of a picture, ``nc`` or
            ``cn`` of points. Empty: told from its shape.
        fields: which fields of a message, in the network's order: of a PointCloud2 such as ``x``,
            ``y``, ``z``, of a LaserScan ``ranges`` and ``intensities``, of an Imu ``orientation``,
            ``angular_velocity`` and ``linear_acceleration``, of a JointState ``position``,
            ``velocity`` and ``effort``. Empty: told from the input's size.
        joints: names of a JointState's joints, in the network's order.
        elements: dtype of what the bytes of a UInt8MultiArray hold, such as ``int16`` of PCM.
        scale: what each number is multiplied by, in float32; 0: values are not changed. With it a
            float input takes messages of whole numbers, such as depth in mm (0.001) or PCM of 16
            bits (1 / 32768).
        non_finite: what becomes of NaN and infinity: ``keep`` (a stream drops such a sample as
            ``nan`` or ``inf``), ``remove`` (points of a cloud), or a number that takes their place.
        align: policy: ``latest``, ``hold`` (``max_age_ms``), ``exact`` (``tolerance_ms``),
            ``interpolate``, or ``window`` (``length``, ``hop``, ``axis``, ``rate_hz``).
        max_age_ms: oldest age that a result may use; 0: the bundle's.
        tolerance_ms: see ``align``.
        wait_ms: how long a trigger waits for a sample; see :mod:`mmedge.stream.policies`.
        length: rows of a window.
        hop: rows from one window to the next.
        axis: of a window's rows; -1: see :class:`mmedge.stream.Window`.
        rate_hz: rows a second of a window; 0: the bundle's.
        reliability: of a node's subscription, like the next two: ``best_effort`` matches every
            publisher, ``reliable`` only reliable ones.
        durability: ``transient_local`` also gets what such a publisher sent before.
        depth: messages that wait to be taken.

    Raises:
        InputError: an option that cannot be.
    """

    topic: str
    type: str = ""
    stamp: str = "header"
    color: str = "rgb"
    layout: str = ""
    fields: tuple[str, ...] = ()
    joints: tuple[str, ...] = ()
    elements: str = ""
    scale: float = 0.0
    non_finite: str | float = "keep"
    align: str = "latest"
    max_age_ms: float = 0.0
    tolerance_ms: float = 0.0
    wait_ms: float = 0.0
    length: int = 0
    hop: int = 1
    axis: int = -1
    rate_hz: float = 0.0
    reliability: str = "best_effort"
    durability: str = "volatile"
    depth: int = 10

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not _NAME.fullmatch(self.topic):
            raise InputError(f"{self.topic!r} is no name of a topic, such as /camera/image_raw")
        if self.type and not _TYPE.fullmatch(self.type):
            raise InputError(f"{self.type!r} is no type of messages, such as sensor_msgs/msg/Image")
        for name, words in CHOICES.items():
            if (word := getattr(self, name)) not in words:
                allowed = ", ".join(words[1:] if not words[0] else words)
                raise InputError(f"{name}: expected one of {allowed}; got {word!r}")
        if self.elements and self.elements not in DTYPES:
            raise InputError(f"elements: expected one of {', '.join(DTYPES)}; got {self.elements}")
        if isinstance(self.non_finite, str) and self.non_finite not in ("keep", "remove"):
            raise InputError(
                f"non_finite: expected keep, remove or a number; got {self.non_finite!r}"
            )
        if self.depth < 1:
            raise InputError(f"depth: expected 1 message or more, got {self.depth}")
        for name in ("scale", "max_age_ms", "tolerance_ms", "wait_ms", "rate_hz"):
            value = getattr(self, name)
            if not math.isfinite(value) or (name != "scale" and value < 0.0):
                raise InputError(f"{name}: expected a finite number from 0, got {value}")
        self.policy()

    def policy(self) -> Policy:
        """How the modality is aligned in time.

        Raises:
            InputError: options of another policy than ``align``, or ones that cannot be.
        """
        age = self.max_age_ms or None
        if self.align == "window":
            axis, rate = (None if self.axis < 0 else self.axis), self.rate_hz or None
            return Window(self.length, self.hop, axis, rate, max_age_ms=age)
        if self.length or self.hop != 1 or self.axis >= 0 or self.rate_hz:
            raise InputError(
                f"length, hop, axis and rate_hz are of align: window, not of {self.align}"
            )
        if self.tolerance_ms and self.align != "exact":
            raise InputError(f"tolerance_ms is of align: exact, not of {self.align}")
        if self.align == "exact":
            if age is not None:
                raise InputError("max_age_ms is not of align: exact; tolerance_ms limits the age")
            return Exact(self.tolerance_ms, self.wait_ms)
        if self.align == "interpolate":
            return Interpolate(max_age_ms=age, wait_ms=self.wait_ms)
        if self.align == "hold" or age is not None:
            return Hold(self.max_age_ms, self.wait_ms)
        return Latest(self.wait_ms)


def policies(topics: Mapping[str, Topic] | None) -> dict[str, Policy] | None:
    """How a stream aligns the modalities of ``topics``; None where there are none."""
    return {name: topic.policy() for name, topic in topics.items()} if topics else None


def read_topics(modalities: Mapping[str, Any]) -> dict[str, Topic]:
    """Topics by modality from plain values, nested or with dots, such as ``camera.topic``.

    Raises:
        InputError: an unknown option, a value of another type, or one that cannot be.
    """
    options: dict[str, dict[str, Any]] = {}
    for key, value in _flat(modalities).items():
        modality, _, option = key.partition(".")
        if not option:
            raise InputError(
                f"modalities.{modality}: expected its options, such as topic, got {value!r}"
            )
        options.setdefault(modality, {})[option] = value
    topics = {}
    for modality, values in options.items():
        try:
            topics[modality] = _read_topic(values)
        except InputError as error:
            raise InputError(f"modalities.{modality}: {error}") from error
    return topics


def read_parameter_file(path: Path) -> dict[str, Topic]:
    """Topics by modality from the parameter file (YAML) of a mmedge node.

    Raises:
        InputError: it cannot be read, or no node in it, or more than one, has ``modalities``.
        BackendError: the extra ``ros`` is not installed.
    """
    try:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError
    except ImportError as error:
        raise BackendError(
            "a ROS parameter file needs the extra ros: pip install 'mmedge[ros]'"
        ) from error
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as YAML: {error}") from error
    nodes: list[Mapping[str, Any]] = []
    for section in content.values() if isinstance(content, dict) else ():
        parameters = section.get("ros__parameters") if isinstance(section, dict) else None
        if not isinstance(parameters, dict):
            continue
        of_topics = {
            key.removeprefix("modalities."): value
            for key, value in _flat(parameters).items()
            if key.startswith("modalities.")
        }
        if of_topics:
            nodes.append(of_topics)
    if len(nodes) != 1:
        raise InputError(
            f"{path}: expected one node with ros__parameters: modalities:, got {len(nodes)}"
        )
    try:
        return read_topics(nodes[0])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dots in its keys, as ROS names parameters."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _read_topic(values: Mapping[str, Any]) -> Topic:
    names = {field.name: field for field in fields(Topic)}
    options: dict[str, Any] = {}
    for name, value in values.items():
        if name not in names:
            near = get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names)}"
            raise InputError(f"unknown option {name!r}{hint}")
        default = names[name].default
        options[name] = _read_value(name, value, "" if default is MISSING else default)
    if "topic" not in options:
        raise InputError("expected the name of its topic: topic: /camera/image_raw")
    return Topic(**options)


def _read_value(name: str, value: Any, default: object) -> Any:  # noqa: ANN401
    """A plain value as the type that the option has; YAML and ROS write 5 for 5.0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name == "non_finite":
        if number or isinstance(value, str):
            return value if isinstance(value, str) else float(value)
        expected = "keep, remove or a number"
    elif isinstance(default, tuple):
        if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
            return tuple(value)
        expected = "a list of names"
    elif isinstance(default, str):
        if isinstance(value, str):
            return value
        expected = "text"
    elif isinstance(default, float):
        if number:
            return float(value)
        expected = "a number"
    else:
        if number and value == int(value):
            return int(value)
        expected = "a whole number"
    raise InputError(f"{name}: expected {expected}, got {value!r}")
