"""The bundles of the cases, each made by code from nothing."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx_ir as ir
from cache_graphs import Decoder
from echo import make_echo
from loop_bundles import Captioner, Completer, Filter, Graph, Speller
from loop_samples import write_captions, write_filter, write_pictures
from small_bundles import write_both, write_pair, write_sums
from stream_loops import make_growing, make_policy, make_recurrent
from streaming import make_streaming
from text_bundles import words, write_text_bundle
from tiny import GRAPH, make_tiny
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Tokens

from mmedge.bundle import Bundle
from mmedge.spec import (
    Constraint,
    Dimension,
    Manifest,
    Modality,
    Sample,
    Stage,
    TensorSpec,
    Tolerance,
    Variant,
)
from mmedge_export.partition.attention_function import attention_function
from mmedge_export.targets.onnxruntime.in_place import add_in_place

__all__ = ["BUNDLES", "DIRECTORIES", "write_bundles"]

#: Bundles that are there as a directory, too.
DIRECTORIES = ("both", "captioner", "tiny")


def write_tiny(path: Path) -> None:
    """One stage, weights beside the graph, labels, an optional modality of zeros."""
    tiny = make_tiny()
    Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples).close()


def write_both_plans(path: Path) -> None:
    """Two modalities cut and whole, and a variant that is only cut."""
    with tempfile.TemporaryDirectory() as folder:
        write_both(path, write_pair(Path(folder) / "pair.mmedge"))


def write_sizes(path: Path) -> None:
    """Dynamic sizes with limits, multiples and constraints between them; all may be absent but one.

    ``sum`` is the sum of all elements of ``a`` [n], ``b`` [m, k] and ``c`` [k].
    """
    a, b, c = (
        TensorSpec(name, "float32", shape)
        for name, shape in (("a", ("n",)), ("b", ("m", "k")), ("c", ("k",)))
    )
    out = TensorSpec("sum", "float32", (1,))
    g = Graph()
    totals = [
        g("ReduceSum", name, np.arange(rank), keepdims=0)
        for name, rank in (("a", 1), ("b", 2), ("c", 1))
    ]
    total = g("Add", g("Add", totals[0], totals[1]), totals[2])
    g("Reshape", total, np.array([1]), name="sum")
    manifest = Manifest(
        name="sizes",
        modalities=(
            Modality("a", ("a",)),
            Modality("b", ("b",), required=False),
            Modality("c", ("c",), required=False, absent="last"),
        ),
        stages=(Stage("net", "onnx/net.onnx", (a, b, c), (out,)),),
        outputs=("sum",),
        variants=(Variant("ort", "fp32", "cpu", {"net": "onnx/net.onnx"}, Tolerance(1e-6, 1e-6)),),
        files={},
        dimensions={
            "n": Dimension(0, 4, 40, 2),
            "m": Dimension(1, 3, 64),
            "k": Dimension(3, 6, None, 3),
        },
        constraints=(
            Constraint("n // 2 + 1 <= m or n == 0", "net.py:3"),
            Constraint("k % (m + 1) != 1 and not k == 2 * m + 4", "net.py:7"),
        ),
    )
    sample = Sample(
        {name: np.ones(shape, np.float32) for name, shape in (("a", 4), ("b", (3, 6)), ("c", 6))},
        {"sum": np.array([28], np.float32)},
    )
    files = {"onnx/net.onnx": g.bytes((a, b, c), (out,))}
    Bundle.write(path, manifest, files, samples=[sample]).close()


def write_floats(path: Path) -> None:
    """Floating-point inputs: golden samples hold NaN in ``gaps`` and minus infinity in ``mask``."""
    specs = tuple(TensorSpec(name, "float32", (1, 4)) for name in ("plain", "gaps", "mask"))
    out = TensorSpec("out", "float32", (1, 12))
    g = Graph()
    g("Concat", *(spec.name for spec in specs), name="out", axis=1)
    manifest = Manifest(
        name="floats",
        modalities=tuple(Modality(spec.name, (spec.name,)) for spec in specs),
        stages=(Stage("net", "onnx/net.onnx", specs, (out,)),),
        outputs=("out",),
        variants=(Variant("ort", "fp32", "cpu", {"net": "onnx/net.onnx"}, Tolerance(1e-6, 1e-6)),),
        files={},
    )
    values = {name: np.arange(4, dtype=np.float32)[None] for name in ("plain", "gaps", "mask")}
    values["gaps"][0, 1], values["mask"][0, 2] = np.nan, -np.inf
    sample = Sample(values, {"out": np.concatenate([*values.values()], axis=1)})
    Bundle.write(
        path, manifest, {"onnx/net.onnx": g.bytes(specs, (out,))}, samples=[sample]
    ).close()


def write_state(path: Path) -> None:
    """A stage with a state and no loop."""
    _from_folder(path, write_filter)


def write_fusion_state(path: Path) -> None:
    """A fusion stage with a state, behind an encoder; the state begins as stored."""
    stored = np.array([[1, -2, 3, 0.5]], np.float32)
    Filter("fusion").write(path, stored=stored, returns_state=True).close()


def write_captioner(path: Path) -> None:
    """Keys and values of an image, and a loop that chooses tokens; golden samples."""
    _from_folder(path, write_captions)


def write_prompted(path: Path) -> None:
    """The same with tokens of the caller, at most 3 in a run and 12 in the states."""
    network = Captioner(most=11)
    network.write(path, prompt=True, new=3, suppress=(2,), suppress_first=(4, 5), limit=9).close()


def write_completer(path: Path) -> None:
    """Tokens alone, in and out as text."""
    names = ["</s>", "[UNK]", *"abcdefghi"]
    tokens = Tokens(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.add_special_tokens([AddedToken("</s>", special=True)])
    Completer().write(
        path, tokenizer=tokens.to_str().encode(), temperature=0.75, top_k=6, top_p=0.9
    ).close()


def write_speller(path: Path) -> None:
    """A recurrent step: tokens [batch] of int32, a state that an output of the network begins."""
    Speller().write(path, more=True).close()


def write_painter(path: Path) -> None:
    """A loop over a schedule, with guidance, noise, a state and a decoder; a golden sample."""
    _from_folder(path, write_pictures)


def write_policy(path: Path) -> None:
    """Two sensors and a loop over a schedule, for streams."""
    make_policy(path)


def write_decoder(path: Path) -> None:
    """Keys and values that grow, and a variant that writes them in place."""

    def write(name: str) -> None:
        made = Decoder(heads=2, key_heads=1, size=8, layers=1, most=40).write(name)
        bundle, variants = add_in_place(Bundle.open(made), lambda _: None)
        assert variants
        bundle.close()

    _from_folder(path, write)


def write_recurrent(path: Path) -> None:
    """Encoders and a fusion stage with state, for streams."""
    make_recurrent(path, remember=True)


def write_poses(path: Path) -> None:
    """A camera, and poses and joints to interpolate between, in streams."""
    make_echo(path, {
        "camera": ({"image": 4}, {"rate_hz": 20.0}),
        "pose": ({"place": 3, "turn": 4}, {"required": False, "rate_hz": 50.0}),
        "arm": ({"joints": 5}, {"required": False, "max_age_ms": 200.0}),
    })  # fmt: skip


def write_attention(path: Path) -> None:
    """A query over keys and values of two sensors, by functions of domain ``mmedge``."""
    kinds = {"plain": "", "biased": "Biased", "guarded": "Guarded"}
    specs = {
        "q": ("batch", 2, 3, 4),
        **{f"{letter}{i}": ("batch", 2, f"l{i}", 4) for letter in "kv" for i in (0, 1)},
        **{f"bias{i}": ("batch", 1, 3, f"l{i}") for i in (0, 1)},
    }
    values = {name: ir.val(name, ir.DataType.FLOAT, list(shape)) for name, shape in specs.items()}
    outputs, nodes, functions = [], [], []
    for name, kind in kinds.items():
        function = attention_function(2, kind, 20)
        names = [n for n in specs if kind or not n.startswith("bias")]
        node = ir.node(
            function.name, [values[n] for n in names], {"scale": 0.5}, domain="mmedge", name=name
        )
        out = node.outputs[0]
        out.name, out.type, out.shape = name, values["q"].type, ir.Shape(["batch", 2, 3, 4])
        outputs.append(out)
        nodes.append(node)
        functions.append(function)
    graph = ir.Graph(
        list(values.values()), outputs, nodes=nodes, opset_imports={"": 20, "mmedge": 1}, name="net"
    )
    model = ir.serde.serialize_model(ir.Model(graph, ir_version=10, functions=functions))
    inputs = tuple(TensorSpec(name, "float32", shape) for name, shape in specs.items())
    made = tuple(TensorSpec(name, "float32", ("batch", 2, 3, 4)) for name in kinds)
    manifest = Manifest(
        name="attention",
        modalities=(
            Modality("query", ("q",)),
            Modality("left", ("k0", "v0", "bias0")),
            Modality("right", ("k1", "v1", "bias1")),
        ),
        stages=(Stage("net", "onnx/net.onnx", inputs, made),),
        outputs=tuple(kinds),
        variants=(Variant("ort", "fp32", "cpu", {"net": "onnx/net.onnx"}, Tolerance(1e-4, 1e-5)),),
        files={},
        dimensions={
            "batch": Dimension(1, 1, 4),
            "l0": Dimension(1, 5, 64),
            "l1": Dimension(1, 3, 64),
        },
    )
    rng = np.random.default_rng(12)
    sizes = {"batch": 1, "l0": 5, "l1": 3}
    arrays = {
        name: rng.normal(size=[sizes.get(s, s) for s in shape]).astype(np.float32)
        for name, shape in specs.items()
    }
    keys, rows = (np.concatenate([arrays[f"{n}0"], arrays[f"{n}1"]], 2) for n in "kv")
    scores = np.einsum("bhqd,bhkd->bhqk", arrays["q"] * np.float32(0.5), keys)
    golden = {}
    for name, kind in kinds.items():
        biased = scores
        if kind:
            biased = scores + np.concatenate([arrays["bias0"], arrays["bias1"]], 3)
        shares = np.exp(biased - biased.max(-1, keepdims=True))
        golden[name] = shares / shares.sum(-1, keepdims=True) @ rows
    content = {"onnx/net.onnx": model.SerializeToString(deterministic=True)}
    Bundle.write(path, manifest, content, samples=[Sample(arrays, golden)]).close()


def write_variants(path: Path) -> None:
    """``both`` with many variants, of which most cannot run on most machines.

    Those of TensorRT are no engines: whoever tries to load one fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_both_plans(Path(folder) / "both.mmedge")
        with Bundle.open(Path(folder) / "both.mmedge") as bundle:
            manifest, samples = bundle.manifest, bundle.samples()
            files = {stage.graph: bytes(bundle.read(stage.graph)) for stage in manifest.stages}
    million = {"camera": 4, "mic": 30, "ear": 0, "fusion": 900, "model": 1000}
    stages = tuple(replace(stage, flops=million[stage.name] * 10**6) for stage in manifest.stages)
    whole, cut = manifest.variants
    engine = {name: f"engines/{name}.engine" for name in ("camera", "mic", "ear", "fusion")}
    variants = (
        replace(whole, metrics={"latency_ms": 4.0, "cores": 4, "threads": 2}, plan="cut"),
        replace(cut, metrics={"latency_ms": 2.5, "cores": 8, "threads": 6}),
        replace(cut, precision="fp16"),
        replace(whole, backend="openvino", metrics={"latency_ms": 3.25}),
        replace(whole, target="cuda", metrics={"latency_ms": 0.5}),
        replace(cut, precision="int8", target="cuda"),
        replace(cut, backend="tensorrt", precision="fp16", target="sm_87", files=engine,
                requires={"tensorrt": "10.3.0"}, metrics={"latency_ms": 0.75}),
        replace(cut, backend="tensorrt_rtx", precision="fp16", target="sm_89", files=engine,
                requires={"tensorrt-rtx": "1.2.0", "onnxruntime": "1.30.0"}),
        replace(cut, backend="zephyr", precision="fp32", target="cpu"),
    )  # fmt: skip
    manifest = replace(manifest, name="variants", stages=stages, variants=variants)
    files |= dict.fromkeys(engine.values(), b"no engine")
    Bundle.write(path, manifest, files, samples=samples).close()


