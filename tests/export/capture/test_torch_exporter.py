"""What torch's exporter is spared: the graph is the same without, and so are its values."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.onnx._internal.exporter import _fx_passes, _registration
from torch.onnx._internal.fx.passes import type_promotion

from mmedge_export.capture.decomposition import decomposed_where_needed
from mmedge_export.capture.operator_registry import forget_registry, registry_made_once
from mmedge_export.capture.type_promotion import promoted_by_known_types
from mmedge_export.onnx_graph.memory_graph import MemoryGraph
from mmedge_export.onnx_graph.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmedge.spec import Array

CONVOLUTION = nn.Conv2d(3, 4, 3, padding=1)
NORM = nn.BatchNorm2d(4)
NORM.running_mean = torch.linspace(-1, 1, 4)
ATTENTION = nn.MultiheadAttention(8, 2, batch_first=True)


def residual(x: Tensor) -> Tensor:
    y = NORM(CONVOLUTION(x))
    y += x.mean(1, keepdim=True).expand(-1, 4, -1, -1)
    return torch.flatten(nn.functional.adaptive_avg_pool2d(torch.relu_(y), 1), 1)


def attention(x: Tensor) -> Tensor:
    query, key, value = (part.contiguous() for part in x.repeat(1, 1, 6).chunk(3, -1))
    result, _ = ATTENTION(query, key, value)
    return nn.functional.dropout(result, 0.5, training=False)


def same_twice(x: Tensor) -> Tensor:
    """Its output is what a node gives that computes nothing."""
    return (x + 1).to(torch.float32)


def copy_then_write(x: Tensor) -> Tensor:
    y = x * 2
    same = y.contiguous()
    same.mul_(3)
    return y + same


#: Networks that need no second trace, with the shape of their input.
PLAIN: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "attention": (attention, (2, 5, 4)),
    "bits": (lambda x: ((x > 0) & (x < 1) | (x < -1)).to(torch.float32), (2, 5, 4)),
    "casts": (lambda x: (x.to(torch.int64).float() + x.to(x.device)).to(torch.float16), (2, 5, 4)),
    "chunks": (lambda x: torch.cat(x.chunk(3, -1)[::-1], -1), (2, 5, 4)),
    "convolution": (residual, (2, 3, 6, 6)),
    "copy that is none": (copy_then_write, (2, 5, 4)),
    "extremes": (lambda x: torch.max(torch.min(x, x * 2), x.mean()), (2, 5, 4)),
    "flat": (lambda x: x.transpose(2, 3).flatten(-2), (2, 5, 2, 4)),
    "reshape": (lambda x: x.transpose(1, 2).reshape(x.shape[0], -1, 2).contiguous(), (2, 5, 4)),
    "reshape to itself": (lambda x: x.reshape(x.shape[0], 5, 4) * 2, (2, 5, 4)),
    "same": (same_twice, (2, 5, 4)),
    "unflat": (lambda x: x.unflatten(-1, (2, 2)).transpose(1, 2), (2, 5, 4)),
}


def view_then_write(x: Tensor) -> Tensor:
    y = x * 2
    first = y[:, 0]
    y.add_(1)
    return first + y[:, 1]


def write_to_input(x: Tensor) -> Tensor:
    y = x.to(torch.float32)
    y.add_(1)
    return y * x


#: Networks whose second trace says who reads what was written, or breaks an operator up.
TRACED: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "a view": (view_then_write, (2, 5, 4)),
    "an average of regions": (lambda x: nn.functional.adaptive_avg_pool2d(x, 2), (2, 3, 4, 4)),
    "the input": (write_to_input, (2, 5, 4)),
    "axes of any size made one": (lambda x: x.transpose(1, 2).flatten(0, 1), (2, 5, 4)),
}


class Called(nn.Module):
    """A function as a module, with the modules that it calls."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList([CONVOLUTION, NORM, ATTENTION])

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def export(function: Callable[[Tensor], Tensor], shape: tuple[int, ...], context: Any) -> Any:
    module = Called(function).eval()
    dims = {"x": {0: torch.export.Dim("batch", min=1, max=9)}}
    with torch.no_grad(), context:
        program = torch.export.export(module, (torch.randn(shape),), dynamic_shapes=dims)
        return torch.onnx.export(program, (), dynamo=True, verbose=False, opset_version=20)


