"""Where a stage's time goes, operator by operator, under the modules of the original network.

Each stage runs in a session of its own with the backend's profiler on, so that what is timed
elsewhere stays undisturbed. A backend's graph is not the exported one any more: it has fused some
nodes and added others. Which module a node belongs to is found through the tensors: a fused node
still makes a tensor that has its old name.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from mmedge.backends import SessionOptions
from mmedge.bench.modules import FUSED, FUSING, NETWORK, Node, read_nodes
from mmedge.errors import MMEdgeError
from mmedge.feeds import Feeds
from mmedge.pipeline import load

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from mmedge.pipeline import Pipeline
    from mmedge.spec import Array, Stage, Variant

__all__ = ["NOT_PROFILED", "Operator", "Profile", "Span", "profile", "try_profile"]

#: Untimed runs before those that count.
WARMUP = 3

#: What ONNX Runtime hangs on a tensor's name to name a node that makes it in a blocked layout.
BLOCKED = "_nchwc"

#: Nodes that a fused one is looked for behind its result: Conv, Add, Relu and a Q/DQ pair.
FUSED_DEPTH = 5

_BETWEEN = (
    "Between the operators' sum and the stage's time lie this rounding, what passes between two "
    "operators, and the call from Python; profiling itself lengthens a run."
)
#: What a profile does not see, by backend.
UNSEEN = {
    "ort": f"ONNX Runtime counts whole microseconds of each operator, rounded down. {_BETWEEN}",
    "openvino": (
        "OpenVINO counts whole microseconds of each operator, and not when one began: in a trace "
        f"they follow each other without gaps. {_BETWEEN}"
    ),
    **dict.fromkeys(
        ("tensorrt", "tensorrt_rtx"),
        "TensorRT tells the milliseconds of each layer of an engine, and not when one began: in a "
        "trace they follow each other without gaps. A layer is placed by the nodes in its name, "
        "and counts for no module where that tells none: attention over segments, nodes that the "
        "build added, ranges of nodes from several modules. Between the layers' sum and the "
        "stage's time lie copies from and to the host, launches, and the call from Python; "
        "profiling itself lengthens a run.",
    ),
}


@dataclass(frozen=True, slots=True)
class Operator:
    """All nodes of one operator in one module of one stage.

    Attributes:
        stage: name of the stage.
        module: qualified name in the original network, without a root that all modules share;
            :data:`mmedge.bench.modules.NETWORK` or ``FUSED`` where there is none.
        op: operator, as the backend runs it.
        calls: nodes of this kind that run in one call.
        ms: milliseconds of them together in one call, median over the calls.
        share: of the time of all operators of the stage, 0 to 1.
    """

    stage: str
    module: str
    op: str
    calls: int
    ms: float
    share: float


@dataclass(frozen=True, slots=True)
class Span:
    """One node of one profiled run: when it began after the run's start, and how long it took."""

    name: str
    op: str
    module: str
    start_us: float
    us: float


@dataclass(frozen=True, slots=True)
class Profile:
    """What operators took.

    Attributes:
        rows: largest time first; empty where the backend has no such profile.
        stages: by stage ``profiled_ms`` (the medians of its operators together) and ``stage_ms``
            (the stage without a profiler, median over as many calls before these and as many
            after).
        unseen: what the profile does not see, or why there is none, in words.
        spans: by stage the nodes of one profiled call, that of the median total, in order.
    """

    rows: tuple[Operator, ...]
    stages: Mapping[str, Mapping[str, float]]
    unseen: str
    spans: Mapping[str, tuple[Span, ...]] = field(default_factory=dict)

    def report_keys(self) -> dict[str, Any]:
        """What a report says of it: the keys ``operators`` and ``operators_unexplained``."""
        return {
            "operators": [asdict(row) for row in self.rows],
            "operators_unexplained": {"words": self.unseen, "stages": dict(self.stages)},
        }


#: Of a run that was to go without.
NOT_PROFILED = Profile((), {}, "not asked for")


def try_profile(
    path: str | PathLike[str],
    variant: Variant,
    inputs: Mapping[str, Any],
    *,
    threads: int | None = None,
) -> Profile:
    """As :func:`profile`, or one that says why there is none: what was timed is not lost for it.

    Args:
        path: the bundle.
        variant: which of its variants.
        inputs: as for :meth:`mmedge.Pipeline.run`, on the host.
        threads: as for :func:`mmedge.load`.
    """
    try:
        return profile(path, variant, inputs, threads=threads)
    except MMEdgeError as error:
        return Profile((), {}, f"no profile by operator: {error}")


