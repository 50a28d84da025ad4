"""Real weights, exported with no code of a user's, held against who ran them before on new inputs.

Checkpoints that ``networks/checkpoints.py`` writes go through ``hf:`` and are held against
transformers: MiniLM's hidden states at two batch sizes and several lengths, Whisper's tokens on
recorded clips, SmolLM2's tokens after prompts. ONNX files of packages are held against the file in
ONNX Runtime: PP-OCRv6's probabilities of characters in lines of text, silero-vad's of speech, from
step to step. Run: ``python benchmarks/real_checkpoints.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import torch

sys.path.insert(0, str(Path(__file__).parent / "networks"))
from torchvision_import import declare_torchvision

declare_torchvision()  # transformers imports it

import pp_ocr  # noqa: E402
import silero  # noqa: E402
import transformers as hf  # noqa: E402
from checkpoints import CHECKPOINTS  # noqa: E402

import mmedge  # noqa: E402
from mmedge_export import export  # noqa: E402
from mmedge_export.sources.source import DimensionOption, SourceOptions  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from package_files import PackageFile

RESULTS = Path(__file__).parent / "results" / "real_checkpoints.json"

#: Differences of float32 from the network's that an export takes, where the default is too narrow.
RTOL = {"whisper_tiny": 1e-3, "smollm2": 1e-3}

#: What a user says to export only what is needed: largest runs of 135 million weights take long.
OPTIONS = {
    "smollm2": SourceOptions(
        limit=64,
        dims={"batch": DimensionOption(max=2), "new": DimensionOption(max=64)},
    ),
    "pp_ocr": SourceOptions(
        rename={"DynamicDimension.0": "batch", "DynamicDimension.1": "width"},
        dims={"batch": DimensionOption(1, 1, 8), "width": DimensionOption(16, 320, 1280)},
    ),
    "silero_vad": SourceOptions(states={"state": "stateN"}),
}

#: Networks that packages have as ONNX files.
FILES: dict[str, PackageFile] = {"pp_ocr": pp_ocr.FILE, "silero_vad": silero.WEIGHTS}

SENTENCES = (
    "The robot stops.",
    "A cyclist crosses from the left while the light turns yellow.",
    "Temperature of the second motor rises, although nothing moves and no current is drawn by it.",
)


def compare_minilm(folder: Path, pipe: mmedge.Pipeline) -> dict[str, Any]:
    """Hidden states of one sentence and of three, each with its own length."""
    network = hf.AutoModel.from_pretrained(folder).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    worst, cases = 0.0, 0
    for texts in (SENTENCES[:1], SENTENCES[1:2], SENTENCES):
        tokens = tokenizer(list(texts), padding=True, return_tensors="np")
        values = {name: tokens[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
        expected = network(**{name: torch.from_numpy(value) for name, value in values.items()})
        states = pipe(**values)["last_hidden_state"]
        worst = max(worst, float(np.abs(states - expected.last_hidden_state.numpy()).max()))
        cases += 1
    return {"what": "hidden states", "cases": cases, "largest_difference": worst}


def compare_whisper(folder: Path, pipe: mmedge.Pipeline) -> dict[str, Any]:
    """Tokens of recorded clips, which the bundle hears as samples."""
    from speech_clips import RATE, load_clips

    network = hf.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    extract = hf.WhisperFeatureExtractor.from_pretrained(folder)
    stop = network.generation_config.eos_token_id
    clips, same = load_clips(None), 0
    for clip in clips:
        features = extract(clip.samples, sampling_rate=RATE, return_tensors="pt").input_features
        tokens = network.generate(features, do_sample=False, num_beams=1)[0].tolist()
        expected = [token for token in tokens if token < stop]
        same += _tokens(pipe(audio=clip.samples[None]), stop) == expected
    return {"what": "tokens of generate()", "cases": len(clips), "same": same}


def compare_smollm2(folder: Path, pipe: mmedge.Pipeline) -> dict[str, Any]:
    """64 tokens after each prompt."""
    from smollm2 import PROMPTS, prompt_tokens

    network = hf.AutoModelForCausalLM.from_pretrained(folder).eval()
    stop, same = network.generation_config.eos_token_id, 0
    for prompt in PROMPTS:
        ids = prompt_tokens(folder / "tokenizer.json", prompt)
        generated = network.generate(
            torch.from_numpy(ids), do_sample=False, num_beams=1, max_new_tokens=64
        )[0, ids.shape[1] :].tolist()
        # A call gives no token that ends a row.
        expected = [token for token in generated if token != stop]
        result = pipe.run({"input_ids": ids}, limit=64)
        tokens = result["tokens"][0, : int(result["lengths"][0])].tolist()
        if tokens != expected:
            print(f"{prompt!r}: {tokens}, and not {expected}")
        same += tokens == expected
    return {"what": "64 tokens of generate()", "cases": len(PROMPTS), "same": same}


def compare_pp_ocr(file: Path, pipe: mmedge.Pipeline) -> dict[str, Any]:
    """Lines of text, alone and together, and whether they are read as they were written."""
    session = onnxruntime.InferenceSession(file)
    characters = pp_ocr.read_characters(file)
    worst, cases, same = 0.0, 0, 0
    texts = ("The robot stops.", "Motor 2: 38.5 C", "EXIT")
    for lines in (texts[:1], texts[1:], texts):
        pictures = pp_ocr.draw_lines(lines)
        expected = session.run(None, {pp_ocr.INPUT: pictures})[0]
        probabilities = pipe(**{pp_ocr.INPUT: pictures})[pp_ocr.OUTPUT]
        worst = max(worst, float(np.abs(probabilities - expected).max()))
        same += pp_ocr.read_lines(probabilities, characters) == list(lines)
        cases += 1
    what = "probabilities of characters; lines are read as they were drawn"
    return {"what": what, "cases": cases, "same": same, "largest_difference": worst}


def compare_silero(file: Path, pipe: mmedge.Pipeline) -> dict[str, Any]:
    """Two seconds of speech in pieces: the states go from run to run, here as in a session."""
    from speech_clips import RATE, speech

    session = onnxruntime.InferenceSession(file)
    memory = np.zeros((2, 1, silero.MEMORY), np.float32)
    rate = np.array(RATE, np.int64)
    pieces = silero.chunks(speech(2))
    before = np.zeros((1, silero.CONTEXT), np.float32)
    worst = 0.0
    state = pipe.state()
    for piece in pieces[:, None]:
        heard = np.concatenate([before, piece], axis=1)
        before = piece[:, -silero.CONTEXT :]
        expected, memory = session.run(None, {"input": heard, "state": memory, "sr": rate})
        result = pipe.run({"input": heard, "sr": rate}, state=state)
        worst = max(worst, float(np.abs(result["output"] - expected).max()))
    return {"what": "probabilities of speech", "cases": len(pieces), "largest_difference": worst}


def _tokens(result: dict[str, Any], stop: int) -> list[int]:
    tokens = result["tokens"][0, : int(result["lengths"][0])].tolist()
    return [token for token in tokens if token < stop]


COMPARISONS: dict[str, Callable[[Path, mmedge.Pipeline], dict[str, Any]]] = {
    "minilm": compare_minilm,
    "whisper_tiny": compare_whisper,
    "smollm2": compare_smollm2,
    "pp_ocr": compare_pp_ocr,
    "silero_vad": compare_silero,
}


@torch.no_grad()
def main() -> None:
    """Export, compare, print and write the results."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--networks", nargs="*", choices=COMPARISONS, default=list(COMPARISONS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if options.output.exists():  # of networks that are not run now
        rows = json.loads(options.output.read_text("utf-8"))["rows"]
        rows = [row for row in rows if row["network"] not in options.networks]
    for name in options.networks:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / name
            if name in FILES:
                path = FILES[name].fetch()
            else:
                CHECKPOINTS[name](path)
            bundle = Path(scratch) / "model.mmedge"
            export(
                str(path) if name in FILES else f"hf:{path}",
                bundle,
                rtol=RTOL.get(name),
                options=OPTIONS.get(name),
                progress=print,
            ).close()
            with mmedge.load(bundle) as pipe:
                row = {
                    "network": name,
                    "source": "onnx" if name in FILES else "hf",
                    "rtol": RTOL.get(name),
                    **COMPARISONS[name](path, pipe),
                }
        rows.append(row)
        print(json.dumps(row))
    result = {
        "what": "real weights through hf: and ONNX files, beside who ran them before",
        "date": datetime.now(UTC).date().isoformat(),
        "libraries": {
            "mmedge": mmedge.__version__,
            "torch": torch.__version__,
            "transformers": hf.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        "rows": rows,
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
