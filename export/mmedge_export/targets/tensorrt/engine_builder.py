"""One ONNX graph to one serialised engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge.backends.tensorrt import SOURCES
from mmedge.backends.tensorrt.library import DTYPE_NAMES, load_library, make_log
from mmedge.device import find_gpus
from mmedge.errors import BackendError, InputError
from mmedge_export.targets.tensorrt import CURRENT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmedge.spec import Stage, TensorSpec
    from mmedge_export.targets.tensorrt.profiles import ProfileSizes

__all__ = ["EngineBuilder"]

#: What a machine without a GPU adds to unrelated messages of the library.
NOISE = "driver version is insufficient"

#: Parser errors and float64 tensors shown in a message; the rest is counted.
SHOWN = 20


class EngineBuilder:
    """Builds engines for one library and one target; loads the library once.

    Engines are strongly typed: every layer has the dtype that the graph gives it. TF32, which
    would round the factors of float32 products to 11 bits, is off. No layer is offered to a DLA,
    so there is nothing that could fall back from one: all layers run on the GPU.

    Args:
        backend: ``tensorrt_rtx``, which builds for other GPUs and needs none, or ``tensorrt``,
            which times kernels on the GPU that it builds for.
        target: an architecture such as ``sm_89``, or ``current``.
        workspace: bytes of GPU memory that a layer may use as scratch; None: the library's default.

    Raises:
        BackendError: the library is not installed, or the target needs a GPU and there is none.
        InputError: the backend is unknown or cannot build for the target.
    """

    def __init__(self, backend: str, target: str, *, workspace: int | None = None) -> None:
        if backend not in SOURCES:
            raise InputError(
                f"backend {backend!r} builds no engines; these do: {', '.join(sorted(SOURCES))}"
            )
        self.backend = backend
        self._trt = load_library(backend)
        self._workspace = workspace
        self.target = self._resolve(target)

    def _resolve(self, target: str) -> str:
        """``target`` as an architecture; checked against what the library builds for."""
        gpus = find_gpus()
        if target == CURRENT:
            if not gpus:
                raise BackendError(
                    f"{self.backend}: target {CURRENT!r} is this machine's GPU, and its driver "
                    "offers none. Build on the device itself, or name an architecture, such as "
                    "--backend tensorrt-rtx --target sm_89"
                )
            target = gpus[0].sm
        if self.backend == "tensorrt":
            here = gpus[0].sm if gpus else "none"
            if target != here:
                raise BackendError(
                    f"tensorrt times kernels on the GPU that it builds for: asked for {target}, "
                    f"this machine's GPU is {here}. Build on the device itself, or use "
                    "--backend tensorrt-rtx, which builds without a GPU"
                )
            return target
        architectures = sorted(self._capabilities(), key=lambda name: int(name.removeprefix("sm_")))
        if target not in architectures:
            raise InputError(
                f"target {target!r}: tensorrt-rtx {self._trt.__version__} builds for "
                f"{', '.join(architectures)}, and for {CURRENT!r} on a machine with such a GPU"
            )
        return target

    def _capabilities(self) -> dict[str, Any]:
        """Targets of TensorRT-RTX by our names."""
        members = self._trt.ComputeCapability.__members__
        return {
            f"sm_{name.removeprefix('SM')}": member
            for name, member in members.items()
            if name.startswith("SM")
        }

    def options(self) -> dict[str, str]:
        """What shapes an engine beside graph and sizes, read back for the variant's record."""
        trt = self._trt
        builder = trt.Builder(make_log(trt))
        config = self._config(builder)
        flags = trt.BuilderFlag.__members__
        on = [name for name, flag in flags.items() if config.get_flag(flag)]
        return {
            "builder flags": " ".join(on) or "none",
            "device": config.default_device_type.name,
            "optimization level": str(config.builder_optimization_level),
            "workspace bytes": "default" if self._workspace is None else str(self._workspace),
        }

    def build(self, file: Path, stage: Stage, sizes: Mapping[str, ProfileSizes]) -> bytes:
        """Build the graph in ``file``, with its weight files beside it, as ``stage``.

        Args:
            file: an ONNX graph with the stage's inputs and outputs.
            stage: what the manifest declares of them.
            sizes: smallest, best and largest size of each dynamic dimension.

        Raises:
            BackendError: the library refuses the graph (every node that it names is in the
                message), the graph has float64 tensors, or it does not fit ``stage``.
        """
        trt, where = self._trt, f"stage {stage.name!r}"
        for spec in (*stage.inputs, *stage.outputs):
            if spec.dtype not in DTYPE_NAMES.values():
                raise BackendError(
                    f"{where}: TensorRT has no {spec.dtype}, tensor {spec}; cast it to float32 in "
                    "the network"
                )
        _refuse_float64(file, where)
        log = make_log(trt)
        builder = trt.Builder(log)
        # The parser owns weights that the network points to until the engine is built.
        network, _parser = self._parse(file, builder, log, where)
        _check_tensors(network, stage, where)
        _allow_decomposed_attention(trt, network)
        config = self._config(builder)
        dynamic = [s for s in stage.inputs if any(isinstance(size, str) for size in s.shape)]
        if dynamic:
            config.add_optimization_profile(_profile(builder, dynamic, sizes))
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            messages = [line for line in log.errors if NOISE not in line] or log.errors
            raise BackendError(
                f"{where}: {self.backend} {trt.__version__} could not build an engine for "
                f"{self.target}: {'; '.join(messages) or 'it gave no reason'}"
            )
        return bytes(plan)

    def _parse(self, file: Path, builder: Any, log: Any, where: str) -> tuple[Any, Any]:  # noqa: ANN401
        """The parsed network and its parser; every refused node is named in the error."""
        trt = self._trt
        # TensorRT 11 knows no other kind of network and may drop the flag.
        flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(0 if flag is None else 1 << int(flag))
        parser = trt.OnnxParser(network, log)
        if not parser.parse_from_file(str(file)):
            faults = [_describe(parser.get_error(i)) for i in range(parser.num_errors)]
            rest = len(faults) - SHOWN
            raise BackendError(
                f"{where}: {self.backend} {trt.__version__} cannot take {len(faults)} of its "
                f"nodes: {'; '.join(faults[:SHOWN])}{f'; and {rest} more' if rest > 0 else ''}. "
                "Change these layers of the network, or run it with backend ort"
            )
        return network, parser

    def _config(self, builder: Any) -> Any:  # noqa: ANN401
        trt = self._trt
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)
        if self.backend == "tensorrt_rtx":
            config.num_compute_capabilities = 1
            config.set_compute_capability(self._capabilities()[self.target], 0)
        if self._workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self._workspace)
        return config