def profile(
    path: str | PathLike[str],
    variant: Variant,
    inputs: Mapping[str, Any],
    *,
    threads: int | None = None,
    calls: int = 20,
) -> Profile:
    """Run each stage of a bundle on one sample with the backend's profiler on.

    Args:
        path: the bundle.
        variant: which of its variants; ONNX Runtime's and OpenVINO's on the CPU have a profile,
            and engines.
        inputs: as for :meth:`mmedge.Pipeline.run`, on the host.
        threads: as for :func:`mmedge.load`.
        calls: profiled calls, at least 1.

    Raises:
        ValueError: ``calls`` < 1.
        MMEdgeError: whatever loading and running raise.
    """
    if calls < 1:
        raise ValueError(f"calls must be >= 1, got {calls}")
    if variant.backend not in UNSEEN:
        return Profile((), {}, f"no profile by operator: mmedge reads none of {variant.backend}")
    if variant.backend == "ort" and variant.target != "cpu":
        return Profile((), {}, "no profile by operator: on a GPU ONNX Runtime times launches only")
    profiled = _profiled
    if variant.backend == "openvino":
        from mmedge.bench.operators_openvino import profiled
    elif variant.backend != "ort":
        from mmedge.bench.operators_tensorrt import profiled
    found: dict[str, list[list[Span]]] = {}
    plain_ms: dict[str, float] = {}
    with load(
        Path(path),
        variant.backend,
        variant.precision,
        variant.target,
        threads=threads,
        allow_unverified=True,
    ) as pipe:
        values = Feeds(pipe.bundle).prepare(inputs)
        for stage in pipe.bundle.manifest.in_order():
            feeds = {spec.name: values[spec.name] for spec in stage.inputs}
            before, outputs = _plain(pipe, stage.name, feeds, calls)
            found[stage.name] = profiled(pipe, stage, feeds, WARMUP, calls)
            # On both sides: what slows the machine meanwhile would make a part exceed its whole.
            after, _ = _plain(pipe, stage.name, feeds, calls)
            plain_ms[stage.name] = median(before + after)
            values.update(outputs)
    return _digest(found, plain_ms, UNSEEN[variant.backend])


def _plain(
    pipe: Pipeline, stage: str, feeds: Mapping[str, Any], calls: int
) -> tuple[list[float], dict[str, Array]]:
    """Milliseconds of each run of the stage as it is, and its outputs."""
    took = []
    for _ in range(WARMUP + calls):
        start = perf_counter_ns()
        outputs = pipe.run_stage(stage, feeds)
        took.append((perf_counter_ns() - start) / 1e6)
    return took[WARMUP:], outputs


def _profiled(
    pipe: Pipeline, stage: Stage, feeds: Mapping[str, Any], untimed: int, calls: int
) -> list[list[Span]]:
    """The nodes of each profiled run in ONNX Runtime."""
    from mmedge.backends.ort import OPTIMISED, open_stage

    bundle, variant = pipe.bundle, pipe.variant
    with tempfile.TemporaryDirectory(prefix="mmedge-profile-") as name:
        folder = Path(name)
        session = open_stage(
            bundle, stage, variant, options=SessionOptions(threads=pipe.threads), profile=folder
        )
        bundle.release()
        try:
            for _ in range(untimed + calls):
                session.run(feeds)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        finally:
            session.close()
        rewritten = memoryview((folder / OPTIMISED).read_bytes())
        modules = _modules(bundle.read(variant.files[stage.name]), rewritten)
    # A graph that did not come from torch tells no modules at all.
    other = FUSED if set(modules.values()) - {NETWORK} else NETWORK
    return [_spans(run, modules, other) for run in _by_run(events)[untimed:]]


def _by_run(events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Events of nodes by run, each run's in the order they began."""
    runs = sorted(e["ts"] for e in events if e.get("name") == "model_run")
    found: list[list[dict[str, Any]]] = [[] for _ in runs]
    at = -1
    nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith(_KERNEL)]
    # A node that holds a subgraph begins with the subgraph's first: the longer one goes first.
    for event in sorted(nodes, key=lambda e: (e["ts"], -e["dur"])):
        while at + 1 < len(runs) and runs[at + 1] <= event["ts"]:
            at += 1
        # Times count from the run's start.
        found[at].append({**event, "ts": event["ts"] - runs[at]})
    return found


#: What ONNX Runtime hangs on the node's name where the event is the kernel's own time.
_KERNEL = "_kernel_time"


