"""ONNX Runtime sessions, with the placement of every node read back.

ONNX Runtime moves a node that its first provider cannot run to another one and only logs it. A
variant's target is a promise, so after the session is made each node's provider is compared with
the one that the target stands for, and a node elsewhere is an error.

Attention over segments stands in a graph as a function of standard operators. On the CPU a session
first registers mmedge's kernel of the same name (:mod:`mmedge.native`), which ONNX Runtime then
calls in the function's place; where it does not take it, the function's body runs. Which of them it
is is read back as well, and that the kernel was really called is checked at the first run.

It is long, since what a session promises is read back where it is made.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.backends import Attention
from mmedge.backends.cores import stage_threads
from mmedge.backends.run_limit import LimitedRun
from mmedge.device import wait_for_stream
from mmedge.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mmedge.backends import SessionOptions, Stepper
    from mmedge.backends.onnxruntime.in_place import InPlaceCache, InPlaceStepper
    from mmedge.bundle import Bundle
    from mmedge.loop_spec import StateSpec
    from mmedge.spec import Array, Stage, TensorSpec, Variant

__all__ = [
    "OPTIMISED",
    "PROVIDERS",
    "OrtSession",
    "kernel_library",
    "open_stage",
    "session_options",
]

#: Oldest version of ONNX Runtime that checks a divisor for zero.
OLDEST = (1, 25)

#: Variant target -> the execution provider that must run every node.
PROVIDERS: Mapping[str, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

#: ONNX Runtime's names of tensor types -> dtype names of a manifest.
DTYPE_NAMES: Mapping[str, str] = {
    "tensor(bool)": "bool",
    "tensor(double)": "float64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(int8)": "int8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(uint8)": "uint8",
}

#: Ops for which the CUDA provider has a kernel but ONNX Runtime itself prefers the CPU where they
#: compute sizes from a Shape node: copying those few integers would cost more than the work.
SHAPE_OPS = frozenset({
    "Add", "Cast", "Concat", "Div", "Equal", "Gather", "Mod", "Mul", "Neg", "ReduceProd", "Reshape",
    "Shape", "Size", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where",
})  # fmt: skip

#: File name of the rewritten graph beside a profile.
OPTIMISED = "optimised.onnx"

#: Nodes named in an error about placement; the rest is counted.
NODES_SHOWN = 5


class OrtSession:
    """A stage in ONNX Runtime (see :class:`mmedge.backends.Session`)."""

    def __init__(
        self,
        session: Any,  # noqa: ANN401
        stage: Stage,
        variant: Variant,
        attention: Attention | None = None,
        run_timeout_s: float | None = None,
    ) -> None:
        self.attention = attention
        self._unproven = attention is not None and attention.kernel is not None
        self.inputs = _specs(session.get_inputs(), stage.inputs, "input", stage)
        self.outputs = _specs(session.get_outputs(), stage.outputs, "output", stage)
        self._output_names = [spec.name for spec in self.outputs]
        self._session: Any = session
        self._where = f"stage {stage.name!r}, variant {variant.id}"
        self._on_gpu = variant.target != "cpu"
        self._call: Any = partial(_run_on_gpu, session) if self._on_gpu else _binding(session)
        self._value_call: Any = None  # as for `_call`, on OrtValues; of a stage with state
        self._run_timeout_s = run_timeout_s
        if run_timeout_s is not None:
            self._call = LimitedRun(self._call, run_timeout_s, self._where)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Run once; see :meth:`mmedge.backends.Session.run`."""
        call = self._call  # another thread may close the session meanwhile
        if call is None:
            raise self._closed()
        before = _kernel_calls() if self._unproven else 0
        try:
            values = call(self._output_names, feeds, None)
        except TypeError as error:
            values = self._run_publicly(feeds, error)
        except BackendError:
            raise
        except Exception as error:  # the binding raises several unrelated types
            raise BackendError(f"{self._where}: ONNX Runtime failed: {error}") from error
        if self._unproven:
            self._prove(_kernel_calls() - before)
        names = self._output_names
        # Most often one, and then without the microsecond of the general way.
        return {names[0]: values[0]} if len(names) == 1 else dict(zip(names, values, strict=True))

    def stepper(self, states: Sequence[StateSpec]) -> Stepper | None:
        """See :class:`mmedge.backends.SteppingSession`; on a GPU states pass through the host."""
        session = self._session
        if session is None:
            raise self._closed()
        if self._on_gpu:
            return None
        from mmedge.backends.onnxruntime.stepper import OrtStepper, value_binding

        call, inner = value_binding(session)
        seconds = self._run_timeout_s
        self._value_call = call if seconds is None else LimitedRun(call, seconds, self._where)
        return OrtStepper(self.run_values, self._output_names, states, inner)

    def run_values(self, names: list[str], feeds: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Run once on OrtValues; the outputs of these names, as :func:`value_binding` gives them.

        Raises:
            BackendError: the engine failed, or the session is closed.
        """
        call = self._value_call
        if call is None:
            raise self._closed()
        before = _kernel_calls() if self._unproven else 0
        try:
            values = call(names, feeds, None)
        except BackendError:
            raise
        except Exception as error:  # the binding raises several unrelated types
            raise BackendError(f"{self._where}: ONNX Runtime failed: {error}") from error
        if self._unproven:
            self._prove(_kernel_calls() - before)
        return values

    def _closed(self) -> BackendError:
        return BackendError(f"{self._where}: the session is closed; load the bundle again")

    def _run_publicly(self, feeds: Mapping[str, Any], refusal: TypeError) -> list[Array]:
        """Run by ONNX Runtime's public method, and stay with it where it succeeds.

        Either the feeds are wrong, or :func:`_binding` is not what this ONNX Runtime has.
        """
        session = None if self._on_gpu or self._run_timeout_s is not None else self._session
        if session is None:
            raise BackendError(f"{self._where}: ONNX Runtime failed: {refusal}") from refusal
        try:
            values: list[Array] = session.run(self._output_names, feeds, None)
        except Exception as error:  # the binding raises several unrelated types
            raise BackendError(f"{self._where}: ONNX Runtime failed: {error}") from error
        self._call = session.run
        return values

    def _prove(self, calls: int) -> None:
        """Compare the kernel's own count of calls with the nodes that it is said to run."""
        nodes = self.attention.nodes if self.attention is not None else 0
        if calls < nodes:
            from mmedge.native import library as kernels

            raise BackendError(
                f"{self._where}: {nodes} nodes of segmented attention are said to run in the "
                f"kernel of {kernels().path}, which was called {calls} times; load with "
                "kernels=False, and report this"
            )
        self._unproven = False

    def end_profiling(self) -> str:
        """Path of the profile of all runs so far; of a session that was opened with ``profile``."""
        return str(self._session.end_profiling())

    def close(self) -> None:
        """Free the session."""
        self._session = self._call = self._value_call = None


class InPlaceSession(OrtSession):
    """A loop's stage that writes its states in place; see :mod:`.in_place`."""

    def __init__(
        self,
        session: Any,  # noqa: ANN401
        stage: Stage,
        variant: Variant,
        cache: InPlaceCache,
        attention: Attention | None = None,
        run_timeout_s: float | None = None,
    ) -> None:
        file_stage = replace(stage, inputs=(*stage.inputs, *cache.lengths))
        super().__init__(session, file_stage, variant, attention, run_timeout_s)
        self.inputs = tuple(spec for spec in self.inputs if spec not in cache.lengths)
        self._cache = cache
        self._call = _run_bound(session)
        if run_timeout_s is not None:
            self._call = LimitedRun(self._call, run_timeout_s, self._where)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Run once, on states of any length as in the growing form."""
        stepper, states = self.stepper(self._cache.states), self._cache.states
        stepper.begin({state.input: feeds[state.input] for state in states})
        inputs = {state.input for state in states}
        stepper.hold({name: value for name, value in feeds.items() if name not in inputs})
        outputs, arrays = stepper.run(), stepper.states()
        return {**outputs, **{state.output: arrays[state.input] for state in states}}

    def stepper(self, states: Sequence[StateSpec]) -> InPlaceStepper:  # noqa: ARG002 - the stage's
        """See :class:`mmedge.backends.SteppingSession`."""
        from mmedge.backends.onnxruntime.in_place import InPlaceStepper

        session = self._session
        if session is None:
            raise self._closed()
        return InPlaceStepper(self._cache, session.io_binding(), self._run_binding)

    def _run_binding(self, binding: Any) -> None:  # noqa: ANN401
        call = self._call
        if call is None:
            raise self._closed()
        before = _kernel_calls() if self._unproven else 0
        try:
            call([], binding, None)
        except BackendError:
            raise
        except Exception as error:  # the binding raises several unrelated types
            raise BackendError(f"{self._where}: ONNX Runtime failed: {error}") from error
        if self._unproven:
            self._prove(_kernel_calls() - before)


def _run_bound(session: Any) -> Any:  # noqa: ANN401
    """What runs a session on a binding, in the form that a limit to its time takes."""
    run = session.run_with_iobinding
    return lambda _names, binding, options: run(binding, options)


def _binding(session: Any) -> Any:  # noqa: ANN401
    """What ``session.run`` calls on the CPU: names of outputs, feeds, run options.

    The Python between them looks once more at names that were checked. With one to four inputs that
    takes 0.7 to 1.2 us of a call in a tight loop, and 2 to 3 us of one that comes after other work
    (both ways in turn in one process, ONNX Runtime 1.32), where small networks take some tens. It
    is not public, so where there is no such thing this is ``session.run`` itself.
    """
    return getattr(getattr(session, "_sess", None), "run", session.run)


def _run_on_gpu(
    session: Any,  # noqa: ANN401
    names: list[str],
    feeds: Mapping[str, Any],
    options: Any,  # noqa: ANN401
) -> list[Array]:
    """Run with device arrays bound where they lie, so that nothing is copied to the host.

    They must lie on GPU 0, the one that the CUDA provider uses.
    """
    if all(type(value) is np.ndarray for value in feeds.values()):
        values: list[Array] = session.run(names, feeds, options)
        return values
    binding = session.io_binding()
    for name, value in feeds.items():
        if type(value) is np.ndarray:
            binding.bind_cpu_input(name, value)
            continue
        interface = value.__cuda_array_interface__
        wait_for_stream(interface.get("stream"))
        binding.bind_input(
            name=name,
            device_type="cuda",
            device_id=0,
            element_type=np.dtype(interface["typestr"]),
            shape=interface["shape"],
            buffer_ptr=interface["data"][0],
        )
    for name in names:
        binding.bind_output(name)
    session.run_with_iobinding(binding, options)
    outputs: list[Array] = binding.copy_outputs_to_cpu()
    return outputs


def open_stage(
    bundle: Bundle,
    stage: Stage,
    variant: Variant,
    *,
    options: SessionOptions,
    profile: Path | None = None,
) -> OrtSession:
    """Load one stage; see :func:`mmedge.backends.registry.open_stage`.

    ``profile`` is a folder for a profile of every run, which costs time, and for :data:`OPTIMISED`,
    the graph as ONNX Runtime has rewritten it.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise BackendError(
            "ONNX Runtime cannot be imported: pip install 'mmedge[cpu]' (or 'mmedge[cuda]' for an "
            f"NVIDIA GPU): {error}"
        ) from error
    where = f"stage {stage.name!r}, variant {variant.id}"
    if tuple(map(int, ort.__version__.split(".")[:2])) < OLDEST:
        raise BackendError(
            f"{where}: ONNX Runtime {ort.__version__} ends the process on an integer division by "
            f"zero; install {'.'.join(map(str, OLDEST))} or a later one: pip install 'mmedge[cpu]'"
        )
    provider = PROVIDERS.get(variant.target)
    if provider is None:
        raise BackendError(
            f"{where}: ONNX Runtime runs variants for {' and '.join(PROVIDERS)}, "
            f"not for {variant.target}; export the bundle again"
        )
    if provider not in ort.get_available_providers():
        raise BackendError(
            f"{where}: {provider} is not in this ONNX Runtime "
            f"({ort.__version__} has {', '.join(ort.get_available_providers())}); "
            "install 'mmedge[cuda]' instead of 'mmedge[cpu]'"
        )
    graph = variant.files[stage.name]
    path = bundle.file(graph)
    nodes = sum(bundle.functions(graph).values())

    def make(library: Path | None) -> Any:  # noqa: ANN401
        settings = session_options(
            stage,
            alone=bundle.manifest.has_cores(stage),
            threads=options.threads,
            spin=options.spin,
        )
        settings.log_severity_level = 4  # fatal: errors are raised, and one voice is enough
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if profile is not None:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(profile / "run")
            settings.optimized_model_filepath = str(profile / OPTIMISED)
            # Beside the graph: protobuf ends at 2 GiB.
            key = "session.optimized_model_external_initializers_file_name"
            settings.add_session_config_entry(key, f"{OPTIMISED}.data")
        if library is not None:
            settings.register_custom_ops_library(str(library))
        return ort.InferenceSession(path, settings, providers=[provider])

    library, reason = kernel_library(variant.target, options) if nodes else (None, "")
    session = None
    if library is not None:
        try:
            session = make(library)
        except Exception as error:  # noqa: BLE001 - the body may be what this graph needs
            reason = f"ONNX Runtime refused the kernel: {error}".splitlines()[0]
    if session is None:
        try:
            session = make(None)
        except Exception as error:  # the binding raises several unrelated types
            raise BackendError(
                f"{where}: ONNX Runtime {ort.__version__} refused the graph: {error}"
            ) from error
    _check_placement(session, provider, where)
    attention = _read_attention(session, nodes, reason) if nodes else None
    loop = bundle.manifest.loop
    if (
        variant.cache == "in_place"
        and loop is not None
        and loop.kind == "generate"
        and loop.stage == stage.name
    ):
        # Most bundles have no such file.
        from mmedge.backends.onnxruntime.in_place import InPlaceCache

        cache = InPlaceCache(bundle.manifest, loop, stage)
        return InPlaceSession(session, stage, variant, cache, attention, options.run_timeout_s)
    return OrtSession(session, stage, variant, attention, options.run_timeout_s)


def _kernel_calls() -> int:
    """How often the kernel was called in this process."""
    from mmedge import native

    return native.cpu_calls()


def kernel_library(target: str, options: SessionOptions) -> tuple[Path | None, str]:
    """The library with kernels for the functions of a graph, or None and why not.

    Args:
        target: of the variant.
        options: whether kernels are wanted.
    """
    if options.kernels is False:
        return None, "kernels are turned off"
    if target != "cpu":
        return None, f"the kernel for {target} is not among ONNX Runtime's operators"
    # Most graphs have no such function, and do without these modules.
    from mmedge import native
    from mmedge.native.dispatch import choose

    library, reason = native.ort_kernels()
    if library is not None and options.kernels is None:
        choice = choose("onnxruntime", f"cpu-{native.cpu_isa()}")
        return (library, "") if choice.kernel else (None, choice.reason)
    return library, reason


def _read_attention(session: Any, nodes: int, reason: str) -> Attention:  # noqa: ANN401
    """What runs attention over segments: a node that is still there is run by its kernel."""
    from mmedge import native

    kernel_nodes = sum(
        node.domain == native.DOMAIN
        for subgraph in session.get_provider_graph_assignment_info()
        for node in subgraph.get_nodes()
    )
    if kernel_nodes:
        return Attention(kernel_nodes, native.cpu_isa())
    return Attention(nodes, None, reason or "ONNX Runtime took the body in place of the kernel")


def session_options(
    stage: Stage, *, alone: bool, threads: int | None = None, spin: bool | None = None
) -> Any:  # noqa: ANN401
    """How a stage's session uses the processor, as ONNX Runtime's ``SessionOptions``.

    Args:
        stage: the stage; one with little work gets few threads.
        alone: whether it is the only stage.
        threads: most intra-op threads; None: ONNX Runtime's default.
        spin: whether threads go on spinning after a run; None: where it is the only stage.
    """
    import onnxruntime as ort

    settings = ort.SessionOptions()
    worth = stage_threads(stage, alone=alone, threads=threads)
    if worth is not None:
        settings.intra_op_num_threads = worth
    if not (alone if spin is None else spin):
        # Several sessions in one process: idle pools that spin take the cores from the working one.
        settings.add_session_config_entry("session.force_spinning_stop", "1")
    return settings


def _check_placement(session: Any, provider: str, where: str) -> None:  # noqa: ANN401
    """Raise BackendError when any node runs on another provider than ``provider``.

    Size arithmetic (:data:`SHAPE_OPS`) on the CPU beside a GPU provider is the one exception.
    """
    elsewhere = [
        f"{node.name or '(unnamed)'} ({node.op_type}) on {subgraph.ep_name}"
        for subgraph in session.get_provider_graph_assignment_info()
        if subgraph.ep_name != provider
        for node in subgraph.get_nodes()
        if not (subgraph.ep_name == PROVIDERS["cpu"] and node.op_type in SHAPE_OPS)
    ]
    if elsewhere:
        listing = "; ".join(elsewhere[:NODES_SHOWN])
        rest = f" and {len(elsewhere) - NODES_SHOWN} more" if len(elsewhere) > NODES_SHOWN else ""
        raise BackendError(
            f"{where}: expected every node on {provider}, found {listing}{rest}. "
            "Choose a variant made for the processor that runs them, or change those layers"
        )


def _specs(
    values: Any,  # noqa: ANN401
    manifest_specs: tuple[TensorSpec, ...],
    kind: str,
    stage: Stage,
) -> tuple[TensorSpec, ...]:
    """The graph's own inputs or outputs, checked against what the manifest declares of them."""
    by_name = {spec.name: spec for spec in manifest_specs}
    names = [value.name for value in values]
    if sorted(names) != sorted(by_name):
        raise BackendError(
            f"stage {stage.name!r}: the graph's {kind}s are {sorted(names)}, "
            f"the manifest declares {sorted(by_name)}; export the bundle again"
        )
    for value in values:
        spec = by_name[value.name]
        dtype = DTYPE_NAMES.get(value.type, value.type)
        if dtype != spec.dtype or len(value.shape) != len(spec.shape):
            raise BackendError(
                f"stage {stage.name!r}: {kind} {value.name!r} is {dtype} of rank "
                f"{len(value.shape)} in the graph, the manifest declares {spec}; "
                "export the bundle again"
            )
    return tuple(by_name[name] for name in names)
