"""The frameworks that mmedge stands beside, each in a process of its own.

:class:`Peer` starts this file once for each framework and asks it over pipes, a JSON line each.
What ONNX Runtime and OpenVINO do is that of :mod:`quantize_peers`; new here are torch, Optimum,
mmedge with every variant of a bundle, and a chain of graphs in OpenVINO.

Ways by framework:

``torch``
    ``torch eager``, and ``torch compile`` (Inductor with its defaults), both in inference mode.
``onnxruntime``
    ``ort fp32``: the whole network's graph in one session with its defaults, tensors bound.
``optimum``
    ``optimum``: its own ONNX export of the same weights in a transformers model, called by its own
    class with NumPy arrays; networks that transformers does not have cannot be made.
``openvino``
    ``openvino fp32``, ``nncf``, ``nncf transformer`` (see :mod:`quantize_peers`), all for latency
    with fixed shapes and float32 for what stays float; ``openvino, mmedge int8``: the graphs with
    Q/DQ nodes of mmedge's int8 variant, one after the other.
``mmedge``
    ``mmedge VARIANT`` for each variant of a bundle that runs on the CPU.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from peer_process import PeerProcess, answer_as
from quantize_peers import OpenVino, Ort, load, save, time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]

__all__ = ["Peer"]

UNTIMED, FEWEST_CALLS = 1, 3


class Peer(PeerProcess):
    """The process of one framework.

    Args:
        framework: ``torch``, ``onnxruntime``, ``optimum``, ``openvino`` or ``mmedge``.
        threads: of each call.
        folder: for files; one for each peer.
        python: interpreter that has the framework.

    Raises:
        RuntimeError: the process ended; its own errors are on standard error.
    """

    def __init__(self, framework: str, threads: int, folder: Path, python: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        super().__init__([python, str(Path(__file__).resolve()), framework, str(threads)], folder)

    def prepare(
        self, way: str, source: str, calibration: Sequence[Mapping[str, NDArray[Any]]]
    ) -> dict[str, Any]:
        """Make ``way``: words on what ``ran`` and the first call in ``first_ms``, or ``error``."""
        given = self.folder / "calibration.npz"
        save(given, [dict(one) for one in calibration])
        return self.ask(prepare=way, source=source, calibration=str(given))

    def answer(self, way: str, inputs: Sequence[Arrays]) -> list[Arrays]:
        """Outputs by name for each of ``inputs``."""
        given, made = self.folder / "inputs.npz", self.folder / "outputs.npz"
        save(given, inputs)
        self.ask(answer=way, inputs=str(given), outputs=str(made))
        return load(made)

    def time(self, way: str, ms: float) -> float:
        """Median microseconds of the calls of a block that takes about ``ms`` milliseconds."""
        return float(self.ask(time=way, ms=ms)["us"])

    def peak_mib(self) -> float | None:
        """Peak resident memory of the process in MiB, where Linux tells."""
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            return None
        (peak,) = (line.split()[1] for line in lines.splitlines() if line.startswith("VmHWM"))
        return int(peak) / 1024


class Torch:
    """PyTorch on the CPU; the source of a way is the name of a network of :mod:`peers_nets`."""

    def __init__(self, threads: int) -> None:
        # A first call that finds nothing of earlier runs, and no processes that compile beside it.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path("inductor").resolve())
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        self.version = {"torch": torch.__version__}
        self.nets: dict[str, Any] = {}
        self.calls: dict[str, Callable[..., Any]] = {}
        self.outputs: list[str] = []

    def prepare(self, way: str, source: str, calibration: list[Arrays]) -> str:  # noqa: ARG002
        """Make the network."""
        if source not in self.nets:
            model = importlib.import_module("peers_nets").NETS[source]().model
            self.nets[source], self.outputs = model.module.eval(), list(model.outputs)
        module = self.nets[source]
        self.calls[way] = self.torch.compile(module) if way == "torch compile" else module
        compiled = "Inductor" if way == "torch compile" else "eager"
        return f"CPU, fp32, {compiled}, {self.torch.backends.cpu.get_cpu_capability()}"

    def _call(self, way: str, tensors: dict[str, Any]) -> Any:  # noqa: ANN401
        with self.torch.inference_mode():
            return self.calls[way](**tensors)

    def run(self, way: str, inputs: Arrays) -> Arrays:
        """Outputs by name."""
        made = self._call(way, {n: self.torch.from_numpy(x) for n, x in inputs.items()})
        if isinstance(made, dict):
            return {name: made[name].numpy() for name in self.outputs}
        values = made if isinstance(made, tuple | list) else (made,)
        return {n: value.numpy() for n, value in zip(self.outputs, values, strict=True)}

    def bound(self, way: str, inputs: Arrays) -> Callable[[], object]:
        """A call with ``inputs``."""
        tensors = {n: self.torch.from_numpy(x) for n, x in inputs.items()}
        return lambda: self._call(way, tensors)


class OnnxRuntime(Ort):
    """ONNX Runtime; the source is a file."""

    def prepare(self, way: str, source: str, calibration: list[Arrays]) -> str:  # type: ignore[override]
        """Make a session."""
        super().prepare(way, Path(source), calibration, Path(source))
        return f"{', '.join(self.sessions[way].get_providers())}, fp32"


class Vino(OpenVino):
    """OpenVINO; the source is a file, or for a chain JSON of files and what passes between them."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.chains: dict[str, list[Any]] = {}

    def prepare(self, way: str, source: str, calibration: list[Arrays]) -> str:  # type: ignore[override]
        """Compile the network."""
        if way == "openvino, mmedge int8":
            return self._chain(way, json.loads(source), calibration[0])
        target = Path(way.replace(" ", "-") + ".onnx")
        super().prepare(way, Path(source), calibration, target)
        return self._ran(self.compiled[way])

    def _chain(self, way: str, files: list[str], inputs: Arrays) -> str:
        """Compile each file for the shapes that the files before it yield."""
        values: dict[str, Any] = dict(inputs)
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        chain = []
        for file in files:
            model = self.core.read_model(file)
            names = [port.any_name for port in model.inputs]
            model.reshape({name: list(values[name].shape) for name in names})
            compiled = self.core.compile_model(model, "CPU", settings)
            chain.append((compiled, names, [port.any_name for port in compiled.outputs]))
            found = compiled({name: values[name] for name in names})
            values |= {port.any_name: found[port] for port in compiled.outputs}
        self.chains[way] = chain
        return "; ".join(self._ran(compiled) for compiled, _, _ in chain)

    def _ran(self, compiled: Any) -> str:  # noqa: ANN401
        """Device, precision, and which kernels the costly layers run in."""
        kinds: dict[str, int] = {}
        for node in compiled.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            layer = str(info["layerType"].astype(str)) if "layerType" in info else ""
            if layer in ("Convolution", "FullyConnected", "MatMul", "ScaledDotProductAttention"):
                kernel = f"{layer} {info['primitiveType'].astype(str)}"
                kinds[kernel] = kinds.get(kernel, 0) + 1
        hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        kernels = ", ".join(f"{count} {kernel}" for kernel, count in kinds.items())
        return f"CPU, {hint}: {kernels or 'kernels unknown'}"

    def run(self, way: str, inputs: Arrays) -> Arrays:
        """Outputs by name."""
        if way not in self.chains:
            return super().run(way, inputs)
        values: dict[str, Any] = dict(inputs)
        for compiled, names, _ in self.chains[way]:
            found = compiled({name: values[name] for name in names})
            values |= {port.any_name: found[port] for port in compiled.outputs}
        # Features pass from stage to stage; the network's outputs are among them.
        return values

    def bound(self, way: str, inputs: Arrays) -> Callable[[], object]:
        """A call with ``inputs``."""
        if way not in self.chains:
            return super().bound(way, inputs)
        requests = []
        tensors = {name: self.ov.Tensor(value) for name, value in inputs.items()}
        for compiled, names, outputs in self.chains[way]:
            request = compiled.create_infer_request()
            for name in names:
                request.set_tensor(name, tensors[name])
            # A request has memory of its own for its outputs: the next one reads there.
            tensors |= {name: request.get_tensor(name) for name in outputs}
            requests.append(request)

        def call() -> None:
            for request in requests:
                request.infer()

        return call


