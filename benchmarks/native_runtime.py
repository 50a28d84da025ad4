"""libmmedge beside the Python runtime: same bundle, same ONNX Runtime library, one thread.

A C++ program (``native_runtime.cpp``), compiled here from the installed SDK, and a Python one make
the same calls, each in a process of its own:

- ``call``: the reference network cut into four stages. ``around`` is the time of a call outside of
  ONNX Runtime's run of each stage, as either runtime calls it: C API or Python binding.
  Blocks of calls in turn, A B B A, after a pause and untimed calls (``overhead.py``).
- ``choice``: greedy steps of a loop over a large vocabulary, whose network does next to nothing;
  ``around`` as above is the choice of the token and what goes with it.
- ``fresh_process``: from the start of a process to the first result, and peak memory (VmHWM), in
  turn, of a folder and of a ``.mmedge`` file. The C++ program warms up first, as its API demands.
- ``library``: bytes of libmmedge, stripped.

Every ratio is libmmedge's share of what Python takes. Run on a quiet machine:
``python benchmarks/native_runtime.py``. The results have the load of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from overhead import BLOCK, PAUSE_S, UNTIMED, compare

import mmedge
from mmedge import sdk
from mmedge.bench.machine import host
from mmedge.closable import Closable
from mmedge.loop_spec import GenerateLoop, StateSpec
from mmedge.native.runtime import installed_onnxruntime
from mmedge.native.structures import DTYPES
from mmedge.spec import Dimension, Manifest, Modality, Stage, TensorSpec, Tolerance, Variant
from mmedge_export import export

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array

RESULTS = Path(__file__).parent / "results" / "native_runtime.json"
SOURCE = Path(__file__).with_suffix(".cpp")

#: Has allocation_counter.h.
COUNTERS = Path(__file__).parents[1] / "tests" / "native" / "runtime"

#: Words of the vocabulary of the loop, and steps of a block.
WORDS, STEPS = 151_936, 32

#: Pairs of processes whose blocks are put together: one differs from the next by where its memory
#: lies.
PAIRS = 4

#: Makes the calls that the C++ program makes, and says the same.
PYTHON = """
import sys, time
import numpy as np
from mmedge import load
path, _, mode, *words = sys.argv[1:]
pipe = load(
    path, backend="ort", precision="fp32", device="cpu", threads=1, cache_bytes=0, concurrent=False,
    plan="cut" if mode == "calls" else None,
)
inputs = {}
for word in words:
    name, dtype, sizes, file = word.split(":", 3)
    shape = [int(size) for size in sizes.split("x")]
    inputs[name] = np.fromfile(file, %(dtypes)r[int(dtype)]).reshape(shape)
pipe.run(inputs)
end = time.monotonic_ns()
lines = open("/proc/self/status").read().splitlines()
print(end, next(line.split()[1] for line in lines if line.startswith("VmHWM")), flush=True)

import gc
from time import perf_counter_ns as now
from mmedge.backends.onnxruntime import stepper
share = 0

def timed(run):
    def call(*arguments):
        global share
        start = now()
        values = run(*arguments)
        share += now() - start
        return values
    return call

def binding(session, real=stepper.value_binding):
    run, inner = real(session)
    return timed(run), inner

stepper.value_binding = binding
for session in pipe._loaded.sessions.values():
    session._call = timed(session._call)
gc.collect()
gc.disable()
for line in sys.stdin:
    count = int(line)
    rows = []
    if mode == "steps":
        steps = pipe.iterate(inputs, cached=False, temperature=0.0, stop=(), limit=count)
        call = steps.advance
    else:
        call = lambda: pipe.run(inputs)
    for _ in range(count):
        share = 0
        start = now()
        call()
        rows.append((now() - start, share))
    print(*(number for row in rows for number in row), flush=True)
"""

Times = NDArray[np.int64]


@dataclass(frozen=True)
class Programs:
    """What makes the calls: the command of each runtime, before its arguments."""

    commands: Mapping[str, list[str]]
    engine: str

    def command(self, runtime: str, bundle: Path, mode: str, inputs: list[str]) -> list[str]:
        """The whole command."""
        return [*self.commands[runtime], str(bundle), self.engine, mode, *inputs]


class Caller(Closable):
    """A process that has loaded a bundle and makes calls when it is told to."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("a process without pipes")
        self._input, self._output = self._process.stdin, self._process.stdout
        self._line()

    def calls(self, count: int) -> Times:
        """Nanoseconds of each call, and of ONNX Runtime in it: ``[count, 2]``."""
        self._input.write(f"{count}\n")
        self._input.flush()
        return np.array(self._line().split(), np.int64).reshape(count, 2)

    def _line(self) -> str:
        line = self._output.readline()
        if not line:
            raise RuntimeError(f"a process ended with {self._process.wait()}")
        return line

    def close(self) -> None:
        """End the process."""
        self._input.close()
        self._process.wait()


