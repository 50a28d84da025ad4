"""What a bundle says about itself: frozen dataclasses, no I/O, no third-party import but NumPy.

A :class:`Manifest` is the whole contract between export and runtime. Reading and checking one from
JSON is :mod:`mmedge.schema`'s work; docs/reference/bundle.md documents every field.

It is long, since these types name each other, and are read as one.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from dataclasses import dataclass

    from numpy.typing import NDArray

    from mmedge.loop_spec import DenoiseLoop, GenerateLoop, StateSpec
else:
    from mmedge.records import dataclass

__all__ = [
    "DTYPES",
    "SCHEMA_VERSION",
    "Absent",
    "Array",
    "CacheForm",
    "Constraint",
    "Cut",
    "Decision",
    "Device",
    "Dimension",
    "Manifest",
    "Modality",
    "Move",
    "Plan",
    "PlanName",
    "Range",
    "RuntimeName",
    "Sample",
    "Stage",
    "TensorSpec",
    "Tokenizer",
    "Tolerance",
    "Variant",
]

#: Version of the manifest's schema. A reader takes this one, 3, 4 and 5, and refuses any other.
SCHEMA_VERSION = 6

if TYPE_CHECKING:
    Array = NDArray[np.generic]
else:
    Array = np.ndarray  # numpy.typing is slow to import
Absent = Literal["zeros", "token", "last"]
PlanName = Literal["cut", "whole"]

#: What runs a bundle: mmedge in Python, or libmmedge.
RuntimeName = Literal["python", "native"]
CacheForm = Literal["growing", "in_place"]

#: dtype names a manifest may use -> NumPy dtype. All are ONNX tensor types that ONNX Runtime takes
#: as network inputs. TensorRT takes no float64, int16, uint16, uint32 or uint64 there; OpenVINO's
#: variants take no float64, no 16-bit integers and no unsigned ones but uint8.
DTYPES: Mapping[str, np.dtype[np.generic]] = {
    name: np.dtype(name)
    for name in (
        "bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8",
        "uint16", "uint32", "uint64",
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype and shape of one tensor at a stage boundary.

    ``dtype`` is a key of :data:`DTYPES`. An ``int`` in ``shape`` is a fixed size, a ``str`` names a
    dynamic dimension; the same name means the same size within one call.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Dimension:
    """Sizes that a dynamic dimension may take: ``min <= size <= max`` (``max`` None: no limit).

    Sizes are multiples of ``multiple``, and so are the limits. ``min`` may be 0, for what there may
    be none of, such as detections. ``opt``, at least 1, is the size of the example at export: the
    size engines are tuned for.
    """

    min: int
    opt: int
    max: int | None = None
    multiple: int = 1


@dataclass(frozen=True, slots=True)
class Constraint:
    """A relation between dynamic sizes outside which the graphs do not compute the network.

    A network that branches on a size is exported with the branch that the example took.
    ``expression`` is what held there, over names of dimensions (docs/reference/bundle.md has the
    grammar), ``source`` the line of the network that asks, for the message of a call that breaks
    it.
    """

    expression: str
    source: str


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """How a string becomes the token inputs of a modality.

    ``file`` is a path in the bundle, in the format of the ``tokenizers`` library; ``ids`` names the
    input that takes token ids, ``mask`` the one that takes the attention mask, if there is one.
    """

    file: str
    ids: str
    mask: str | None = None


@dataclass(frozen=True, slots=True)
class Modality:
    """One sensor's contract: its inputs, how often it comes, how old it may be, what stands in.

    ``absent`` says what an optional modality is replaced by when it is left out of a call:
    ``zeros`` (zeros of the smallest allowed size), ``token`` (the tensors stored under
    ``absent.<input>`` in the bundle's samples file), ``last`` (its last value, in a stream; a
    one-shot call has no last value and uses zeros). ``rate_hz`` is its nominal rate in Hz,
    ``max_age_ms`` the oldest value a result may use, in milliseconds; None means not stated.
    ``sample_rate_hz`` is the rate of the samples inside one value (PCM), so that a recording made
    at another rate is refused and not misheard.
    """

    name: str
    inputs: tuple[str, ...]
    required: bool = True
    rate_hz: float | None = None
    max_age_ms: float | None = None
    absent: Absent = "zeros"
    tokenizer: Tokenizer | None = None
    sample_rate_hz: int | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """Smallest and largest finite value that an input took over the samples seen at export."""

    min: float
    max: float


@dataclass(frozen=True, slots=True)
class Stage:
    """One graph of the network: an encoder (``modality`` set) or a fusion stage (None).

    ``graph`` is the path of its full-precision ONNX graph in the bundle. ``inputs`` and ``outputs``
    name tensors; a tensor that one stage yields and another takes has the same name in both.
    ``flops`` counts one run at each dimension's ``opt``, a multiply-add as two.
    """

    name: str
    graph: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    modality: str | None = None
    flops: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to run the network: the names of the stages that compute it, all of it.

    ``whole`` is one stage. ``cut`` is several: an encoder for each modality with work of its own,
    and what fuses them. A bundle may hold both; their graphs share weight files.
    """

    name: PlanName
    stages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """Work that export moved out of the fusion stage into a modality's encoder.

    ``what`` says which nodes, in words; ``flops`` is what a run of the fusion stage no longer
    computes, counted as in :class:`Stage`.
    """

    modality: str
    what: str
    flops: int