class Optimum:
    """Optimum; the source is JSON: folder, task, names of inputs, name of the output."""

    def __init__(self, threads: int) -> None:
        import onnxruntime as ort

        self.options = ort.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.version = {n: importlib.metadata.version(n) for n in ("optimum-onnx", "transformers")}

    def prepare(self, way: str, source: str, calibration: list[Arrays]) -> str:  # noqa: ARG002
        """Export the model of the folder, and load what that made."""
        given = json.loads(source)
        self.task, self.names, self.output = given["task"], given["inputs"], given["output"]
        classes = importlib.import_module("optimum.onnxruntime")
        kind = {
            "feature-extraction": "ORTModelForFeatureExtraction",
            "image-classification": "ORTModelForImageClassification",
            "zero-shot-image-classification": "ORTModelForZeroShotImageClassification",
        }[self.task]
        self.model = getattr(classes, kind).from_pretrained(
            given["folder"],
            export=True,
            provider="CPUExecutionProvider",
            session_options=self.options,
        )
        return f"{kind}, CPUExecutionProvider, fp32"

    def run(self, way: str, inputs: Arrays) -> Arrays:  # noqa: ARG002
        """Outputs by name."""
        given = {self.names[name]: value for name, value in inputs.items()}
        if "input_ids" in given:
            given.setdefault("attention_mask", np.ones_like(given["input_ids"]))
        if self.task != "feature-extraction":
            made = self.model(**given)
            found = made.logits if "logits" in made else made.logits_per_image
            return {self.output: np.asarray(found)}
        given["token_type_ids"] = np.zeros_like(given["input_ids"])
        mask = given["attention_mask"][..., None].astype(np.float32)
        mean = (self.model(**given).last_hidden_state * mask).sum(1) / mask.sum(1)
        return {self.output: mean / np.linalg.norm(mean, axis=1, keepdims=True)}

    def bound(self, way: str, inputs: Arrays) -> Callable[[], object]:
        """A call with ``inputs``."""
        return lambda: self.run(way, inputs)


