"""Segmented attention as an operator of torch, and on its way through export."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import mmedge
from mmedge import native
from mmedge.errors import InputError
from mmedge.execution.verify import verify
from mmedge.native import capi
from mmedge.native.dispatch import KernelChoice
from mmedge.testing import CASES, AttentionCase, frobenius, make_inputs, reference
from mmedge_export import Input, Model, export
from mmedge_export.capture import attention
from mmedge_export.capture.attention import segmented_attention
from mmedge_export.capture.attention_standard import decompose

OP = torch.ops.mmedge.segmented_attention.default
SMALL = [case for case in CASES if case.keys < 500]


def tensors(value, dtype=None):
    if isinstance(value, list | tuple):
        return [tensors(one, dtype) for one in value]
    if not isinstance(value, np.ndarray):
        return value
    found = torch.from_numpy(value)
    return found.to(dtype) if dtype is not None and found.is_floating_point() else found


def arguments(case, dtype=None, **more):
    """Of the operator, by position."""
    inputs = make_inputs(case)
    given = {key: tensors(value, dtype) for key, value in inputs.options.items()} | more
    none = [None] * len(inputs.k)
    return inputs, (
        tensors(inputs.q, dtype),
        tensors(inputs.k, dtype),
        tensors(inputs.v, dtype),
        given.get("lens", none),
        given.get("key_valid", none),
        given.get("bias", []),
        list(range(len(given.get("bias", [])))),
        given.get("seg_bias"),
        given.get("gamma"),
        case.mode == "independent",
        case.dim**-0.5 if case.scale is None else case.scale,
        0,
        case.mode == "joint",
    )


@pytest.fixture(autouse=True)
def _kernels_pay(monkeypatch):
    """On any processor, whatever was measured on it."""
    monkeypatch.setattr(attention, "choose", lambda *_, **__: KernelChoice(kernel=True, reason=""))


def test_where_the_kernel_was_slower_it_is_not_used(monkeypatch):
    monkeypatch.setattr(attention, "choose", lambda *_, **__: KernelChoice(kernel=False, reason=""))
    inputs, given = arguments(SMALL[0])
    before = native.cpu_calls()
    out, _ = OP(*given)
    assert native.cpu_calls() == before
    wanted, _ = reference(inputs.q, inputs.k, inputs.v, **inputs.options)
    assert frobenius(out.numpy(), wanted) <= 1e-6


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_by_the_kernel(case):
    inputs, given = arguments(case)
    before = native.cpu_calls()
    out, lse = OP(*given)
    assert native.cpu_calls() == before + 1
    wanted, wanted_lse = reference(inputs.q, inputs.k, inputs.v, **inputs.options)
    assert frobenius(out.numpy(), wanted) <= 1e-6
    if case.mode == "joint":
        np.testing.assert_allclose(lse.numpy(), wanted_lse, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_by_standard_operators(case, exact):
    inputs, given = arguments(case)
    out, lse = decompose(*given, exact=exact)
    wanted, wanted_lse = reference(inputs.q, inputs.k, inputs.v, **inputs.options)
    assert frobenius(out.numpy(), wanted) <= 3e-6
    if case.mode == "joint":
        np.testing.assert_allclose(lse.numpy(), wanted_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_dtypes_take_standard_operators(dtype):
    case = next(c for c in CASES if c.name == "everything, 64 elements, 16 rows")
    inputs, given = arguments(case, dtype)
    before = native.cpu_calls()
    out, _ = OP(*given)
    assert native.cpu_calls() == before
    assert out.dtype == dtype
    wanted, _ = reference(inputs.q, inputs.k, inputs.v, **inputs.options)
    assert frobenius(out.float().numpy(), wanted) <= {torch.float16: 2e-3}.get(dtype, 1e-2)


def test_without_the_library_standard_operators_compute_it(monkeypatch):
    monkeypatch.setattr(capi, "_find", lambda: capi._Lookup(None, "left out"))
    inputs, given = arguments(CASES[2])
    wanted, _ = reference(inputs.q, inputs.k, inputs.v, **inputs.options)
    assert frobenius(OP(*given)[0].numpy(), wanted) <= 3e-6


def test_hidden_nan_does_not_leak_without_a_kernel():
    case = AttentionCase("poison", (20,), rows=3, valid=(0.5,))
    _, given = arguments(case, torch.float16)
    clean = OP(*given)[0]
    for part in (given[1][0], given[2][0]):
        part[~given[4][0]] = torch.nan
    torch.testing.assert_close(OP(*given)[0], clean)


CHECKED = [
    AttentionCase("plain", (5, 3), rows=4, heads=2, dim=8),
    AttentionCase(
        "masks", (5, 3), rows=4, heads=4, kv_heads=2, dim=8, valid=(0.5, None), gates="b"
    ),
    AttentionCase(
        "lengths", (5, 3), rows=2, heads=2, dim=8, counted=(0.7, None), bias="q", batch=2
    ),
    AttentionCase("apart", (5, 3), rows=2, heads=2, dim=8, mode="independent", gamma="bh"),
]


# torch 2.14 checks on clones, which are no leaves. It keeps its own warning of their .grad from
# being printed, but the filter that makes warnings errors comes first.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", CHECKED, ids=lambda case: case.name)
def test_opcheck(case):
    _, given = arguments(case)
    grads = [t.requires_grad_() for t in (given[0], *given[1], *given[2])]
    assert grads
    torch.library.opcheck(OP, given)


@pytest.mark.parametrize("case", CHECKED, ids=lambda case: case.name)
def test_gradients(case):
    _, given = arguments(case)
    leaves = [given[0], *given[1], *given[2]]
    leaves += [*given[5], *(t for t in given[7:9] if t is not None)]
    for leaf in leaves:
        leaf.requires_grad_()
    weight = torch.randn(OP(*given)[0].shape)

    def gradients(run):
        out, lse = run(*given)
        total = (out * weight).sum() + (lse[lse.isfinite()].sum() if lse.numel() else 0)
        return torch.autograd.grad(total, leaves)

    for got, wanted in zip(
        gradients(OP), gradients(lambda *a: decompose(*a, exact=True)), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_the_function_has_defaults_and_names_mistakes():
    q, k = torch.randn(1, 2, 4, 8), torch.randn(1, 3, 2, 8)
    out, lse = segmented_attention(q, [k], [k], return_lse=True)
    assert out.shape == (1, 2, 4, 8)
    assert lse.shape == (1, 4, 2)
    torch.testing.assert_close(segmented_attention(q, [k], [k]), out)
    with pytest.raises(InputError, match=r"v\[0\]: axis 1 must have size 3, got shape \[1, 2"):
        segmented_attention(q, [k], [k[:, :2]])
    wide = torch.randn(1, 3, 2, 16)[..., ::2]
    torch.testing.assert_close(
        segmented_attention(q, [wide], [k]), segmented_attention(q, [wide.contiguous()], [k])
    )


# Through export.


class Fusion(nn.Module):
    """A few queries over the tokens of two sensors, of which some of the second may not count."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.q = nn.Parameter(torch.randn(1, 4, 4, 32))
        self.keys = nn.ModuleList([nn.Linear(64, 128), nn.Linear(48, 128)])
        self.values = nn.ModuleList([nn.Linear(64, 128), nn.Linear(48, 128)])
        self.head = nn.Linear(128, 3)

    def forward(self, image, sound, count):
        k, v = (
            [layers[at](x).unflatten(-1, (4, 32)) for at, x in enumerate((image, sound))]
            for layers in (self.keys, self.values)
        )
        more = {}
        if self.kind != "plain":
            more["lens"] = [None, count]
        if self.kind == "biased":
            shift = count[:, None, None, None] * -0.5
            more["bias"] = [None, shift.expand(-1, 1, 1, sound.shape[1])]
        q = self.q.expand(image.shape[0], -1, -1, -1)
        seen = segmented_attention(q, k, v, **more)
        return self.head(seen.flatten(2).mean(1)) + 0.0 * count[:, None]


