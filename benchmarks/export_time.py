"""How long ``mmedge export hf:DIR`` takes beside ``torch.onnx.export`` of the same parts.

Checkpoints of transformers with random weights, at sizes that people deploy, are exported in turns
in one process. The parts are the modules that mmedge traces, with the same dynamic dimensions, each
written to a file. mmedge also reads the checkpoint, cuts the network, holds the graphs against it
and writes a bundle; its ratio says what that costs. Wall time is what a user waits, on a machine
that does nothing else; processor time counts both libraries' threads. Where ``torch.onnx.export``
of a module fails, it is given a program that was captured as mmedge captures, attention in standard
operators; each row says of how many parts. Run: ``python benchmarks/export_time.py``.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
import warnings
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import geometric_mean, median
from typing import TYPE_CHECKING, Any

import torch
from torch.onnx._internal.exporter._flags import set_onnx_exporting_flag

sys.path.insert(0, str(Path(__file__).parent / "networks"))
from torchvision_import import declare_torchvision

declare_torchvision()  # transformers imports it

import transformers as hf  # noqa: E402

import mmedge  # noqa: E402
from mmedge.bench.machine import host  # noqa: E402
from mmedge_export import export  # noqa: E402
from mmedge_export.capture import probe_inputs  # noqa: E402
from mmedge_export.capture import trace as tracing  # noqa: E402
from mmedge_export.capture.adapter import Adapter  # noqa: E402
from mmedge_export.capture.network import TorchNetwork  # noqa: E402
from mmedge_export.capture.operator_registry import forget_registry  # noqa: E402
from mmedge_export.capture.standard_operators import in_standard_operators  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmedge_export.model import Model

RESULTS = Path(__file__).parent / "results" / "export_time.json"

IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def minilm() -> Any:  # noqa: ANN401
    """The sizes of all-MiniLM-L6-v2 with a head of two classes."""
    return hf.BertForSequenceClassification(
        hf.BertConfig(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
        )
    )


def clip() -> Any:  # noqa: ANN401
    """The sizes of clip-vit-base-patch32."""
    return hf.CLIPModel(hf.CLIPConfig())


def whisper() -> Any:  # noqa: ANN401
    """The sizes of whisper-tiny.en."""
    return hf.WhisperForConditionalGeneration(
        hf.WhisperConfig(
            d_model=384, encoder_layers=4, decoder_layers=4, encoder_attention_heads=6,
            decoder_attention_heads=6, encoder_ffn_dim=1536, decoder_ffn_dim=1536, **IDS,
            decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
        )
    )  # fmt: skip


def t5() -> Any:  # noqa: ANN401
    """The sizes of t5-small."""
    return hf.T5ForConditionalGeneration(
        hf.T5Config(decoder_start_token_id=0, eos_token_id=1, pad_token_id=0)
    )


NETWORKS: dict[str, Callable[[], Any]] = {
    "MiniLM": minilm, "CLIP ViT-B/32": clip, "Whisper tiny": whisper, "T5 small": t5,
}  # fmt: skip


def export_ours(checkpoint: Path, target: Path) -> list[Model]:
    """Export by mmedge; the modules that were traced, as models."""
    traced: list[Model] = []
    trace = tracing.trace

    forget_registry()  # each export pays for it, as in a process of its own

    def record(model: Model, **options: Any) -> Any:  # noqa: ANN401
        traced.append(model)
        return trace(model, **options)

    tracing.trace = record  # what is traced is told nowhere else
    try:
        export(f"hf:{checkpoint}", target, overwrite=True).close()
    finally:
        tracing.trace = trace
    return traced


def export_plain(models: list[Model], folder: Path, programs: set[int]) -> None:
    """Export the same modules by ``torch.onnx.export`` alone.

    Args:
        models: the modules.
        folder: for files.
        programs: numbers of those that are captured first. One that fails otherwise is added.
    """
    for number, model in enumerate(models):
        network = TorchNetwork(model)
        dimensions = model.dimensions()
        sizes = {symbol: 2 for symbol, limits in dimensions.items() if limits.opt == 1}
        values = network.tensors(probe_inputs.resize(model, probe_inputs.example(model), sizes))
        dims = {
            symbol: torch.export.Dim(symbol, min=limits.min, max=limits.max)
            for symbol, limits in dimensions.items()
        }
        axes = tuple(
            {axis: dims[symbol] for axis, symbol in value.dynamic.items()}
            for value in model.inputs.values()
        )
        module = Adapter(network.module, list(model.inputs), model.outputs)
        shapes = {"values": axes}

        def write(what: Any, arguments: tuple[Any, ...]) -> None:  # noqa: ANN401
            torch.onnx.export(
                what,
                arguments,
                str(folder / f"{number}.onnx"),  # noqa: B023 - called in this round
                dynamic_shapes=shapes,  # noqa: B023
                dynamo=True,
                verbose=False,
            )

        if number not in programs:
            try:
                write(module, tuple(values.values()))
                continue
            except RuntimeError as error:  # torch's errors of exporting are such
                print(f"part {number}: torch.onnx.export fails: {type(error).__name__}")
                programs.add(number)
        write(capture(module, tuple(values.values()), shapes), ())


def capture(module: torch.nn.Module, values: tuple[Any, ...], shapes: dict[str, Any]) -> Any:  # noqa: ANN401
    """A module as a program, as mmedge captures it and without what mmedge checks of it."""

    def export_program() -> Any:  # noqa: ANN401
        with torch.no_grad():
            return torch.export.export(
                module,
                values,
                dynamic_shapes=shapes,
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )

    program, _ = in_standard_operators(
        module, set_onnx_exporting_flag(export_program)(), tracing.OPSET
    )
    return program


def timed(run: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """(wall, processor) seconds of a call, and what it gave."""
    gc.collect()  # what the other left
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return (time.perf_counter() - wall, time.process_time() - cpu), result


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    if options.output.exists():  # of networks that are not run now
        rows = json.loads(options.output.read_text("utf-8"))["rows"]
        rows = [row for row in rows if row["network"] not in options.networks]
    for name in options.networks:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            torch.manual_seed(0)
            NETWORKS[name]().eval().save_pretrained(folder / "checkpoint")
            ours, plain, programs = [], [], set[int]()
            # The first round of both reads code and tables that later ones find in memory.
            for _ in range(options.rounds + 1):
                times, models = timed(
                    partial(export_ours, folder / "checkpoint", folder / "x.mmedge")
                )
                ours.append(times)
                times, _ = timed(partial(export_plain, models, folder, programs))
                plain.append(times)
        ratios, cpu_ratios = (
            [a[clock] / b[clock] for a, b in zip(ours[1:], plain[1:], strict=True)]
            for clock in (0, 1)
        )
        rows.append(
            {
                "network": name,
                "rounds": options.rounds,
                "parts": len(models),
                "parts_captured_first": sorted(programs),
                "mmedge_s": [wall for wall, _ in ours],
                "mmedge_cpu_s": [cpu for _, cpu in ours],
                "torch_s": [wall for wall, _ in plain],
                "torch_cpu_s": [cpu for _, cpu in plain],
                "ratio": median(ratios),
                "ratios": ratios,
                "cpu_ratio": median(cpu_ratios),
                "cpu_ratios": cpu_ratios,
            }
        )
        print(
            f"{name}: wall {', '.join(f'{ratio:.2f}' for ratio in ratios)}; "
            f"processor {', '.join(f'{ratio:.2f}' for ratio in cpu_ratios)}"
        )
    result = {
        "what": "wall time of mmedge export over torch.onnx.export of the same parts, and cpu_: "
        "processor time",
        "date": datetime.now(UTC).date().isoformat(),
        "device": host.state(),
        "libraries": {
            "mmedge": mmedge.__version__,
            "torch": torch.__version__,
            "transformers": hf.__version__,
        },
        "rows": rows,
        "threads_of_torch": torch.get_num_threads(),
        "geometric_mean": geometric_mean(row["ratio"] for row in rows),
        "cpu_geometric_mean": geometric_mean(row["cpu_ratio"] for row in rows),
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(
        f"geometric mean: wall {result['geometric_mean']:.2f}, "
        f"processor {result['cpu_geometric_mean']:.2f}"
    )


if __name__ == "__main__":
    main()