def environment() -> dict[str, str]:
    """Of the programs: as installed, with compiled modules, and without telemetry."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "ORT_DISABLE_TELEMETRY": "1"}


def compile_program(source: Path, folder: Path) -> Path:
    """A C++ program of one file, compiled from the installed SDK."""
    root = sdk.folder()
    (library,) = root.glob("lib/libmmedge.so.?")
    program = folder / source.stem
    subprocess.run(
        [
            os.environ.get("CXX", "c++"), "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror",
            f"-I{root / 'include'}", f"-I{COUNTERS}", str(source), "-o", str(program), str(library),
            "-ldl", "-static-libstdc++", f"-Wl,-rpath,{library.parent}",
        ],
        check=True,
    )  # fmt: skip
    return program


def engine_library() -> Path:
    """ONNX Runtime's library of the installed package."""
    (engine,) = Path(installed_onnxruntime() or ".").glob("libonnxruntime.so.*")
    return engine


def build(folder: Path) -> Programs:
    """Compile the C++ program."""
    program = compile_program(SOURCE, folder)
    python = PYTHON % {"dtypes": DTYPES}
    commands = {"native": [str(program)], "python": [sys.executable, "-c", python]}
    return Programs(commands, str(engine_library()))


def input_words(inputs: Mapping[str, Array], folder: Path) -> list[str]:
    """Inputs of a call as the programs take them."""
    words = []
    for name, array in inputs.items():
        file = folder / f"{name}.bin"
        file.write_bytes(np.ascontiguousarray(array).tobytes())
        sizes = "x".join(map(str, array.shape))
        words.append(f"{name}:{DTYPES.index(str(array.dtype))}:{sizes}:{file}")
    return words


def in_turn(
    callers: Mapping[str, Caller], rounds: int, block: int, untimed: int
) -> dict[str, Times]:
    """Nanoseconds of each call and of ONNX Runtime in it, ``[2 * rounds, block, 2]`` each."""
    rows: dict[str, list[Times]] = {name: [] for name in callers}
    for _ in range(rounds):
        for name in ("native", "python", "python", "native"):
            time.sleep(PAUSE_S)
            if untimed:
                callers[name].calls(untimed)
            rows[name].append(callers[name].calls(block))
    return {name: np.array(found) for name, found in rows.items()}


def measure_calls(
    programs: Programs, bundle: Path, mode: str, inputs: list[str], rounds: int
) -> dict[str, Any]:
    """Both runtimes' time around ONNX Runtime, and in all."""
    block, untimed = (BLOCK, UNTIMED) if mode == "calls" else (STEPS, 0)
    found: dict[str, list[Times]] = {"native": [], "python": []}
    for _ in range(PAIRS):
        commands = {name: programs.command(name, bundle, mode, inputs) for name in found}
        with Caller(commands["native"]) as native, Caller(commands["python"]) as python:
            callers = {"native": native, "python": python}
            for caller in callers.values():
                caller.calls(3 * block)
            for name, rows in in_turn(callers, rounds, block, untimed).items():
                found[name].append(rows)
    times = {name: np.concatenate(blocks) for name, blocks in found.items()}
    around = {name: each[..., 0] - each[..., 1] for name, each in times.items()}
    whole = {name: each[..., 0] for name, each in times.items()}
    return {
        "around": by_runtime(compare(around["native"], around["python"])),
        "call": by_runtime(compare(whole["native"], whole["python"])),
    }


def by_runtime(found: dict[str, Any]) -> dict[str, Any]:
    """What :func:`overhead.compare` says, with the names of the runtimes."""
    for key in ("median_us", "iqr_us"):
        found[key] = {"native": found[key]["mmedge"], "python": found[key]["bare"]}
    return found


def fresh_process(
    programs: Programs, bundle: Path, inputs: list[str], processes: int
) -> dict[str, Any]:
    """Milliseconds from the start of a process to the first result, and bytes of peak memory."""
    rows: dict[str, list[list[float]]] = {"native": [], "python": []}
    for number in range(processes + 1):
        order = list(rows) if number % 2 else list(reversed(rows))
        for name in order:
            command = programs.command(name, bundle, "calls", inputs)
            start = time.monotonic_ns()
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
                env=environment(),
            )  # fmt: skip
            end, peak = map(int, done.stdout.splitlines()[0].split())
            if number:  # the first of each compiles modules, and reads files from the disk
                rows[name].append([(end - start) / 1e6, 1024 * peak])
    medians = {name: np.median(values, axis=0) for name, values in rows.items()}
    ratios = np.divide(rows["native"], rows["python"])
    return {
        key: {
            "native": float(medians["native"][at]),
            "python": float(medians["python"][at]),
            "ratio": float(medians["native"][at] / medians["python"][at]),
            "range": [float(ratios[:, at].min()), float(ratios[:, at].max())],
        }
        for at, key in enumerate(("first_result_ms", "peak_bytes"))
    }


