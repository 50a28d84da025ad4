"""A graph that is not its network is found out, and so is the tensor where it departs."""

from __future__ import annotations

import networks
import onnx_ir as ir
import pytest
import torch
from torch import nn

from mmedge.errors import ExportError
from mmedge.spec import Tolerance
from mmedge_export import Input, Model
from mmedge_export.capture import probe_inputs
from mmedge_export.capture.captured_graph import CapturedGraph
from mmedge_export.capture.case import ParityCase
from mmedge_export.capture.network import TorchNetwork, evaluation
from mmedge_export.capture.parity import check, check_operators
from mmedge_export.capture.trace import trace
from mmedge_export.onnx_graph.graph import Graph, save
from mmedge_export.onnx_graph.runner import Runner
from mmedge_export.zoo.recurrent import GRU

LIMIT = Tolerance(1e-4, 1e-6)


def traced(model: Model) -> tuple[Graph, ParityCase]:
    with evaluation(model.module):
        example = probe_inputs.example(model)
        return trace(model), ParityCase("the example", example, TorchNetwork(model)(example))


def verdict(graph: Graph, case: ParityCase, folder) -> float:
    save({"m": graph.model}, folder)
    return check(graph, Runner(folder / "onnx/m.onnx"), [case], LIMIT)


def spoil(graph: Graph, name: str) -> None:
    """Change one weight."""
    value = graph.model.graph.initializers[name]
    array = value.const_value.numpy().copy()
    array.flat[0] += 1
    value.const_value = ir.tensor(array, name=name)


@pytest.fixture(scope="module")
def text_image() -> tuple[Graph, ParityCase]:
    return traced(networks.text_image())


def test_the_graph_is_the_network(text_image, tmp_path):
    assert verdict(*text_image, tmp_path) < 1e-5


def producer(graph: Graph, name: str) -> ir.Node:
    (node,) = (n for n in graph.model.graph if any(v.name == name for v in n.outputs))
    return node


def test_a_changed_weight_is_found_by_tensor_module_and_line(tmp_path):
    graph, case = traced(networks.text_image())
    spoil(graph, "image.weight")
    with pytest.raises(
        ExportError, match="output 'logits' differs by up to .* for the example"
    ) as e:
        verdict(graph, case, tmp_path)
    message = str(e.value)
    # The whole text branch comes before it in the program and agrees.
    assert "The first tensor that differs is 'linear_4', made by Gemm for aten.linear" in message
    assert "in module 'image', " in message
    assert "networks.py line" in message
    assert "self.image(image)" in message


def test_a_changed_operator_is_found_before_what_it_spoils(tmp_path):
    graph, case = traced(networks.text_image())
    relu = producer(graph, "relu")
    relu.op_type = "Abs"
    with pytest.raises(
        ExportError, match="differs is 'relu', made by Abs for aten.relu.* in module 'layer'"
    ):
        verdict(graph, case, tmp_path)


def test_a_changed_convolution_in_a_shared_backbone_is_found(tmp_path):
    graph, case = traced(networks.cameras())
    # The optimiser folds batch normalisation into the convolution, whose own value is then gone:
    # the first that is left of the two is named.
    weight = next(
        n.inputs[1].name
        for n in graph.model.graph
        if n.op_type == "Conv" and n.inputs[1] is not None
    )
    spoil(graph, weight)
    with pytest.raises(ExportError, match=r"made by (Conv|BatchNormalization) .*'backbone\.[01]'"):
        verdict(graph, case, tmp_path)


def test_an_output_that_is_renamed_is_compared_under_its_name(tmp_path):
    graph, case = traced(networks.text_image())
    spoil(graph, "head.bias")
    with pytest.raises(ExportError, match="differs is 'logits', made by Gemm .*in module 'head'"):
        verdict(graph, case, tmp_path)


def test_a_wrong_shape_is_a_difference(tmp_path):
    graph, case = traced(networks.text_image())
    producer(graph, "best").attributes["keepdims"] = ir.AttrInt64("keepdims", 1)
    graph.model.graph.outputs[1].shape = None
    with pytest.raises(ExportError, match=r"'best' is int64 \[2, 1\], expected int64 \[2\]"):
        verdict(graph, case, tmp_path)