def _describe(error: Any) -> str:  # noqa: ANN401
    """One parser error: node, operator, and the parser's own words."""
    message = " ".join(
        line for line in str(error.desc()).splitlines() if line.strip() and NOISE not in line
    )
    if message == "false":  # a bare assertion of its list of operators
        message = "the operator is not supported"
    if error.node() < 0:  # a tensor at the border of the graph; its name stands where files stand
        return f"tensor {error.file()!r}: {message}"
    name = error.node_name() or f"number {error.node()}"
    scopes = "".join(f" in {scope}" for scope in error.local_function_stack())
    hint = ""
    if "uint8" in message.lower():
        hint = " (TensorRT can only move and cast uint8: convert it to float before computing)"
    return f"node {name!r} ({error.node_operator()}){scopes}: {message}{hint}"


def _refuse_float64(file: Path, where: str) -> None:
    """The parser would compute float64 in float32 without a word."""
    import onnx

    double = onnx.TensorProto.DOUBLE
    graph = onnx.load(file, load_external_data=False).graph
    tensors = [tensor.name for tensor in graph.initializer if tensor.data_type == double]
    tensors += [v.name for v in graph.value_info if v.type.tensor_type.elem_type == double]
    for node in graph.node:
        for attribute in node.attribute:
            casts = node.op_type == "Cast" and attribute.name == "to" and attribute.i == double
            if casts or attribute.t.data_type == double:
                tensors.append(node.output[0])
    if tensors:
        names = list(dict.fromkeys(tensors))
        rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise BackendError(
            f"{where}: TensorRT has no float64 and would compute in float32: tensors "
            f"{', '.join(names[:SHOWN])}{rest}; use float32 in the network"
        )


def _check_tensors(network: Any, stage: Stage, where: str) -> None:  # noqa: ANN401
    """The parsed network's inputs and outputs are the stage's."""
    for kind, specs, count, get in (
        ("input", stage.inputs, network.num_inputs, network.get_input),
        ("output", stage.outputs, network.num_outputs, network.get_output),
    ):
        tensors = {tensor.name: tensor for tensor in map(get, range(count))}
        if tensors.keys() != {spec.name for spec in specs}:
            raise BackendError(
                f"{where}: the graph's {kind}s are {sorted(tensors)}, the manifest declares "
                f"{sorted(spec.name for spec in specs)}; export the bundle again"
            )
        for spec in specs:
            tensor = tensors[spec.name]
            dtype = DTYPE_NAMES.get(tensor.dtype.name, tensor.dtype.name)
            if dtype != spec.dtype or len(tensor.shape) != len(spec.shape):
                raise BackendError(
                    f"{where}: {kind} {spec.name!r} is {dtype} {tuple(tensor.shape)} to "
                    f"{stage.name!r}'s parser, the manifest declares {spec}; export again"
                )
            if kind == "input" and tensor.is_shape_tensor:
                raise BackendError(
                    f"{where}: the values of input {spec.name!r} are sizes of other tensors, which "
                    "an engine cannot take; compute them from shapes in the network"
                )


def _allow_decomposed_attention(trt: Any, network: Any) -> None:  # noqa: ANN401
    """Let attention without a kernel of its own, such as all in float32, become plain layers.

    Without leave the build fails: "Attention operation was not supported by a dedicated kernel".
    """
    kinds = getattr(trt.LayerType, "__members__", {})
    if "ATTENTION_INPUT" not in kinds:  # a version without the Attention operator
        return
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == kinds["ATTENTION_INPUT"]:
            # The binding hands out the base class; this is how its users reach the real one.
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.decomposable = True


def _profile(builder: Any, specs: list[TensorSpec], sizes: Mapping[str, ProfileSizes]) -> Any:  # noqa: ANN401
    profile = builder.create_optimization_profile()
    for spec in specs:
        shapes = [
            tuple(n if isinstance(n, int) else getattr(sizes[n], at) for n in spec.shape)
            for at in ("min", "opt", "max")
        ]
        profile.set_shape(spec.name, *shapes)
    return profile
