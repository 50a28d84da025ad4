"""Other ways to quantise a network to int8, each framework in a process of its own.

Thread pools of several frameworks in one process disturb each other, so :class:`Peer` starts this
file once for each framework and asks it over pipes, one JSON line a question. A peer (but for
mmedge itself, which takes a bundle's path) needs nothing of mmedge: it takes a float32 ONNX file of
standard operators (:func:`inline` makes it from a graph of a bundle that was exported with
``split=False``)::

    inline(bundle.file("onnx/model.onnx"), folder / "model.onnx")
    with Peer("onnxruntime", 1, folder) as peer:
        for kind in KINDS["onnxruntime"]:
            failed = peer.prepare(kind, folder / "model.onnx", task.calibration)
            outputs = peer.answer(kind, inputs)      # for the metric: one mapping for each input
            called = peer.time(kind, 25.0, "called")  # microseconds in a block of calls;
            bound = peer.time(kind, 25.0, "bound")    # interleave blocks of kinds

``time`` calls with the first input of the calibration: ``called`` as a program does that has new
inputs each time and keeps the outputs, by each framework's documented call (``session.run``,
``compiled_model(inputs)``, ``pipeline.run``); ``bound`` with inputs and outputs bound beforehand,
so that nothing is checked or copied, which mmedge's runtime does not offer. Inputs and outputs have
one shape each throughout, so that they travel stacked in ``.npz`` files.

Kinds of ``onnxruntime``: ``ort fp32``; ``ort static`` is ``quantize_static`` with its defaults
(Q/DQ, all int8, range from smallest to largest) and ``ort dynamic`` ``quantize_dynamic`` with its
defaults, each after ``quant_pre_process`` as its documentation asks for, and each also with
``per_channel=True``.
Kinds of ``openvino``: ``openvino fp32``; ``openvino default`` computes in what OpenVINO prefers,
which is bfloat16 where the processor has it; ``nncf`` is ``nncf.quantize`` of the OpenVINO model
with its defaults, and ``nncf transformer`` with the model type that NNCF has for transformers, both
with float32 for what stays float. OpenVINO gets its shapes fixed.
:data:`ALONE`, of either, is the graph of mmedge's variant without mmedge's runtime around it.
:data:`TUNED` is mmedge with as many threads as ``mmedge tune`` found, of all cores; all other ways
have the number that is given.

``prepare`` takes a quantised model that an earlier process left in the same folder.

NNCF brings torch along, of which a plain install is gigabytes: ``pip install openvino nncf`` into
an environment that has a torch for the CPU, whose interpreter may be given as ``python``.
By hand: ``python benchmarks/quantize_peers.py FRAMEWORK THREADS``, then lines of JSON.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from functools import partial
from pathlib import Path
from time import perf_counter_ns, sleep
from typing import TYPE_CHECKING, Any, Literal, TextIO

import numpy as np
from peer_process import PeerProcess, answer_as

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]

__all__ = ["ALONE", "CALLS", "KINDS", "TUNED", "Peer", "inline"]

CALLS: tuple[Literal["called", "bound"], ...] = ("called", "bound")
"""How a way is called while it is timed."""

ALONE = "mmedge int8, graph alone"
TUNED = "mmedge int8, threads as tuned"

KINDS: dict[str, tuple[str, ...]] = {
    "onnxruntime": (
        "ort fp32",
        "ort static",
        "ort static, per channel",
        "ort dynamic",
        "ort dynamic, per channel",
    ),
    "mmedge": ("mmedge fp32", "mmedge int8", TUNED),
    "openvino": ("openvino fp32", "openvino default", "nncf", "nncf transformer"),
}
"""What each framework can make of a float32 ONNX file, and mmedge of a bundle."""

#: Seconds to wait before a block, for the threads of whoever ran last to stop spinning.
PAUSE_S = 0.02
UNTIMED, FEWEST_CALLS = 3, 5


def inline(source: Path, target: Path) -> None:
    """Write the ONNX file ``source`` to ``target`` with its functions replaced by their bodies.

    Weights beside ``source`` end up inside ``target``.
    """
    import onnx
    from onnx import inliner

    onnx.save(inliner.inline_local_functions(onnx.load(source)), target)


class Peer(PeerProcess):
    """The process of one framework.

    Args:
        framework: one of :data:`KINDS`.
        threads: of each call.
        folder: for files; one for each peer.
        python: interpreter that has the framework.

    Raises:
        RuntimeError: the process ended; its own errors are on standard error.
    """

    def __init__(
        self, framework: str, threads: int, folder: Path, python: str = sys.executable
    ) -> None:
        self.folder = folder
        # Quantisers leave files where they run.
        super().__init__([python, str(Path(__file__).resolve()), framework, str(threads)], folder)

    def prepare(self, kind: str, path: Path, calibration: Sequence[Arrays]) -> str | None:
        """Make ``kind`` of the ONNX file at ``path``; why that failed, or None."""
        given = self.folder / "calibration.npz"
        save(given, calibration)
        target = self.folder / (kind.replace(", ", "-").replace(" ", "-") + ".onnx")
        found = self.ask(
            prepare=kind, path=str(path), calibration=str(given), target=str(target)
        ).get("error")
        return None if found is None else str(found)

    def answer(self, kind: str, inputs: Sequence[Arrays]) -> list[Arrays]:
        """Outputs by name for each of ``inputs``."""
        given, made = self.folder / "inputs.npz", self.folder / "outputs.npz"
        save(given, inputs)
        self.ask(answer=kind, inputs=str(given), outputs=str(made))
        return load(made)

    def time(self, kind: str, ms: float, how: Literal["called", "bound"]) -> float | None:
        """Median microseconds of the calls of a block that takes about ``ms`` milliseconds.

        None where the framework has no such way to call it.
        """
        us = self.ask(time=kind, ms=ms, how=how)["us"]
        return None if us is None else float(us)


def save(path: Path, samples: Sequence[Arrays]) -> None:
    """Write samples whose arrays have one shape each, stacked."""
    stacked: Arrays = {name: np.stack([one[name] for one in samples]) for name in samples[0]}
    np.savez(path, allow_pickle=False, **stacked)


def load(path: Path) -> list[Arrays]:
    """Read what :func:`save` wrote."""
    with np.load(path) as stored:
        stacked = {name: stored[name] for name in stored.files}
    count = len(next(iter(stacked.values())))
    return [{name: value[n] for name, value in stacked.items()} for n in range(count)]


class Ort:
    """ONNX Runtime on the CPU."""

    def __init__(self, threads: int) -> None:
        import onnxruntime as ort

        self.ort, self.threads = ort, threads
        self.version = {"onnxruntime": ort.__version__}
        self.sessions: dict[str, Any] = {}
        self.names: dict[str, list[str]] = {}

    def prepare(self, kind: str, path: Path, calibration: list[Arrays], target: Path) -> None:
        """Make a session of ``kind``."""
        from onnxruntime import quantization

        channel, ready = kind.endswith("per channel"), target.with_suffix(".ready.onnx")
        if kind in ("ort fp32", ALONE):
            target = path
        elif not target.exists():
            self._pre_process(path, ready)
            if kind.startswith("ort static"):
                reader = _reader(quantization.CalibrationDataReader, calibration)
                quantization.quantize_static(ready, target, reader, per_channel=channel)
            else:
                quantization.quantize_dynamic(ready, target, per_channel=channel)
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        self.sessions[kind] = self.ort.InferenceSession(
            str(target), options, providers=["CPUExecutionProvider"]
        )
        self.names[kind] = [value.name for value in self.sessions[kind].get_outputs()]

    def _pre_process(self, path: Path, target: Path) -> None:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        try:
            quant_pre_process(path, target)
        except Exception as error:  # noqa: BLE001 - it raises what comes up
            # Symbolic shapes are the part that fails, and not needed where shapes are plain.
            print(f"without symbolic shapes: {error}", file=sys.stderr)
            quant_pre_process(path, target, skip_symbolic_shape=True)

    def run(self, kind: str, inputs: Arrays) -> Arrays:
        """Outputs by name."""
        names = self.names[kind]
        return dict(zip(names, self.sessions[kind].run(names, inputs), strict=True))

    def called(self, kind: str, inputs: Arrays) -> Callable[[], object]:
        """A call with ``inputs`` as if they were new."""
        return partial(self.sessions[kind].run, self.names[kind], inputs)

    def bound(self, kind: str, inputs: Arrays) -> Callable[[], object]:
        """A call with ``inputs`` bound beforehand."""
        session = self.sessions[kind]
        binding = session.io_binding()
        given = {n: self.ort.OrtValue.ortvalue_from_numpy(x) for n, x in inputs.items()}
        for name, value in given.items():
            binding.bind_ortvalue_input(name, value)
        for value in session.get_outputs():
            binding.bind_output(value.name)

        def call() -> None:
            # The binding has addresses alone: what they point to lives as long as this function.
            assert given  # noqa: S101
            session.run_with_iobinding(binding)

        return call


def _reader(base: type[Any], calibration: list[Arrays]) -> object:
    """What ONNX Runtime reads calibration data from."""

    class Reader(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(calibration)

        def get_next(self) -> Mapping[str, NDArray[Any]] | None:
            return next(self.left, None)

    return Reader()


class MMEdge:
    """A bundle in mmedge's runtime; features are computed anew in each call."""

    def __init__(self, threads: int) -> None:
        import mmedge

        self.load, self.threads = mmedge.load, threads
        self.version = {"mmedge": importlib.metadata.version("mmedge")}
        self.pipes: dict[str, Any] = {}

    def prepare(self, kind: str, path: Path, calibration: list[Arrays], target: Path) -> None:  # noqa: ARG002
        """Load the variant of the bundle at ``path``."""
        threads = None if kind == TUNED else self.threads
        precision = kind.split()[1].rstrip(",")
        self.pipes[kind] = self.load(path, precision=precision, threads=threads)

    def run(self, kind: str, inputs: Arrays) -> Arrays:
        """Outputs by name."""
        found: Arrays = self.pipes[kind].run(inputs, cached=False)
        return found

    def called(self, kind: str, inputs: Arrays) -> Callable[[], object]:
        """A call with ``inputs`` as if they were new."""
        return partial(self.pipes[kind].run, inputs, cached=False)

    def bound(self, kind: str, inputs: Arrays) -> None:
        """There is no such call."""