def test_what_follows_an_operator_that_torch_cannot_compute_is_not_blamed(tmp_path):
    torch.manual_seed(0)
    model = Model(
        nn.Sequential(nn.Linear(6, 6), GRU(6), nn.Linear(6, 2)),
        {"input": Input(networks.floats(1, 5, 6), dynamic={0: "batch", 1: "time"})},
        ["y"],
    )
    graph, case = traced(model)
    assert [n.op_type for n in graph.model.graph].count("GRU") == 1
    assert verdict(graph, case, tmp_path) < 1e-5
    spoil(graph, "2.bias")
    with pytest.raises(ExportError, match="All tensors that torch can compute agree"):
        verdict(graph, case, tmp_path)
    graph, case = traced(model)
    spoil(graph, "0.bias")
    with pytest.raises(ExportError, match="made by Add .* in module '0'"):
        verdict(graph, case, tmp_path)


def test_what_follows_an_operator_that_torch_cannot_compute_is_tried_on_its_own():
    torch.manual_seed(0)
    model = Model(
        nn.Sequential(nn.Linear(6, 6), GRU(6), nn.Linear(6, 2)),
        {"input": Input(networks.floats(1, 5, 6), dynamic={0: "batch", 1: "time"})},
        ["y"],
    )
    graph, case = traced(model)
    check_operators(graph, [case], LIMIT, pytest.fail)
    spoil(graph, "2.bias")
    with pytest.raises(ExportError, match="It is 'y', made by Add .* in module '2'"):
        check_operators(graph, [case], LIMIT, pytest.fail)


class Verdict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x)).sum(1) > -1


def test_a_changed_operator_that_the_output_does_not_show_is_found(tmp_path):
    torch.manual_seed(0)
    graph, case = traced(Model(Verdict(), {"x": Input(networks.floats(4, 6))}, ["y"]))
    check_operators(graph, [case], LIMIT, pytest.fail)
    producer(graph, "relu").op_type = "Abs"
    assert verdict(graph, case, tmp_path) == 0
    with pytest.raises(ExportError, match="(?s)outputs agree .*'relu', made by Abs for aten.relu"):
        check_operators(graph, [case], LIMIT, pytest.fail)


def test_an_operator_is_not_blamed_for_what_it_was_given():
    """One weight is wrong; what follows is off as well and passes on its own."""
    graph, case = traced(networks.text_image())
    spoil(graph, "image.weight")
    with pytest.raises(ExportError, match="It is 'linear_4', made by Gemm"):
        check_operators(graph, [case], LIMIT, pytest.fail)


class Best(nn.Module):
    """The best of many that are equal: which of them is open, and the answer the same."""

    def __init__(self, *, sort: bool) -> None:
        super().__init__()
        self.sort = sort

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = torch.relu(x).round()
        if self.sort:
            order = scores.sort(0, descending=True)[1][:20]
            return scores.gather(0, order)
        return scores.gather(1, scores.topk(20)[1])


@pytest.mark.parametrize("sort", [False, True])
def test_the_order_of_equal_elements_is_open(sort):
    graph, case = traced(Model(Best(sort=sort), {"x": Input(networks.floats(64, 64))}, ["y"]))
    check_operators(graph, [case], LIMIT, pytest.fail)


def test_operators_that_cannot_run_apart_are_named():
    graph, _ = traced(networks.text_image())
    told: list[str] = []
    check_operators(graph, [ParityCase("no inputs", {}, {})], LIMIT, told.append)
    (text,) = told
    assert text.startswith("the operators inside the graph, each on its own: ")


class Threshold(nn.Module):
    """Takes another path for large batches, which no trace of a small one shows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if torch.compiler.is_exporting() else x * 3


def test_a_program_that_is_not_the_network_is_told_apart_from_a_bad_graph(tmp_path):
    graph, case = traced(Model(Threshold(), {"x": Input(networks.floats(2, 3))}, ["y"]))
    with pytest.raises(
        ExportError, match="is what torch.export traced, but that is not the network"
    ):
        verdict(graph, case, tmp_path)


def test_a_graph_without_a_program_says_so(tmp_path, text_image):
    graph, case = text_image
    wrong = ParityCase(case.what, case.inputs, {**case.outputs, "best": case.outputs["best"] + 1})
    with pytest.raises(ExportError, match="did not come from torch"):
        verdict(CapturedGraph(graph.model), wrong, tmp_path)