@dataclass(frozen=True, slots=True)
class Cut:
    """How the network was cut by modality: what was moved, and what was noticed, in words."""

    moves: tuple[Move, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a variant's outputs may lie from the golden outputs, measured when it was made.

    An output passes when ``|got - golden| <= atol + rtol * scale`` for every element; what the
    scale of an element is, :mod:`mmedge.tolerance` says.
    """

    rtol: float
    atol: float


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run all stages: which backend, which precision, for which device.

    ``target`` is ``cpu``, ``cuda``, or an architecture such as ``sm_89`` for built engines.
    ``files`` maps the name of each stage of the plans that it can run to a file in the bundle.
    ``tolerance`` is for the outputs of the whole network, and for those of stages that
    ``tolerances`` does not name: a stage alone, on golden tensors, is nearer to them than the whole
    is. ``requires`` maps a library to the one version that can load the files (built engines need
    it, graphs leave it empty). ``build`` records what made the files (library versions, options)
    and ``metrics`` what was measured on them; the first decides nothing. Of the second
    ``latency_ms`` orders :meth:`Bundle.select`, and ``threads`` is what loading takes on a machine
    of as many ``cores``; so is ``plan``, the plan that single calls were measured to be faster
    with. ``not_checked`` says in words what the evidence for this variant leaves open. ``cache``
    says how the loop's stage takes the states that grow: ``growing`` as the stage says, or
    ``in_place`` in buffers that it writes to (docs/reference/bundle.md, "Cache in place").
    """

    backend: str
    precision: str
    target: str
    files: Mapping[str, str]
    tolerance: Tolerance
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    requires: Mapping[str, str] = field(default_factory=dict)
    build: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    not_checked: tuple[str, ...] = ()
    plan: PlanName | None = None
    cache: CacheForm = "growing"

    @property
    def id(self) -> str:
        """Short unique name of the variant inside its bundle, such as ``ort-fp32-cpu``."""
        form = "" if self.cache == "growing" else f"-{self.cache}"
        return f"{self.backend}-{self.precision}-{self.target}{form}"

    def reject_reason(self, device: Device) -> str | None:
        """Why this variant cannot run on ``device``; None when it can."""
        why_missing = device.missing.get(self.backend)
        if self.backend not in device.backends:
            return why_missing or f"backend {self.backend!r} is not known to this version of mmedge"
        if self.cache == "in_place" and (self.backend, self.target) != ("ort", "cpu"):
            return (
                "this version of mmedge writes to a cache in place with ONNX Runtime on the CPU "
                f"alone, not with {self.backend} on {self.target}"
            )
        if self.target not in device.targets:
            have = ", ".join(device.targets)
            why = device.missing.get(self.target)
            return f"made for {self.target}, this device offers {have}" + (
                f" ({why})" if why else ""
            )
        for library, version in self.requires.items():
            here = device.libraries.get(library)
            if here != version:
                return f"needs {library} {version}, found {here or 'none'}"
        return None


@dataclass(frozen=True, slots=True)
class Device:
    """What this machine can run: filled by :func:`mmedge.backends.registry.probe`.

    ``backends`` are usable here; ``missing`` says for each other one why, and the install line.
    ``targets`` are the variant targets this machine serves, the host's own ``cpu`` first.
    """

    name: str
    backends: tuple[str, ...]
    targets: tuple[str, ...]
    missing: Mapping[str, str]
    libraries: Mapping[str, str]
    cores: int
    memory_bytes: int
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided of one variant on one device; ``reason`` is set for accepted ones too."""

    variant: str
    accepted: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One golden sample: what goes in and what the original network made of it.

    ``outputs`` are those of every stage. ``step`` holds what else a stage with state or of a loop
    took when it made them: states, tokens, a latent and its time (:meth:`Manifest.step_inputs`).
    ``loop`` is what a whole run of the loop gave (docs/reference/bundle.md, "Samples").
    """

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    step: Mapping[str, Array] = field(default_factory=dict)
    loop: Mapping[str, Array] = field(default_factory=dict)

    def tensors(self) -> dict[str, Array]:
        """Everything that any stage takes or gives, by name."""
        return {**self.inputs, **self.outputs, **self.step}


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a runtime needs to know of a bundle.

    ``stages`` are those of all ``plans``; where none is stated, they are one. ``files`` maps
    every other file of the bundle to its SHA-256 in lower-case hex. ``labels`` maps an output's
    name to the file that holds its class names, a JSON list of strings. ``ranges`` maps inputs
    to what they held at export, where real samples were given; a runtime may distrust values
    outside. ``constraints`` are relations between sizes that every call must keep.
    ``not_checked`` says in words what the proof of the bundle leaves open, such as an input
    that never varied; it is empty when the samples are good. ``provenance`` records what made
    the bundle.
    """

    name: str
    modalities: tuple[Modality, ...]
    stages: tuple[Stage, ...]
    outputs: tuple[str, ...]
    variants: tuple[Variant, ...]
    files: Mapping[str, str]
    dimensions: Mapping[str, Dimension] = field(default_factory=dict)
    ranges: Mapping[str, Range] = field(default_factory=dict)
    cut: Cut = field(default_factory=Cut)
    constraints: tuple[Constraint, ...] = ()
    not_checked: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    samples: int = 0
    plans: tuple[Plan, ...] = ()
    states: tuple[StateSpec, ...] = ()
    loops: tuple[GenerateLoop | DenoiseLoop, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def loop(self) -> GenerateLoop | DenoiseLoop | None:
        """The loop, if there is one."""
        return self.loops[0] if self.loops else None

    def loop_stages(self) -> tuple[Stage, ...]:
        """The stages of the loop, in the order they run: that of a step, and a decoder."""
        names = [
            name for loop in self.loops for name in (loop.stage, getattr(loop, "decoder", None))
        ]
        by_name = {stage.name: stage for stage in self.stages}
        return tuple(by_name[name] for name in names if name in by_name)

    def returned_outputs(self) -> tuple[str, ...]:
        """The network's outputs that a call returns: with a loop, those that the loop leaves."""
        taken = {spec.name for stage in self.loop_stages() for spec in stage.inputs}
        taken.update(state.source for state in self.states if state.source is not None)
        return tuple(name for name in self.outputs if name not in taken)

    def step_inputs(self) -> dict[str, TensorSpec]:
        """What stages take beside inputs of the network and outputs of stages, by name.

        States, and what the loop gives to its stages. A token is among them even where it is an
        input of the network: the caller's tokens are those of the first step.
        """
        states = {(state.stage, state.input) for state in self.states}
        by_loop = {
            name
            for loop in self.loops
            for name in (
                (loop.token, loop.position) if loop.kind == "generate" else (loop.latent, loop.time)
            )
        }
        in_loop = {stage.name for stage in self.loop_stages()}
        return {
            spec.name: spec
            for stage in self.stages
            for spec in stage.inputs
            if (stage.name, spec.name) in states or (stage.name in in_loop and spec.name in by_loop)
        }

    def all_plans(self) -> tuple[Plan, ...]:
        """The plans; where none is stated, the one of all stages that are not of a loop."""
        in_loop = [stage.name for stage in self.loop_stages()]
        names = tuple(stage.name for stage in self.stages if stage.name not in in_loop)
        return self.plans or (Plan("cut" if len(names) > 1 else "whole", names),)

    def open_questions(self, *variants: Variant) -> tuple[str, ...]:
        """What was not checked of the bundle, and of ``variants``, a line each."""
        variant_questions = (
            f"{variant.id}: {text}" for variant in variants for text in variant.not_checked
        )
        return (*self.not_checked, *variant_questions)

    def inputs(self) -> dict[str, TensorSpec]:
        """Inputs of the whole network by name, in the modalities' order."""
        specs = {spec.name: spec for stage in self.stages for spec in stage.inputs}
        return {name: specs[name] for modality in self.modalities for name in modality.inputs}

    def plan_names(self, variant: Variant | None = None) -> tuple[PlanName, ...]:
        """Plans of the bundle, or those of them that ``variant`` has all files for."""
        return tuple(
            plan.name
            for plan in self.all_plans()
            if variant is None or all(stage in variant.files for stage in plan.stages)
        )

    def runs_own_graphs(self, variant: Variant) -> bool:
        """Whether a variant's files are the graphs that were exported."""
        graphs = {stage.name: stage.graph for stage in self.stages}
        return all(graphs[stage] == file for stage, file in variant.files.items())

    def has_both_plans(self) -> bool:
        """Whether the network is in the bundle cut and whole."""
        return len(self.all_plans()) > 1

    def stream_plan(self, variant: Variant) -> PlanName:
        """The plan that a stream runs: ``cut`` where the variant has it."""
        return "cut" if "cut" in self.plan_names(variant) else "whole"

    def is_whole(self, stage: Stage) -> bool:
        """Whether a stage is the network by itself."""
        return any(plan.stages == (stage.name,) for plan in self.all_plans())

    def has_cores(self, stage: Stage) -> bool:
        """Whether a stage has the cores to itself: it is the network, or a loop's step."""
        return stage.name == self.loop.stage if self.loop is not None else self.is_whole(stage)

    def in_order(self, plan: PlanName | None = None) -> tuple[Stage, ...]:
        """The stages of a plan so that each comes after those whose tensors it takes.

        The manifest's reader has refused cycles, so every round below finds a stage.

        Args:
            plan: one of :meth:`plan_names`; None: ``cut`` where there is one.
        """
        by_name = {each.name: each.stages for each in self.all_plans()}
        names = by_name[plan or ("cut" if "cut" in by_name else "whole")]
        tensors = {*self.inputs(), *(state.input for state in self.states)}
        waiting = [stage for stage in self.stages if stage.name in names]
        stages: list[Stage] = []
        while waiting:
            stage = next(s for s in waiting if all(spec.name in tensors for spec in s.inputs))
            waiting.remove(stage)
            stages.append(stage)
            tensors.update(spec.name for spec in stage.outputs)
        return tuple(stages)