@pytest.mark.parametrize(
    ("kind", "operator"),
    [
        ("plain", "SegmentedAttention2"),
        ("counted", "SegmentedAttention2Guarded"),
        ("biased", "SegmentedAttention2Guarded"),
    ],
)
def test_export_finds_it_again(kind, operator, tmp_path):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)

    def sample(seed):
        return {
            "image": rng.standard_normal((1, 49, 64), np.float32),
            "sound": rng.standard_normal((1, 20, 48), np.float32),
            "count": np.array([seed * 3], np.int32),
        }

    model = Model(
        Fusion(kind).eval(),
        inputs={
            "image": Input(sample(3)["image"], dynamic={0: "batch"}),
            "sound": Input(sample(3)["sound"], dynamic={0: "batch", 1: "steps"}, modality="sound"),
            "count": Input(sample(3)["count"], dynamic={0: "batch"}, modality="sound"),
        },
        outputs=("y",),
        samples=[(sample(seed), None) for seed in range(6)],
    )
    with export(model, tmp_path / "b", split=True) as bundle:
        functions = [bundle.functions(stage.graph) for stage in bundle.manifest.stages]
        assert {operator: 1} in functions
    with mmedge.load(tmp_path / "b", kernels=True) as pipe:
        assert verify(pipe).ok
        assert [found.kernel for found in pipe.attention.values()] == [native.cpu_isa()]