class MMEdge:
    """Bundles in mmedge's runtime; features are computed anew in each call."""

    def __init__(self, threads: int) -> None:
        import mmedge

        self.load, self.threads = mmedge.load, threads
        self.version = {"mmedge": importlib.metadata.version("mmedge")}
        self.pipes: dict[str, Any] = {}

    def prepare(self, way: str, source: str, calibration: list[Arrays]) -> str:
        """Load the variant that ``way`` names."""
        name, _, tuned = way.removeprefix("mmedge ").partition(", ")
        # Encoders in threads of their own would take more cores than the others have.
        pipe = self.load(
            source,
            name,
            threads=None if tuned else self.threads,
            concurrent=False if self.threads == 1 else None,
        )
        self.pipes[way] = pipe
        for _ in range(32):  # until it has learnt whether encoders run at once
            if pipe.schedule.concurrent is not None:
                break
            pipe.run(calibration[0], cached=False)
        stages = ", ".join(stage.name for stage in pipe.bundle.manifest.in_order())
        attention = "; ".join(f"attention in {k}: {v}" for k, v in pipe.attention.items())
        threads = "default" if pipe.threads is None else pipe.threads
        ran = f"backend {pipe.variant.backend}, CPU, {pipe.variant.precision}, {threads} threads"
        ran += f"; stages {stages}"
        if pipe.schedule.concurrent:
            ran += "; encoders at once"
        return f"{ran}; {attention}" if attention else ran

    def run(self, way: str, inputs: Arrays) -> Arrays:
        """Outputs by name."""
        found: Arrays = self.pipes[way].run(inputs, cached=False)
        return found

    def bound(self, way: str, inputs: Arrays) -> Callable[[], object]:
        """A call with ``inputs``."""
        return lambda: self.run(way, inputs)


def main() -> None:
    """Answer questions until there are none."""
    frameworks: dict[str, type[Any]] = {
        "torch": Torch,
        "onnxruntime": OnnxRuntime,
        "optimum": Optimum,
        "openvino": Vino,
        "mmedge": MMEdge,
    }
    answer_as(frameworks, serve)


def serve(made: Any, answers: TextIO) -> None:  # noqa: ANN401
    """Answer each line of standard input with one of ``answers``."""

    def say(**answer: Any) -> None:  # noqa: ANN401
        print(json.dumps(answer), file=answers, flush=True)

    say(version=made.version)
    calls: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if way := question.get("prepare"):
            calibration = load(Path(question["calibration"]))
            try:
                ran = made.prepare(way, question["source"], calibration)
                calls[way] = made.bound(way, calibration[0])
                say(ran=ran, first_ms=timed(calls[way]) / 1e6)
            except Exception as error:  # noqa: BLE001 - that a peer fails is a result
                say(error=f"{type(error).__name__}: {error}")
        elif way := question.get("answer"):
            found = [made.run(way, inputs) for inputs in load(Path(question["inputs"]))]
            save(Path(question["outputs"]), found)
            say(ok=way)
        else:
            ms = float(question["ms"])
            us = time(calls[question["time"]], ms, untimed=UNTIMED, fewest=FEWEST_CALLS)
            say(us=us)


def timed(call: Callable[[], object]) -> int:
    """Nanoseconds of one call."""
    start = perf_counter_ns()
    call()
    return perf_counter_ns() - start


if __name__ == "__main__":
    main()
