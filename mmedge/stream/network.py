"""A network that a stream runs, or may come to run: its stages, and how long they took."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mmedge.execution.inputs import Feeds
from mmedge.stream.compute import Compute, StageRunner
from mmedge.stream.latency_predictor import LatencyPredictor
from mmedge.stream.loop_times import LoopTimes
from mmedge.stream.network_id import NetworkId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mmedge.bundle import Bundle
    from mmedge.spec import Array, Variant
    from mmedge.stream.sample import Item

__all__ = ["Network", "Renewed", "Runnable", "Timings", "make_network"]


class Runnable(StageRunner, Protocol):
    """What a stream needs of a pipeline."""

    bundle: Bundle
    variant: Variant


class Timings:
    """How long results, encodings and the parts of a fusion took on one network, in seconds.

    Args:
        modalities: their names.
    """

    def __init__(self, modalities: Iterable[str]) -> None:
        self.latency = LatencyPredictor()
        self.fusion = LatencyPredictor()
        self.loop = LoopTimes()
        self.encodings = {name: LatencyPredictor() for name in modalities}


class Network:
    """One network of a stream.

    Args:
        id: which it is.
        pipe: what runs its stages.
        compute: the work on them.
        close: frees it; None: whoever loaded it does that.
    """

    def __init__(
        self,
        id: NetworkId,  # noqa: A002 - what it is called in a result
        pipe: Runnable,
        compute: Compute,
        close: Callable[[], None] | None = None,
    ) -> None:
        self.id = id
        self.pipe = pipe
        self.compute = compute
        self.timings = Timings(modality.name for modality in pipe.bundle.manifest.modalities)
        self.close = close


def make_network(
    number: int,
    pipe: Runnable,
    loop_options: Mapping[str, Any],
    *,
    feeds: Feeds | None = None,
    close: Callable[[], None] | None = None,
) -> Network:
    """A network of a loaded pipeline.

    Args:
        number: counts those of the stream.
        pipe: runs the stages of the plan that a stream runs.
        loop_options: of every run of a loop.
        feeds: makes stand-ins; None: those of the pipeline's bundle.
        close: frees the pipeline.
    """
    bundle, variant = pipe.bundle, pipe.variant
    feeds = feeds or Feeds(bundle, on_gpu=variant.target != "cpu")
    plan = bundle.manifest.stream_plan(variant)
    compute = Compute(pipe, bundle, plan, feeds, loop_options)
    return Network(NetworkId(number, bundle.digest, variant.id), pipe, compute, close)


class Renewed(NamedTuple):
    """An item that another network encoded before it takes over.

    ``states`` are those that the encoder's stages left.
    """

    item: Item
    features: Mapping[str, Any]
    states: Mapping[str, Mapping[str, Array]]
