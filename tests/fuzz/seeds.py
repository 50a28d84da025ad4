"""Write the seed corpus anew: python tests/fuzz/seeds.py. Files of other names are left alone."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import numpy as np
from fuzz.targets import CORPUS, frame
from onnx import TensorProto, helper, numpy_helper
from recording_kit import write
from reports import sample
from streaming import make_streaming
from tiny import GRAPH, make_tiny
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from mmedge.bundle import Bundle
from mmedge.schema import manifest_to_json
from mmedge.schema.release import envelope_from_bytes
from mmedge.spec import Manifest, Plan, Stage


def put(target: str, name: str, data: bytes) -> None:
    """Write one seed."""
    path = CORPUS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def graph_with_bodies() -> bytes:
    """A loop, a branch, a function and a guarded division."""
    node, info = helper.make_node, helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", ["go"], ["again"]), node("Add", ["s", "s"], ["t"])],
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []),
         info("s", TensorProto.FLOAT, [4])],
        [info("again", TensorProto.BOOL, []), info("t", TensorProto.FLOAT, [4])],
    )  # fmt: skip
    nodes = [
        node("Loop", ["times", "true", "x"], ["looped"], body=body),
        node("Equal", ["d", "minus"], ["is"]),
        node("Where", ["is", "one", "d"], ["safe"]),
        node("Div", ["n", "safe"], ["q"]),
        node("F", ["looped"], ["y"], domain="mmedge"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, [4]), info("d", TensorProto.INT64, [4]),
         info("n", TensorProto.INT64, [4])],
        [info("y", TensorProto.FLOAT, [4]), info("q", TensorProto.INT64, [4])],
        [numpy_helper.from_array(np.array(value), name)
         for name, value in (("times", 3), ("true", True), ("minus", -1), ("one", 1))],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("mmedge", 1)]
    function = helper.make_function(
        "mmedge", "F", ["a"], ["b"], [node("Relu", ["a"], ["b"])], imports[:1]
    )
    model = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=10)
    return model.SerializeToString()


def tokenizers() -> dict[str, Tokenizer]:
    """Small ones of three kinds."""
    word = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "red": 2, "ball": 3}, "[UNK]"))
    word.pre_tokenizer = pre_tokenizers.Whitespace()
    word.normalizer = normalizers.Lowercase()
    word.enable_padding(pad_id=0, length=8)
    piece = Tokenizer(
        models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2, "[CLS]": 3}, unk_token="[UNK]")
    )
    piece.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 3)]
    )
    pair = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    pair.enable_truncation(max_length=4)
    return {"word": word, "piece": piece, "pair": pair}


def with_whole(manifest: Manifest) -> Manifest:
    """A manifest whose stages are the plan ``cut``, with a plan ``whole`` beside it."""
    outputs = {spec.name: spec for stage in manifest.stages for spec in stage.outputs}
    whole = Stage(
        "model",
        manifest.stages[0].graph,
        tuple(manifest.inputs().values()),
        tuple(outputs[name] for name in manifest.outputs),
    )
    cut = Plan("cut", tuple(stage.name for stage in manifest.stages))
    return replace(
        manifest,
        stages=(*manifest.stages, whole),
        plans=(cut, Plan("whole", ("model",))),
        variants=tuple(
            replace(variant, files={**variant.files, "model": whole.graph}, plan="whole")
            for variant in manifest.variants
        ),
    )


def main() -> None:
    """The command."""
    tiny = make_tiny()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with Bundle.write(
            folder / "t.mmedge", tiny.manifest, tiny.files, samples=tiny.samples
        ) as b:
            put("manifest", "tiny.json", bytes(b.read("manifest.json")))
            put("samples", "tiny.safetensors", bytes(b.read("samples.safetensors")))
        put("zip", "tiny.zip", (folder / "t.mmedge").read_bytes())
        with Bundle.open(make_streaming(folder / "streaming")) as streaming:
            manifest = streaming.manifest
        put("manifest", "streaming.json", manifest_to_json(manifest).encode())
        put("manifest", "plans.json", manifest_to_json(with_whole(manifest)).encode())
        write(folder / "r.mcap", manifest, count=3)
        put("recording-mcap", "three.mcap", (folder / "r.mcap").read_bytes())
        write(folder / "r", manifest, count=3)
        files = {path.name: path.read_bytes() for path in sorted((folder / "r").iterdir())}
        put("recording-folder", "three.files", frame(files))
        for name, calls in (("one", 8), ("two", 5)):
            data = json.loads(sample(calls=calls, seed=calls).to_json())
            put("report", f"{name}.json", json.dumps(data).encode())
    put("graph", "tiny.onnx", tiny.files[GRAPH])
    put("graph", "bodies.onnx", graph_with_bodies())
    cases = Path(__file__).resolve().parents[2] / "conformance/cases/signatures"
    signed = (cases / "signed/manifest.sig").read_bytes()
    put("signature", "two.sig", signed)
    put("signature", "statement.json", envelope_from_bytes(signed, source="").payload)
    content = json.loads((cases / "signatures.json").read_text())
    put("public-key", "a.pub", content["keys"]["a"].encode())
    for case in content["cases"]:
        if case["name"] == "never expires":
            put("signature", "one.sig", case["signature"].encode("latin-1"))
    for name, tokenizer in tokenizers().items():
        put("tokenizer", f"{name}.json", tokenizer.to_str().encode())


if __name__ == "__main__":
    main()