def write_off(path: Path) -> None:
    """A graph that does not compute what its golden samples say, beyond the tolerance."""
    tiny = make_tiny()
    first, second = tiny.samples
    off = replace(second, outputs={"score": second.outputs["score"] + np.float32(0.01)})
    file = "onnx/int8.onnx"
    variant = replace(tiny.manifest.variants[0], precision="int8", files={"net": file})
    manifest = replace(tiny.manifest, name="off", variants=(variant,))
    files = {**tiny.files, file: tiny.files[GRAPH]}
    Bundle.write(path, manifest, files, samples=[first, off]).close()


def write_word_level(path: Path) -> None:
    """Whole words, padded on the left to a fixed length, a mask, and special tokens."""
    tokens = words(length=8, direction="left", pad_id=0)
    tokens.enable_truncation(6, direction="left")
    tokens.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokens.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    write_text_bundle(path, tokens.to_str().encode())


def write_word_piece(path: Path) -> None:
    """Pieces of words as BERT has them, on a dynamic axis."""
    pieces = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "robot", "rob", "##ot", "##s", "pick", "##ing",
        "up", "a", "b", "##b", "c", "##a", "red", "cup", ".", ",", "!", "?", "-", "1", "##2", "3",
        "un", "##able", "\u4e2d", "\u6587", "cafe", "##\u00e9",
    ]  # fmt: skip
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokens = Tokens(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=20))
    tokens.normalizer = normalizers.BertNormalizer()
    tokens.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokens.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokens.decoder = decoders.WordPiece()
    tokens.add_special_tokens([AddedToken(piece, special=True) for piece in pieces[:4]])
    tokens.enable_padding(pad_id=0, pad_token="[PAD]", pad_to_multiple_of=4)
    write_text_bundle(path, tokens.to_str().encode(), length="tokens")