class OpenVino:
    """OpenVINO on the CPU, for latency, with NNCF."""

    def __init__(self, threads: int) -> None:
        import openvino

        self.ov, self.core, self.threads = openvino, openvino.Core(), threads
        self.version = {"openvino": openvino.__version__.split("-")[0]}
        if importlib.util.find_spec("nncf") is not None:
            self.version["nncf"] = importlib.metadata.version("nncf")
        self.compiled: dict[str, Any] = {}

    def prepare(self, kind: str, path: Path, calibration: list[Arrays], target: Path) -> None:
        """Compile ``kind``; an ``.xml`` file beside ``target`` holds what NNCF made."""
        kept = target.with_suffix(".xml")
        made = kind.startswith("nncf") and kept.exists()
        model = self.core.read_model(kept if made else path)
        if not made:
            model.reshape({name: list(value.shape) for name, value in calibration[0].items()})
        if kind.startswith("nncf") and not made:
            # Imported by name: it has its types only where it is installed.
            nncf = importlib.import_module("nncf")
            transformer = kind == "nncf transformer"
            model = nncf.quantize(
                model,
                nncf.Dataset(calibration),
                model_type=nncf.ModelType.TRANSFORMER if transformer else None,
                subset_size=len(calibration),
            )
            self.ov.save_model(model, kept, compress_to_fp16=False)
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
        }
        if kind != "openvino default":
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        self.compiled[kind] = self.core.compile_model(model, "CPU", settings)

    def run(self, kind: str, inputs: Arrays) -> Arrays:
        """Outputs by name."""
        compiled = self.compiled[kind]
        found = compiled(inputs)
        return {port.any_name: found[port] for port in compiled.outputs}

    def called(self, kind: str, inputs: Arrays) -> Callable[[], object]:
        """A call with ``inputs`` as if they were new."""
        return partial(self.compiled[kind], inputs)

    def bound(self, kind: str, inputs: Arrays) -> Callable[[], object]:
        """A call with ``inputs`` bound beforehand."""
        request = self.compiled[kind].create_infer_request()
        for name, value in inputs.items():
            request.set_tensor(name, self.ov.Tensor(value))
        call: Callable[[], object] = request.infer
        return call