def library_size(folder: Path) -> int:
    """Bytes of libmmedge without symbols."""
    (library,) = (sdk.folder() / "lib").glob("libmmedge.so.?")
    copied = shutil.copy(library, folder / "stripped.so")
    subprocess.run(["strip", copied], check=True)
    return Path(copied).stat().st_size


def write_speaker(path: Path) -> dict[str, Array]:
    """A bundle whose loop chooses of many words at next to no cost; inputs of a call."""
    first_input = TensorSpec("x", "float32", ("batch", 1))
    first = TensorSpec("first", "float32", ("batch", 1))
    token = TensorSpec("token", "int64", ("batch",))
    held, new = (TensorSpec(name, "float32", ("batch", 1)) for name in ("held", "new"))
    logits = TensorSpec("logits", "float32", ("batch", WORDS))
    scores = np.random.default_rng(0).standard_normal(WORDS).astype(np.float32)
    hear = graph([helper.make_node("Identity", ["x"], ["first"])], (first_input,), (first,), [])
    step = graph(
        [
            helper.make_node("Cast", ["token"], ["number"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["number", "one"], ["column"]),
            helper.make_node("Add", ["held", "column"], ["new"]),
            helper.make_node("Mul", ["column", "small"], ["shift"]),
            helper.make_node("Add", ["scores", "shift"], ["logits"]),
        ],
        (token, held),
        (logits, new),
        [
            numpy_helper.from_array(np.array([1]), "one"),
            numpy_helper.from_array(np.array(1e-9, np.float32), "small"),
            numpy_helper.from_array(scores, "scores"),
        ],
    )
    files = {"hear": "onnx/hear.onnx", "step": "onnx/step.onnx"}
    manifest = Manifest(
        name="speaker",
        modalities=(Modality("x", ("x",)),),
        stages=(
            Stage("hear", files["hear"], (first_input,), (first,), "x"),
            Stage("step", files["step"], (token, held), (logits, new)),
        ),
        outputs=("first",),
        variants=(Variant("ort", "fp32", "cpu", files, Tolerance(1e-4, 1e-4)),),
        files={},
        dimensions={"batch": Dimension(1, 1, 4)},
        states=(StateSpec("step", "held", "new", initial="output", source="first"),),
        loops=(
            GenerateLoop(
                kind="generate", stage="step", token="token", logits="logits", limit=1024,
                start=(1,), stop=(0,),
            ),
        ),
    )  # fmt: skip
    mmedge.Bundle.write(path, manifest, {files["hear"]: hear, files["step"]: step}).close()
    return {"x": np.zeros((1, 1), np.float32)}


def graph(
    nodes: list[Any],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    weights: list[TensorProto],
) -> bytes:
    """An ONNX file of these."""
    taken, given = (
        [
            helper.make_tensor_value_info(
                spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.shape
            )
            for spec in specs
        ]
        for specs in (inputs, outputs)
    )
    made = helper.make_graph(nodes, "net", taken, given, weights)
    opsets = [helper.make_opsetid("", 20)]
    text: bytes = helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString()
    return text


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of A B B A for each pair")
    parser.add_argument("--processes", type=int, default=15, help="fresh processes of each kind")
    parser.add_argument("--bundle", type=Path, help="the cut reference network, if it is exported")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        programs = build(folder)
        forms = {"folder": folder / "vqa", "file": folder / "vqa.mmedge"}
        if arguments.bundle is None:
            export("zoo:vqa-attention", forms["folder"]).close()
        else:
            with mmedge.Bundle.open(arguments.bundle) as bundle:
                bundle.copy(forms["folder"])
        with mmedge.Bundle.open(forms["folder"]) as bundle:
            bundle.copy(forms["file"])
            inputs = input_words(bundle.samples()[0].inputs, folder)
            stages = [stage.name for stage in bundle.manifest.in_order("cut")]
        row: dict[str, Any] = {"network": "zoo:vqa-attention", "stages": stages}
        row |= measure_calls(programs, forms["file"], "calls", inputs, arguments.rounds)
        print(json.dumps(row))
        speaker = folder / "speaker.mmedge"
        words = input_words(write_speaker(speaker), folder)
        choice = measure_calls(programs, speaker, "steps", words, max(1, arguments.rounds // 4))
        print(json.dumps(choice))
        fresh = {
            form: fresh_process(programs, path, inputs, arguments.processes)
            for form, path in forms.items()
        }
        print(json.dumps(fresh))
        size = library_size(folder)
    result = {
        "what": "libmmedge beside the Python runtime: one bundle, one ONNX Runtime, one thread",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "device": host.state(),
        "call": row,
        "choice": {"vocabulary": WORDS, **choice},
        "fresh_process": fresh,
        "library": {"bytes": size},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
