"""A ROS 2 bag as a recording: a folder or one file, MCAP or SQLite, read by rosbags.

What is in a bag comes in the order in which it was received; that is a sample's arrival, and the
stamp in a message's header is its stamp. Messages of other topics are passed over.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmedge.errors import BackendError, InputError
from mmedge.recording.ros.convert import TYPES, Converter, seconds
from mmedge.recording.sample import Order, Recorded
from mmedge.spec import Manifest

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from mmedge.bundle import Bundle
    from mmedge.recording.ros.topics import Topic
    from mmedge.recording.sample import Recording

__all__ = ["Bag", "say_changes"]

#: What is cut off a message with more bytes behind it than the 3 that rosbags takes: programs that
#: write with rclpy's serialize_message leave up to 8.
TRIMS = (3, 5)


class Bag:
    """A bag's messages as samples; see :class:`mmedge.recording.sample.Recording`.

    Args:
        path: the bag's folder, or one ``.mcap`` or ``.db3`` file of it.
        source: the bundle that it is for, or its manifest.
        topics: by modality.
        skip_unfit: leave out messages that do not fit, as a node does, and count them.

    Attributes:
        unfit: messages left out by the last iteration, by modality and fault; ``missing`` says how
            many.

    Raises:
        InputError: no bag that can be read, a topic that is not in it, or messages of a type that
            its modality does not take.
        BackendError: the extra ``ros`` is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        source: Bundle | Manifest,
        topics: Mapping[str, Topic],
        *,
        skip_unfit: bool = False,
    ) -> None:
        manifest = source if isinstance(source, Manifest) else source.manifest
        self._path = Path(path)
        self.name, self.bundle = self._path.name, manifest.name
        if not topics:
            raise InputError(f"{path}: say which topic is which modality: camera=/camera/image_raw")
        self.modalities = tuple(topics)
        self.missing = ""
        self.unfit: Counter[tuple[str, str]] = Counter()
        self._manifest, self._topics, self._skip = manifest, topics, skip_unfit
        self._store = _type_store()
        self._converters: dict[str, Converter] = {}
        with self._open() as reader:
            for modality, topic in topics.items():
                kinds = {c.msgtype for c in reader.connections if c.topic == topic.topic}
                if len(kinds) != 1:
                    self._refuse_topic(modality, topic, kinds, reader.topics)
                kind = kinds.pop()
                if topic.type and topic.type != kind:
                    raise InputError(
                        f"{path}: topic {topic.topic}: expected messages of {topic.type}, the bag "
                        f"has {kind}"
                    )
                self._converters[modality] = Converter(manifest, modality, topic, kind)

    @property
    def notes(self) -> dict[str, tuple[str, ...]]:
        """What was changed in messages on their way, by modality (:attr:`Converter.notes`)."""
        return {name: each.notes for name, each in self._converters.items() if each.notes}

    def __iter__(self) -> Iterator[Recorded]:
        """The samples of the topics in the order in which they were received."""
        order = Order(self.name, self.modalities)
        names: dict[str, list[str]] = {}
        for modality, topic in self._topics.items():
            names.setdefault(topic.topic, []).append(modality)
        self.unfit.clear()
        self.missing = ""
        with self._open() as reader:
            connections = [c for c in reader.connections if c.topic in names]
            messages = reader.messages(connections=connections)
            while True:
                try:
                    item = next(messages, None)
                    if item is None:
                        return
                    connection, received, data = item
                    message = self._decode(data, connection.msgtype)
                except Exception as error:  # what damaged bytes make of the library's parsing
                    raise InputError(
                        f"{self._path}: after {order.count} samples: a message cannot be read: "
                        f"{type(error).__name__}: {error}; copy the bag anew"
                    ) from error
                arrival = seconds(*divmod(received, 10**9))
                for modality in names[connection.topic]:
                    sample = self._sample(modality, message, arrival, order.count)
                    if sample is not None:
                        yield order.check(sample)

    def _sample(
        self,
        modality: str,
        message: Any,  # noqa: ANN401
        arrival: float,
        number: int,
    ) -> Recorded | None:
        converter = self._converters[modality]
        try:
            value = converter(message)
        except InputError as error:
            if not self._skip:
                raise InputError(
                    f"{self._path}: after {number} samples, received at {arrival:.6f} s: {error}"
                ) from error
            self.unfit[modality, str(error)] += 1
            self.missing = f"{self.unfit.total()} messages left out, which do not fit"
            return None
        stamp = converter.stamp(message)
        return Recorded(modality, arrival if stamp is None else stamp, arrival, value)

    def _decode(self, data: bytes, kind: str) -> Any:  # noqa: ANN401
        from rosbags.serde import SerdeError

        try:
            return self._store.deserialize_cdr(data, kind)
        except SerdeError:
            for more in TRIMS:
                try:
                    return self._store.deserialize_cdr(data[:-more], kind)
                except SerdeError:
                    continue
            raise

    @contextmanager
    def _open(self) -> Iterator[Any]:
        from rosbags.rosbag2 import Reader

        try:
            reader = Reader(self._path)
            reader.open()
        except Exception as error:  # what damaged bytes make of the library's parsing
            raise InputError(f"{self._path}: cannot be read as a ROS 2 bag: {error}") from error
        try:
            yield reader
        finally:
            reader.close()

    def _refuse_topic(
        self, modality: str, topic: Topic, kinds: set[str], others: Mapping[str, Any]
    ) -> None:
        if kinds:
            raise InputError(
                f"{self._path}: topic {topic.topic} has messages of {', '.join(sorted(kinds))}; "
                "expected one type"
            )
        usable = sorted(name for name, info in others.items() if info.msgtype in TYPES)
        raise InputError(
            f"{self._path}: no topic {topic.topic} for modality {modality!r}; topics of types that "
            f"are converted: {', '.join(usable) or 'none'}"
        )


def say_changes(recording: Recording | None, say: Callable[[str], None] | None) -> None:
    """Say what is changed in a bag's messages on their way, once it has been read."""
    if isinstance(recording, Bag) and say is not None:
        for modality, notes in recording.notes.items():
            say(f"{modality}: {'; '.join(notes)}")


def _type_store() -> Any:  # noqa: ANN401
    """Types of messages; those of sensor_msgs and std_msgs are alike in all versions of ROS 2.

    Raises:
        BackendError: rosbags is not installed.
    """
    try:
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise BackendError("a ROS 2 bag needs the extra ros: pip install 'mmedge[ros]'") from error
    return get_typestore(Stores.ROS2_JAZZY)
