"""SmolLM2: its step by the plain formulas, its answer with the package's weights."""

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[2] / "benchmarks/networks"))

import smollm2
from generation import generate
from package_files import PackageError

SIZES = smollm2.Sizes(
    vocabulary=50,
    width=24,
    hidden=40,
    layers=2,
    heads=6,
    key_heads=2,
    rotary_base=1e4,
    epsilon=1e-5,
)


def formula(step, tokens):
    """Scores after the last token: every head with keys of its own, numbers turned as complex."""
    x, size = step.embedding.weight[tokens], len(tokens)
    powers = torch.arange(SIZES.head // 2) / (SIZES.head // 2)
    turns = torch.exp(1j * torch.arange(size)[:, None] * SIZES.rotary_base**-powers)

    def heads(value, count, *, turned):
        value = value.reshape(size, count, SIZES.head).transpose(0, 1)
        if turned:
            first, second = value.chunk(2, -1)
            value = torch.complex(first, second) * turns
            value = torch.cat([value.real, value.imag], -1)
        return value.repeat_interleave(SIZES.heads // count, 0)

    def norm(value, weight):
        return value / (value.pow(2).mean(-1, keepdim=True) + SIZES.epsilon).sqrt() * weight

    for layer in step.layers:
        attention, normal = layer.attention, norm(x, layer.norm.weight)
        query = heads(attention.query(normal), SIZES.heads, turned=True)
        key = heads(attention.key(normal), SIZES.key_heads, turned=True)
        value = heads(attention.value(normal), SIZES.key_heads, turned=False)
        scores = query @ key.transpose(1, 2) / SIZES.head**0.5
        scores = scores + torch.full((size, size), -torch.inf).triu(1)
        mixed = (scores.softmax(-1) @ value).transpose(0, 1).reshape(size, -1)
        x = x + attention.output(mixed)
        normal = norm(x, layer.mlp_norm.weight)
        x = x + layer.down(F.silu(layer.gate(normal)) * layer.up(normal))
    return norm(x[-1], step.norm.weight) @ step.embedding.weight.T


@torch.no_grad()
def test_the_step_is_a_llama_in_any_pieces():
    torch.manual_seed(0)
    step = smollm2.Step(SIZES).eval()
    tokens = torch.randint(50, (7,))
    expected = formula(step, tokens.tolist())
    for pieces in ((7,), (1,) * 7, (4, 1, 2)):
        states = {
            f"past_{name}_{n}": torch.zeros(1, 2, 0, 4) for name in ("key", "value") for n in (0, 1)
        }
        at = 0
        for new in pieces:
            outputs = step(tokens[None, at : at + new], torch.arange(at, at + new), **states)
            states = {name: outputs[name.replace("past", "present")] for name in states}
            at += new
        torch.testing.assert_close(outputs["logits"][0], expected, atol=1e-5, rtol=1e-5)


def test_the_answer_of_the_real_network():
    tokenizers = pytest.importorskip("tokenizers")
    try:
        model = smollm2.load()
    except PackageError as error:
        pytest.skip(f"SmolLM2 cannot be had: {error}")
    text = tokenizers.Tokenizer.from_file(str(model.loop.tokenizer))
    sea = smollm2.PROMPTS[2]
    start = text.encode(sea).ids
    assert start[0] == 1
    assert text.decode(start, skip_special_tokens=False) == sea
    answer = text.decode(generate(model, {"token": torch.tensor([start])}, limit=6))
    assert answer == "The sea is a vast and"
    assert text.encode("In 2024,").ids == [text.token_to_id(t) for t in ("In", "Ġ", *"2024,")]