FRAMEWORKS: dict[str, type[Any]] = {"mmedge": MMEdge, "onnxruntime": Ort, "openvino": OpenVino}


def main() -> None:
    """Answer questions until there are none."""
    answer_as(FRAMEWORKS, serve)


def serve(made: Any, answers: TextIO) -> None:  # noqa: ANN401
    """Answer each line of standard input with one of ``answers``."""

    def say(**answer: Any) -> None:  # noqa: ANN401
        print(json.dumps(answer), file=answers, flush=True)

    say(version=made.version)
    calls: dict[tuple[str, str], Callable[[], object] | None] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if kind := question.get("prepare"):
            calibration = load(Path(question["calibration"]))
            try:
                made.prepare(kind, Path(question["path"]), calibration, Path(question["target"]))
                for how in CALLS:
                    call = calls[kind, how] = getattr(made, how)(kind, calibration[0])
                    if call is not None:
                        call()
            except Exception as error:  # noqa: BLE001 - that a peer fails is a result
                say(error=f"{type(error).__name__}: {error}")
            else:
                say(ok=kind)
        elif kind := question.get("answer"):
            found = [made.run(kind, inputs) for inputs in load(Path(question["inputs"]))]
            save(Path(question["outputs"]), found)
            say(ok=kind)
        else:
            call = calls[question["time"], question["how"]]
            say(us=None if call is None else time(call, question["ms"]))


def time(
    call: Callable[[], object], ms: float, *, untimed: int = UNTIMED, fewest: int = FEWEST_CALLS
) -> float:
    """Median microseconds of the calls that fit into ``ms`` milliseconds, ``fewest`` at least."""
    sleep(PAUSE_S)
    for _ in range(untimed):
        call()
    found: list[int] = []
    while len(found) < fewest or sum(found) < ms * 1e6:
        start = perf_counter_ns()
        call()
        found.append(perf_counter_ns() - start)
    return float(np.median(found)) / 1e3


if __name__ == "__main__":
    main()