def write_byte_level(path: Path) -> None:
    """Pairs of bytes as GPT-2 has them, without a mask; ids of int32; none at all are allowed."""
    corpus = "pick up the red cup and put the cup on the table; the robot's arm is 12 cm too far. "
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(corpus * 2)
    merges = _merges([[*piece] for piece, _ in pieces], 60)
    names = [*alphabet, *(a + b for a, b in merges), "<|end|>"]
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys(names))}
    tokens = Tokens(models.BPE(vocabulary, merges))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.post_processor = processors.ByteLevel(trim_offsets=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.add_special_tokens([AddedToken("<|end|>", special=True)])
    data = tokens.to_str().encode()
    write_text_bundle(path, data, length="tokens", mask=False, least=0, dtype="int32", most=200)


def write_unigram(path: Path) -> None:
    """Pieces with scores as SentencePiece has them, with bytes for what no piece has."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    pieces += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    names = "_the _robot _ _pick s ing _up _cup cup ro bot _red e a o"
    common = names.replace("_", "\u2581").split(" ")
    pieces += [(piece, -2.0 - 0.37 * rank) for rank, piece in enumerate(common)]
    rare = enumerate("bcdfghijklmnpqrstuvwxyz")
    pieces += [(letter, -9.0 - 0.01 * rank) for rank, letter in rare]
    tokens = Tokens(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokens.normalizer = normalizers.Sequence([
        normalizers.NFKC(), normalizers.Replace(" ", "\u2581"), normalizers.Prepend("\u2581"),
    ])  # fmt: skip
    tokens.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    tokens.decoder = decoders.Sequence([
        decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    tokens.add_special_tokens([AddedToken(piece, special=True) for piece, _ in pieces[:3]])
    tokens.enable_truncation(24)
    write_text_bundle(path, tokens.to_str().encode(), length="tokens")


#: By name, what writes a bundle to a path.
BUNDLES: dict[str, Callable[[Path], object]] = {
    "attention": write_attention,
    "both": write_both_plans,
    "byte-level": write_byte_level,
    "captioner": write_captioner,
    "completer": write_completer,
    "decoder": write_decoder,
    "floats": write_floats,
    "fusion-state": write_fusion_state,
    "growing": make_growing,
    "off": write_off,
    "painter": write_painter,
    "policy": write_policy,
    "poses": write_poses,
    "prompted": write_prompted,
    "recurrent": write_recurrent,
    "sizes": write_sizes,
    "speller": write_speller,
    "state": write_state,
    "streaming": make_streaming,
    "sums": write_sums,
    "tiny": write_tiny,
    "unigram": write_unigram,
    "variants": write_variants,
    "word-level": write_word_level,
    "word-piece": write_word_piece,
}


def write_bundles(folder: Path) -> None:
    """Write every bundle to ``folder`` as a zip, and :data:`DIRECTORIES` as directories, too."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in BUNDLES.items():
        path = folder / f"{name}.mmedge"
        write(path)
        if name in DIRECTORIES:
            with Bundle.open(path) as bundle:
                bundle.copy(folder / name).close()


def _from_folder(path: Path, write: Callable[[str], object]) -> None:
    """A bundle that is made beside others: only it stays."""
    with tempfile.TemporaryDirectory() as folder:
        write(f"{folder}/made")
        with Bundle.open(f"{folder}/made") as bundle:
            bundle.copy(path).close()


def _merges(words: Iterable[list[str]], most: int) -> list[tuple[str, str]]:
    """The pairs that come most often, each joined before the next is looked for."""
    words, merges = [list(word) for word in words], []
    while len(merges) < most:
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for word in words:
            at = 0
            while at + 1 < len(word):
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = ["".join(best)]
                at += 1
    return merges
