"""Parameters of the node, which it reads when it is configured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import ParameterDescriptor

from mmedge import InputError
from mmedge.recording.ros import TYPES, Topic, read_topics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rclpy.node import Node

__all__ = ["Parameters", "declare", "is_own", "read"]

#: Prefix of what is said of topics: ``modalities.<modality>.<option>``, as
#: :class:`mmedge.recording.ros.Topic` has them.
TOPICS = "modalities"

#: Default and description of each other parameter; text "", 0 and an empty list mean: not set.
OWN: Mapping[str, tuple[Any, str]] = {
    "bundle": ("", "the bundle: a directory or a .mmedge file"),
    "trigger": ("", "what a result is made for: a modality, any, or a rate in Hz"),
    "deadline_ms": (0.0, "from the trigger's time to the result"),
    "trusted_keys": ([""], "files of public keys, one of which must have signed the bundle"),
    "lowest_version": (0, "lowest version of a signed bundle that is accepted"),
    "variant": ("", "id of the variant; without it the best that runs here"),
    "plan": ("", "cut or whole; without it the plan that streams run"),
    "backend": ("auto", "auto, ort, openvino, tensorrt or tensorrt_rtx"),
    "precision": ("", "only variants of this precision"),
    "device": ("", "only variants for cpu, cuda or an architecture such as sm_87"),
    "threads": (0, "CPU threads of each stage"),
    "autostart": (False, "configure and activate without a lifecycle manager"),
}
#: What rclpy declares for every node.
_OF_RCLPY = ("use_sim_time", "start_type_description_service")


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What the parameters say.

    Attributes:
        bundle: path.
        trigger: as for :class:`mmedge.Stream`.
        deadline_ms: as for :class:`mmedge.Stream`.
        options: keywords of :func:`mmedge.load`, those that are set.
        topics: by modality; each has a type.
    """

    bundle: str
    trigger: str | float
    deadline_ms: float | None
    options: Mapping[str, Any]
    topics: Mapping[str, Topic]


def declare(node: Node) -> None:
    """Declare what the node has beside topics; values from files and command lines are there."""
    for name, (default, description) in OWN.items():
        value = default
        if node.has_parameter(name):
            # Declared from an override, and of its type alone: a trigger is a name or a rate.
            value = node.get_parameter(name).value
            node.undeclare_parameter(name)
        descriptor = ParameterDescriptor(description=description, dynamic_typing=True)
        node.declare_parameter(name, value, descriptor)


def is_own(name: str) -> bool:
    """Whether a parameter is one that is read at configure alone."""
    return name in OWN or name.startswith(f"{TOPICS}.")


def read(node: Node) -> Parameters:
    """Read all parameters.

    Raises:
        InputError: an unknown one, one that is missing, or a value that cannot be.
    """
    names = [*OWN, *_OF_RCLPY]
    for name in node.get_parameters_by_prefix(""):
        if name not in names and not name.startswith((f"{TOPICS}.", "qos_overrides.")):
            near = get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(OWN)}"
            raise InputError(f"unknown parameter {name!r}{hint}")
    values = {name: node.get_parameter(name).value for name in OWN}
    topics = read_topics(
        {name: each.value for name, each in node.get_parameters_by_prefix(TOPICS).items()}
    )
    if not topics:
        raise InputError(f"parameter {TOPICS}: expected topics, such as {TOPICS}.camera.topic")
    for modality, topic in topics.items():
        if not topic.type:
            raise InputError(
                f"parameter {TOPICS}.{modality}.type: expected one of {', '.join(TYPES)}"
            )
    options: dict[str, Any] = {
        name: str(values[name]) for name in ("variant", "plan", "backend", "precision", "device")
        if values[name] not in ("", None)
    }  # fmt: skip
    threads = _whole("threads", values["threads"])
    if threads:
        options["threads"] = threads
    if keys := [str(key) for key in values["trusted_keys"] or () if key]:
        options["trusted_keys"] = keys
    if version := _whole("lowest_version", values["lowest_version"]):
        options["lowest_version"] = version
    for name in ("bundle", "trigger"):
        if values[name] in ("", None):
            raise InputError(f"parameter {name}: expected {OWN[name][1]}")
    return Parameters(
        bundle=str(values["bundle"]),
        trigger=_trigger(values["trigger"]),
        deadline_ms=_number("deadline_ms", values["deadline_ms"]) or None,
        options=options,
        topics=topics,
    )


def _trigger(value: Any) -> str | float:  # noqa: ANN401
    """A rate is often written as text on a command line."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def _number(name: str, value: Any) -> float:  # noqa: ANN401
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"parameter {name}: expected a number, got {value!r}")
    return float(value)


def _whole(name: str, value: Any) -> int:  # noqa: ANN401
    number = _number(name, value)
    if number != int(number) or number < 0:
        raise InputError(f"parameter {name}: expected a whole number from 0, got {value!r}")
    return int(number)
