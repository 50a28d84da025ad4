"""One modality's subscription: every message that comes is counted, converted and pushed.

Each is in one place: pushed (where the stream's own account goes on), unfit, or refused by the
stream. Nothing that a message holds ends the node.
"""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    QoSReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

from mmedge import InputError

if TYPE_CHECKING:
    from mmedge import Stream
    from mmedge.recording.ros import Converter, Topic
    from mmedge_ros.node import StreamNode

__all__ = ["Inlet", "message_class"]

#: Policies of a subscription that ``qos_overrides`` may set.
OVERRIDES = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
)
#: Different faults that are counted one by one, and seconds between two of a kind in the log.
MAX_FAULTS, QUIET_S = 16, 5.0


def message_class(kind: str) -> Any:  # noqa: ANN401
    """The class of a type such as ``sensor_msgs/msg/Image``.

    Raises:
        InputError: its package is not installed here.
    """
    package, _, name = kind.split("/")
    try:
        return getattr(import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"type {kind}: package {package} is not installed: {error}") from error


class Inlet:
    """Subscribes one modality of a stream to its topic, until it is closed.

    Args:
        node: whose subscription it is.
        stream: is pushed to.
        modality: its name.
        topic: what the parameters say of it.
        converter: of its messages.

    Attributes:
        received: messages taken.
        pushed: those that the stream took.
        unfit: those that do not fit, by fault; of many faults the rest is ``other faults``.
        errors: those that something else kept from being pushed, by error.
        lost: messages between two that came which never did, by the publisher's numbers. What was
            lost before the first or behind the last nobody can tell.
        first: the publisher's number of the first message that came; those before it were sent
            before it listened, or lost. None: not known.
        untold: whether ``lost`` is not the whole: several publishers, or a middleware without
            numbers.
        incompatible: publishers whose QoS offers less than is asked for.
        last: when the last message came, in seconds of the node's clock; None: none did.
    """

    def __init__(
        self, node: StreamNode, stream: Stream, modality: str, topic: Topic, converter: Converter
    ) -> None:
        self.modality, self.topic, self.converter = modality, topic, converter
        self.received = self.pushed = self.lost = self.incompatible = 0
        self.unfit: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.untold = False
        self.last: float | None = None
        self._node, self._stream = node, stream
        self.first: int | None = None
        self._number: int | None = None
        self._subscription = node.create_subscription(
            message_class(converter.kind),
            topic.topic,
            self._take,
            _profile(topic),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._mismatch),
            qos_overriding_options=QoSOverridingOptions(OVERRIDES),
        )

    @property
    def name(self) -> str:
        """The topic's full name, after remapping."""
        return str(self._subscription.topic_name)

    @property
    def qos(self) -> QoSProfile:
        """What the subscription asks for, with overrides."""
        return self._subscription.qos_profile

    @property
    def publishers(self) -> int:
        """Publishers that it is matched with now."""
        return int(self._subscription.get_publisher_count())

    def close(self) -> None:
        """End the subscription; counts stay."""
        self._node.destroy_subscription(self._subscription)

    def _take(self, message: Any, info: Any) -> None:  # noqa: ANN401
        """One message. Whatever goes wrong with it is counted and told, and ends nothing."""
        self.received += 1
        try:
            self._count_lost(info)
            # A message is nobody else's, so its memory is not copied again.
            self._stream.push(
                self.modality,
                self.converter(message),
                self.converter.stamp(message),
                copy=False,
            )
            self.pushed += 1
            self.last = self._node.now()
        except InputError as error:
            self._count(self.unfit, str(error))
        except Exception as error:  # noqa: BLE001 - a node must outlive its messages
            self._count(self.errors, f"{type(error).__name__}: {error}")

    def _count(self, counts: Counter[str], fault: str) -> None:
        if fault not in counts and len(counts) >= MAX_FAULTS:
            fault = "other faults"
        counts[fault] += 1
        self._node.get_logger().warning(f"{self.modality}: {fault}", throttle_duration_sec=QUIET_S)

    def _count_lost(self, info: Any) -> None:  # noqa: ANN401
        """Count messages that the publisher numbered and that did not come."""
        number = info.get("publication_sequence_number")
        if not number or self.publishers > 1:
            # Numbers of several publishers run side by side and are not told apart.
            self.untold, self._number = True, None
            return
        before, self._number = self._number, number
        self.first = number if self.first is None else self.first
        if before is not None and number > before:
            self.lost += number - before - 1

    def _mismatch(self, info: Any) -> None:  # noqa: ANN401
        self.incompatible = int(info.total_count)
        self._node.get_logger().error(
            f"{self.modality}: topic {self.topic.topic}: a publisher offers less than is asked for "
            f"(policy {info.last_policy_kind}); no message of it comes. Set "
            f"modalities.{self.modality}.reliability and durability, or qos_overrides"
        )


def _profile(topic: Topic) -> QoSProfile:
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=topic.depth,
        reliability=QoSReliabilityPolicy[topic.reliability.upper()],
        durability=QoSDurabilityPolicy[topic.durability.upper()],
    )