def run(onnx_program: Any, x: Array) -> Array:
    runner = Runner(MemoryGraph.of(onnx_program.model))
    (result,) = runner({"x": x}).values()
    return result


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often torch's exporter traced a program once more, an item each."""
    counted: list[int] = []
    decompose = _fx_passes.decompose_with_registry

    def count(exported_program: Any, registry: Any) -> Any:
        counted.append(1)
        return decompose(exported_program, registry)

    monkeypatch.setattr(_fx_passes, "decompose_with_registry", count)
    return counted


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_program_gives_the_graph_of_a_second_trace(name: str, traces: list[int]) -> None:
    function, shape = PLAIN[name]
    graph = export(function, shape, decomposed_where_needed())
    assert not traces
    traced_graph = export(function, shape, nullcontext())
    assert traces
    operators, traced_operators = (
        Counter(node.op_type for node in each.model.graph) for each in (graph, traced_graph)
    )
    assert operators == traced_operators
    rng = np.random.default_rng(0)
    for rows in (1, 2, 7):
        x = rng.normal(size=(rows, *shape[1:])).astype(np.float32)
        with torch.no_grad():
            expected = function(torch.from_numpy(x.copy())).numpy()
        result = run(graph, x)
        assert result.dtype == expected.dtype
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(result, run(traced_graph, x))


@pytest.mark.parametrize("name", TRACED)
def test_what_needs_a_second_trace_gets_it(name: str, traces: list[int]) -> None:
    function, shape = TRACED[name]
    graph = export(function, shape, decomposed_where_needed())
    assert traces
    x = np.random.default_rng(0).normal(size=(3, *shape[1:])).astype(np.float32)
    with torch.no_grad():
        expected = function(torch.from_numpy(x.copy())).numpy()
    np.testing.assert_allclose(run(graph, x), expected, rtol=1e-5, atol=1e-5)


#: Operators whose operands the exporter converts, or has computed in another type.
MIXED: dict[str, Callable[[Tensor], Tensor]] = {
    "bool times float": lambda x: (x > 0) * x,
    "half by float": lambda x: x.half() * 2.5 + x,
    "half by itself": lambda x: torch.log_softmax(x.half(), -1).exp(),
    "int and float": lambda x: x.long() + x,
    "int by float number": lambda x: (x.long() * 1.5 + 1).int() - 0.5,
    "int by int": lambda x: x.long() / (x.shape[0] + 1),
    "mean of bools": lambda x: (x > 0).float().mean(-1) + (x > 0).sum(-1),
    "power": lambda x: x.int() ** 2 + 2**x,
    "size": lambda x: x.int() * x.shape[0] + x.double().shape[0],
    "where": lambda x: torch.where(x > 0, x, x.long()),
}


@pytest.mark.parametrize("name", MIXED)
def test_types_that_are_known_convert_the_same_operands(name: str) -> None:
    graphs = [
        export(MIXED[name], (2, 5), context)
        for context in (promoted_by_known_types(), nullcontext())
    ]
    operators, computed = ([node.op_type for node in each.model.graph] for each in graphs)
    assert operators == computed
    x = np.random.default_rng(0).normal(scale=3, size=(4, 5)).astype(np.float32)
    result, other = (run(graph, x) for graph in graphs)
    assert result.dtype == other.dtype
    np.testing.assert_array_equal(result, other)
    with torch.no_grad():
        expected = MIXED[name](torch.from_numpy(x)).numpy()
    assert result.dtype == expected.dtype
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-3)


def test_a_registry_is_made_once_for_each_opset() -> None:
    registry = _registration.ONNXRegistry
    forget_registry()
    with registry_made_once():
        first, again = registry.from_torchlib(20), registry.from_torchlib(20)
        other = registry.from_torchlib(18)
        assert first is again
        assert (first.opset_version, other.opset_version) == (20, 18)
        forget_registry()
        assert registry.from_torchlib(20) is not first
    assert registry.from_torchlib(20) is not registry.from_torchlib(20)


@pytest.mark.parametrize(
    ("context", "owner", "name"),
    [
        (decomposed_where_needed, _fx_passes, "decompose_with_registry"),
        (promoted_by_known_types, type_promotion._TypePromotionInterpreter, "run_node"),
        (registry_made_once, _registration.ONNXRegistry, "from_torchlib"),
    ],
)
def test_the_exporter_is_as_before_afterwards(context: Any, owner: Any, name: str) -> None:
    before = getattr(owner, name)
    with pytest.raises(KeyError), context():
        assert getattr(owner, name) != before
        raise KeyError
    assert getattr(owner, name) == before
