"""What the engines of ``generate.py`` are given of a network: its bundle, inputs, torch's tokens.

Bundles get variants in 8 and 4 bits, as far as the network's own task lets them
(``networks/<network>.py``): the rest of what an engine needs is made by its own library.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmedge import Bundle
from mmedge.errors import AccuracyError
from mmedge_export import Generate, Model, export
from mmedge_export.quantize import QuantizeOptions, quantize

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

__all__ = ["TOKENS", "job_of", "tell"]

HERE = Path(__file__).parent
#: Tokens of a run; the speech is over after so many.
TOKENS = {"smollm2": 64, "whisper_tiny": 24, "g2p": 8, "label_translate": 16, "hear": 32}
#: Of the export, where float32 itself is further off than the default (their docstrings).
RTOL = {"smollm2": 1e-3, "whisper_tiny": 1e-3}
#: Most that the metric of a network's task may drop by in fewer bits: what its samples can show.
MAX_DROP = {
    "smollm2": 0.1, "whisper_tiny": 0.2, "g2p": 0.03, "label_translate": 0.01, "hear": 0.01
}  # fmt: skip


def job_of(
    network: str, folder: Path, peers: str, bundles: Path | None, precisions: Sequence[str]
) -> dict[str, Any]:
    """What the engines are given of a network: files in ``folder``, and the tokens of torch.

    Args:
        network: module in ``networks/``.
        folder: for what is made here.
        peers: Python that has the peers.
        bundles: folder that may hold the network's bundle; else it is exported.
        precisions: that the bundle gets where it has not been given them.
    """
    sys.path.insert(0, str(HERE / "networks"))
    import generation

    module = __import__(network)
    model: Model = module.load()
    bundle = (bundles or folder) / f"{network}.mmedge"
    if not bundle.exists():
        export(model, bundle, rtol=RTOL.get(network), source=f"{network}.py:load").close()
    kept_out = {
        precision: why
        for precision in precisions
        if (why := add_precision(bundle, precision, module, network))
    }
    with Bundle.open(bundle) as opened:
        precisions_made = {variant.precision for variant in opened.manifest.variants}
    for precision in {"int8", "int4"} - precisions_made:
        kept_out.setdefault(precision, "this run was not asked to make it (--precisions)")
    inputs, _ = next(iter(model.samples or ()))
    arrays: dict[str, Any] = dict(inputs)
    np.savez(folder / "inputs.npz", **arrays)
    torch.set_num_threads(2)
    feeds = {name: torch.from_numpy(np.asarray(value)) for name, value in inputs.items()}
    loop, parameters = model.loop, []
    if isinstance(loop, Generate) and isinstance(loop.step, torch.nn.Module):
        parameters = list(loop.step.parameters())
    job: dict[str, Any] = {
        "network": network,
        "bundle": str(bundle),
        "kept_out": kept_out,
        "inputs": str(folder / "inputs.npz"),
        "start": list(loop.start) if isinstance(loop, Generate) else [],
        "tokens": generation.generate(model, feeds, limit=TOKENS[network]),
        "step_bytes": sum(value.nbytes for value in parameters),
    }
    if network == "smollm2":
        model_folder = folder / "transformers"
        job["transformers"] = str(model_folder)
        job["gguf"] = str(module.WEIGHTS.fetch(None))
        tell("writing what transformers takes")
        write = [str(HERE / "networks" / "checkpoints.py"), "smollm2", str(model_folder)]
        subprocess.run([peers, *write], check=True)
        for key, precision in (("genai", "fp32"), ("genai_int4", "int4")):
            output = job[key] = str(folder / key)
            tell(f"building for onnxruntime-genai, {precision}")
            done = subprocess.run(
                [
                    peers, "-m", "onnxruntime_genai.models.builder", "-i", str(model_folder),
                    "-o", output, "-p", precision, "-e", "cpu", "-c", str(folder / "cache"),
                ],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                tell(f"  failed: {done.stderr.strip().splitlines()[-1:]}")
    if network == "whisper_tiny":
        job["ctranslate2"] = str(module.WEIGHTS.fetch(None).parent)
        with torch.no_grad():
            encoder: Any = model.module
            mel = encoder.log_mel(feeds["audio"])
        np.savez(folder / "mel.npz", mel=mel.numpy())
        job["mel"] = str(folder / "mel.npz")
        job["seconds"] = feeds["audio"].shape[-1] / module.RATE
    (folder / "job.json").write_text(json.dumps(job))
    return job


def add_precision(bundle: Path, precision: str, module: ModuleType, network: str) -> str | None:
    """Add the variant that the network's task lets pass; why there is none."""
    with Bundle.open(bundle) as opened:
        if any(variant.precision == precision for variant in opened.manifest.variants):
            return None
    tell(f"quantising to {precision}")
    options = QuantizeOptions(precision=precision, max_drop=MAX_DROP[network])
    try:
        opened, report = quantize(bundle, module.task(), options, progress=tell)
    except AccuracyError as error:
        return str(error).splitlines()[0]
    opened.close()
    return (
        None
        if report.variant
        else "the gate kept nothing: "
        + "; ".join(f"{stage.name}: {stage.speed}" for stage in report.stages)
    )


def tell(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)