def _spans(events: list[dict[str, Any]], modules: Mapping[str, str], other: str) -> list[Span]:
    """Nodes with the time they took themselves: a node's subgraph (If, Loop) counts on its own.

    ``other`` is the module of nodes that are not among ``modules``.
    """
    own = [float(event["dur"]) for event in events]
    around: list[int] = []
    for index, event in enumerate(events):
        while around and _end(events[around[-1]]) < _end(event):
            around.pop()
        if around and events[around[-1]]["args"].get("op_name") in {"If", "Loop", "Scan"}:
            own[around[-1]] -= event["dur"]
        around.append(index)
    spans = []
    for event, us in zip(events, own, strict=True):
        name = event["name"].removesuffix(_KERNEL)
        op = event["args"].get("op_name", name)
        spans.append(Span(name, op, modules.get(name, other), float(event["ts"]), max(us, 0.0)))
    return spans


def _end(event: Mapping[str, Any]) -> int:
    return int(event["ts"] + event["dur"])


def _digest(
    found: Mapping[str, list[list[Span]]], plain_ms: Mapping[str, float], unseen: str
) -> Profile:
    """Rows and totals of all stages' runs."""
    root = _common_root({s.module for runs in found.values() for run in runs for s in run})
    rows: list[Operator] = []
    stages: dict[str, dict[str, float]] = {}
    spans: dict[str, tuple[Span, ...]] = {}
    for stage, profiled in found.items():
        runs = sorted(profiled, key=lambda run: sum(span.us for span in run))
        keys = {(span.module.removeprefix(root), span.op) for run in runs for span in run}
        times = {key: [0.0] * len(runs) for key in keys}
        for index, run in enumerate(runs):
            for span in run:
                times[span.module.removeprefix(root), span.op][index] += span.us
        # Not means: a call that the system interrupted would stand for a whole module.
        took = {key: median(us) for key, us in times.items()}
        counts = Counter((span.module.removeprefix(root), span.op) for span in runs[len(runs) // 2])
        total = math.fsum(took.values())
        rows += [
            Operator(stage, module, op, counts[module, op], us / 1e3, us / total if total else 0.0)
            for (module, op), us in took.items()
        ]
        stages[stage] = {"profiled_ms": total / 1e3, "stage_ms": plain_ms[stage]}
        spans[stage] = tuple(
            replace(span, module=span.module.removeprefix(root)) for span in runs[len(runs) // 2]
        )
    rows.sort(key=lambda row: (-row.ms, row.stage, row.module, row.op))
    return Profile(tuple(rows), stages, unseen, spans)


def _common_root(modules: set[str]) -> str:
    """What all modules' names begin with, up to and with a dot; never the whole of a name."""
    paths = [name.split(".")[:-1] for name in modules - {NETWORK, FUSED}]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return "".join(f"{parts[0]}." for parts in shared)


def _modules(exported: memoryview, rewritten: memoryview) -> dict[str, str]:
    """Module of each node of the rewritten graph, by the node's name.

    It is that of the exported node which makes the same tensor: for a fused node, that of the node
    behind it with the operator that gives the fused one its name. A node that makes no tensor of
    the exported graph, or one of no module, counts for the module that uses its result.
    """
    named: dict[str, Node] = {}
    makers: dict[str, Node] = {}
    for node in read_nodes(exported):
        named[node.name] = node
        makers.update(dict.fromkeys(node.outputs, node))
    found: dict[str, str] = {}
    used_by: dict[str, str] = {}
    for node in reversed(list(read_nodes(rewritten))):
        module = None
        # In a blocked layout a node makes another tensor; its name still holds that of the old one.
        for value in (*node.outputs, node.name.removesuffix(BLOCKED)):
            maker = makers.get(value) or named.get(value)
            module = module or (_origin(maker, node.op, makers) if maker else None)
        for value in node.outputs:
            module = module or used_by.get(value)
        if module is not None:
            found[node.name] = module
            used_by.update(dict.fromkeys(node.inputs, module))
    return dict.fromkeys(named, NETWORK) | found


def _origin(maker: Node, op: str, makers: Mapping[str, Node]) -> str | None:
    """Module of the nearest node behind ``maker`` whose operator ends the fused one's name."""
    level = [maker]
    for _ in range(FUSED_DEPTH):
        for node in level:
            if node.op in FUSING and op.endswith(node.op) and node.module is not None:
                return node.module
        level = [makers[value] for node in level for value in node.inputs if value in makers]
    return maker.module
