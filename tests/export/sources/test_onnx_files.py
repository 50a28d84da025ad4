"""ONNX files as many writers make them: taken as ONNX Runtime runs them, or refused by a rule."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_files import FLOAT, INT64, check, floats, relu_chain, save, two_encoders

from mmedge.errors import ExportError
from mmedge_export import Input, Model, SourceOptions, export
from mmedge_export.sources.onnx import read_onnx


@pytest.mark.parametrize("width", [1, 63, 64, 100, 255, 256, 1024])
@pytest.mark.parametrize("split", [True, False])
def test_external_weights_of_any_size_are_placed_anew(width, split, tmp_path):
    """torch.onnx.export puts a bias of 400 bytes into its data file."""
    nodes, weights = two_encoders(width)
    path = save(
        tmp_path / "net.onnx",
        nodes,
        [("a", FLOAT, ["n", 1024]), ("b", FLOAT, ["n", 1024])],
        [("y", FLOAT, ["n", width])],
        weights,
        save_as_external_data=True,
        location="net.onnx.data",
        size_threshold=0,
    )
    manifest = check(path, tmp_path, {"a": floats(3, 1024), "b": floats(3, 1024)}, split=split)
    assert len(manifest.stages) == (3 if split and width > 16 else 1)


def test_external_constants_are_placed_anew(tmp_path):
    constant = helper.make_node(
        "Constant", [], ["w"], value=numpy_helper.from_array(floats(64, 100), "w")
    )
    path = save(
        tmp_path / "net.onnx",
        [constant, helper.make_node("MatMul", ["a", "w"], ["y"])],
        [("a", FLOAT, ["n", 64])],
        [("y", FLOAT, ["n", 100])],
        save_as_external_data=True,
        location="net.onnx.data",
        size_threshold=0,
        convert_attribute=True,
    )
    assert (tmp_path / "net.onnx.data").stat().st_size >= 25_600
    check(path, tmp_path, {"a": floats(3, 64)})


def test_nodes_in_any_order(tmp_path):
    nodes, weights = two_encoders(64)
    path = save(
        tmp_path / "net.onnx",
        nodes[::-1],
        [("a", FLOAT, ["n", 1024]), ("b", FLOAT, ["n", 1024])],
        [("y", FLOAT, ["n", 64])],
        weights,
    )
    manifest = check(path, tmp_path, {"a": floats(2, 1024), "b": floats(2, 1024)}, split=True)
    assert [stage.name for stage in manifest.stages] == ["a", "b", "fusion"]


@pytest.mark.parametrize("ir_version", [3, 8])
def test_weights_among_the_inputs(ir_version, tmp_path):
    path = save(
        tmp_path / "net.onnx",
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [("x", FLOAT, ["n", 3]), ("w", FLOAT, [3])],
        [("y", FLOAT, ["n", 3])],
        {"w": floats(3)},
        ir_version=ir_version,
        opset=8,
    )
    manifest = check(path, tmp_path, {"x": floats(2, 3)})
    assert list(manifest.inputs()) == ["x"]
    # From version 4 on a caller could override it: that it is fixed is said.
    said = any("'w'" in r and "default" in r for r in manifest.cut.remarks)
    assert said == (ir_version > 3)


def test_a_size_below_zero_is_open(tmp_path):
    path = save(
        tmp_path / "net.onnx",
        relu_chain("x", "y"),
        [("x", FLOAT, [-1, 3])],
        [("y", FLOAT, [-1, 3])],
    )
    manifest = check(path, tmp_path, {"x": floats(2, 3)}, {"x": floats(5, 3)})
    assert manifest.inputs()["x"].shape == ("x_0", 3)
    assert manifest.stages[0].outputs[0].shape == ("x_0", 3)


def test_a_size_of_zero_is_zero(tmp_path):
    """As in ONNX Runtime, which refuses any other."""
    path = save(
        tmp_path / "net.onnx",
        [helper.make_node("Concat", ["x", "k"], ["y"], axis=0)],
        [("x", FLOAT, [0, 3])],
        [("y", FLOAT, [2, 3])],
        {"k": floats(2, 3)},
    )
    manifest = check(path, tmp_path, {"x": floats(0, 3)})
    assert manifest.inputs()["x"].shape == (0, 3)


def test_names_of_dimensions_stay_different(tmp_path):
    path = save(
        tmp_path / "net.onnx",
        [*relu_chain("a", "y"), *relu_chain("b", "z"), *relu_chain("c", "u")],
        [("a", FLOAT, ["n.1", "批"]), ("b", FLOAT, ["n_1", "次"]), ("c", FLOAT, ["n.1", "?"])],
        [("y", FLOAT, ["n.1", "批"]), ("z", FLOAT, ["n_1", "次"]), ("u", FLOAT, [None, "?"])],
    )
    feeds = {"a": floats(2, 3), "b": floats(4, 5), "c": floats(2, 7)}
    manifest = check(path, tmp_path, feeds)
    a, b, c = (spec.shape for spec in manifest.inputs().values())
    assert len({*a, *b, *c}) == 5
    assert a[0] == c[0]


@pytest.mark.parametrize(
    ("names", "outputs"),
    [
        (("x:0", "serving_default_b:0"), ("StatefulPartitionedCall:0",)),
        (("输入", "入力"), ("输出",)),
        (("gpu_0/data_0", "gpu_0/data.0"), ("y",)),
        (("a b", "a_b"), ("a/b",)),
        (("a+b", "a-b"), ("a*b",)),
        (("x" * 300, "x" * 301), ("y",)),
    ],
)
def test_names_of_tensors_stay_different(names, outputs, tmp_path):
    path = save(
        tmp_path / "net.onnx",
        [helper.make_node("Sub", list(names), ["a_b_1"]), *relu_chain("a_b_1", *outputs)],
        [(name, FLOAT, ["n", 2]) for name in names],
        [(name, FLOAT, ["n", 2]) for name in outputs],
    )
    feeds = dict(zip(names, (floats(3, 2), floats(3, 2)), strict=True))
    manifest = check(path, tmp_path, feeds)
    assert len(manifest.modalities) == 2
    for old, new in zip((*names, *outputs), (*manifest.inputs(), *manifest.outputs), strict=True):
        assert (old == new) or any(repr(old) in remark for remark in manifest.cut.remarks)
    # Grouping is by the names of the bundle, and comes before any name is refused.
    manifest = check(
        path, tmp_path, feeds, options=SourceOptions(modality={"both": list(manifest.inputs())})
    )
    assert [m.name for m in manifest.modalities] == ["both"]


def test_outputs_that_no_node_yields(tmp_path):
    path = save(
        tmp_path / "net.onnx",
        relu_chain("x", "y"),
        [("x", FLOAT, [3, 2])],
        [
            ("x", FLOAT, [None, None]),
            ("y", FLOAT, ["n", 2]),
            ("w", FLOAT, [2]),
            ("y", FLOAT, ["n", 2]),
        ],
        {"w": floats(2)},
        inner=[("x", FLOAT, [7, 7]), ("w", FLOAT, [9])],
    )
    manifest = check(path, tmp_path, {"x": floats(3, 2)})
    assert manifest.inputs()["x"].shape == (3, 2)
    assert manifest.outputs == ("x_1", "y", "w", "y_1")


def test_sizes_that_a_file_states_wrongly(tmp_path):
    nodes, weights = two_encoders(64)
    path = save(
        tmp_path / "net.onnx",
        nodes,
        [("a", FLOAT, ["n", 1024]), ("b", FLOAT, ["n", 1024])],
        [("y", FLOAT, [7, "n"])],
        weights,
        inner=[("c", FLOAT, [7, 9]), ("d", FLOAT, ["n", "n"]), ("e", FLOAT, ["m", 64])],
    )
    feeds = [{"a": floats(n, 1024), "b": floats(n, 1024)} for n in (1, 3)]
    manifest = check(path, tmp_path, *feeds, split=True)
    assert [stage.name for stage in manifest.stages] == ["a", "b", "fusion"]
    shapes = {s.name: s.shape for stage in manifest.stages for s in stage.outputs}
    assert shapes["y"] == ("n", 64)
    assert set(shapes.values()) == {("n", 64)}


def test_a_size_that_follows_values_is_open_whatever_the_file_states(tmp_path):
    path = save(
        tmp_path / "net.onnx",
        [helper.make_node("NonZero", ["x"], ["y"])],
        [("x", FLOAT, [2, 4])],
        [("y", INT64, [2, 8])],
    )
    x = floats(2, 4)
    x[0] = 0
    manifest = check(path, tmp_path, {"x": x}, {"x": floats(2, 4)}, {"x": floats(2, 4) * 0})
    assert manifest.stages[0].outputs[0].shape == (2, "y_1")


def test_sizes_that_onnx_runtime_alone_infers_are_fixed(tmp_path):
    """Operators of its own are unknown to ONNX's shape inference."""
    node = helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", alpha=2.0)
    path = save(
        tmp_path / "net.onnx",
        [node],
        [("x", FLOAT, ["n", 4])],
        [("y", FLOAT, None)],
        {"w": floats(4, 5)},
    )
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    manifest = check(path, tmp_path, {"x": floats(3, 4)})
    assert manifest.stages[0].outputs[0].shape == ("n", 5)


def test_functions_are_written_out(tmp_path):
    """As torch.onnx.export has them: functions that call functions, in domains of their own."""
    opset = helper.make_opsetid("", 17)
    inner = helper.make_function(
        "pkg.a", "Lin", ["x", "w"], ["y"], [helper.make_node("MatMul", ["x", "w"], ["y"])], [opset]
    )
    outer = helper.make_function(
        "pkg.b",
        "Block",
        ["x", "w"],
        ["y"],
        [helper.make_node("Lin", ["x", "w"], ["t"], domain="pkg.a"), *relu_chain("t", "y")],
        [opset, helper.make_opsetid("pkg.a", 1)],
    )
    path = save(
        tmp_path / "net.onnx",
        [
            helper.make_node("Block", ["a", "w"], ["c"], domain="pkg.b"),
            helper.make_node("Block", ["b", "v"], ["e"], domain="pkg.b"),
            helper.make_node("Add", ["c", "e"], ["y"]),
        ],
        [("a", FLOAT, ["n", 1024]), ("b", FLOAT, ["n", 1024])],
        [("y", FLOAT, ["n", 64])],
        {"w": floats(1024, 64), "v": floats(1024, 64)},
    )
    model = onnx.load(path)
    model.functions.extend([outer, inner])
    model.opset_import.extend([helper.make_opsetid("pkg.a", 1), helper.make_opsetid("pkg.b", 1)])
    onnx.save(model, path)
    manifest = check(path, tmp_path, {"a": floats(2, 1024), "b": floats(2, 1024)}, split=True)
    assert [stage.name for stage in manifest.stages] == ["a", "b", "fusion"]


@pytest.mark.parametrize("constant", [False, True])
def test_sparse_weights_are_written_out(constant, tmp_path):
    values = numpy_helper.from_array(np.array([1.0, 2.0, 3.0], np.float32), "w")
    sparse = helper.make_sparse_tensor(
        values, numpy_helper.from_array(np.array([0, 7, 19]), "i"), [4, 5]
    )
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    if constant:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=sparse))
    path = save(tmp_path / "net.onnx", nodes, [("x", FLOAT, ["n", 4])], [("y", FLOAT, ["n", 5])])
    if not constant:
        model = onnx.load(path)
        model.graph.sparse_initializer.append(sparse)
        onnx.save(model, path)
    check(path, tmp_path, {"x": floats(2, 4)})


def test_a_file_with_operators_of_another_domain_alone(tmp_path):
    node = helper.make_node(
        "LinearRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        coefficients=[1.0, 2.0, 3.0],
        intercepts=[0.5],
        targets=1,
    )
    path = save(tmp_path / "net.onnx", [node], [("x", FLOAT, ["n", 3])], [("y", FLOAT, ["n", 1])])
    model = onnx.load(path)
    model.opset_import[0].CopyFrom(helper.make_opsetid("ai.onnx.ml", 2))
    onnx.save(model, path)
    check(path, tmp_path, {"x": floats(2, 3)})


def test_the_standard_domain_by_its_long_name(tmp_path):
    node = helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")
    path = save(tmp_path / "net.onnx", [node], [("x", FLOAT, ["n", 3])], [("y", FLOAT, ["n", 3])])
    model = onnx.load(path)
    model.opset_import[0].domain = "ai.onnx"
    onnx.save(model, path)
    check(path, tmp_path, {"x": floats(2, 3)})


def test_sequences_inside_are_no_hindrance(tmp_path):
    path = save(
        tmp_path / "net.onnx",
        [
            helper.make_node("SequenceConstruct", ["a", "b"], ["s"]),
            helper.make_node("ConcatFromSequence", ["s"], ["c"], axis=1),
            helper.make_node("MatMul", ["c", "w"], ["y"]),
        ],
        [("a", FLOAT, ["n", 32]), ("b", FLOAT, ["n", 32])],
        [("y", FLOAT, ["n", 64])],
        {"w": floats(64, 64)},
    )
    manifest = check(path, tmp_path, {"a": floats(2, 32), "b": floats(2, 32)})
    assert not any("left out" in remark for remark in manifest.cut.remarks)


def test_what_is_no_tensor_at_the_boundary_is_refused_by_name(tmp_path):
    maps = helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, None))
    tensor = helper.make_tensor_type_proto(FLOAT, ["n", 2])
    kinds = {
        "sequence": helper.make_sequence_type_proto(tensor),
        "optional": helper.make_optional_type_proto(tensor),
        "map": maps,
        "sparse tensor": helper.make_sparse_tensor_type_proto(FLOAT, ["n", 2]),
    }
    for kind, proto in kinds.items():
        graph = helper.make_graph(
            relu_chain("x", "y"),
            "g",
            [helper.make_tensor_value_info("x", FLOAT, ["n", 2])],
            [helper.make_value_info("y", proto)],
        )
        onnx.save(helper.make_model(graph), tmp_path / "net.onnx")
        with pytest.raises(ExportError, match=f"output 'y' is a {kind}.*rule 'container'"):
            read_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize("dtype", ["BFLOAT16", "FLOAT8E4M3FN", "INT4", "STRING", "COMPLEX64"])
def test_dtypes_that_no_bundle_holds_are_refused_by_name(dtype, tmp_path):
    kind = getattr(TensorProto, dtype)
    path = save(
        tmp_path / "net.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", kind, ["n", 2])],
        [("y", kind, ["n", 2])],
    )
    with pytest.raises(ExportError, match=f"input 'x' is {dtype.lower()}.*rule 'dtype'"):
        read_onnx(path)


@pytest.mark.parametrize("dtype", ["INT16", "UINT16", "UINT32", "UINT64", "INT8", "DOUBLE"])
@pytest.mark.parametrize("rank", [0, 2])
def test_integers_of_any_width_cross_the_boundary(dtype, rank, tmp_path):
    kind = getattr(TensorProto, dtype)
    shape: list[object] = ["n", 2][:rank]
    path = save(
        tmp_path / "net.onnx",
        [
            helper.make_node("Identity", ["x"], ["y"]),
            helper.make_node("Cast", ["x"], ["z"], to=FLOAT),
        ],
        [("x", kind, shape)],
        [("y", kind, shape), ("z", FLOAT, shape)],
    )
    array = np.arange(6).reshape(3, 2) if rank else np.array(5)
    check(path, tmp_path, {"x": array.astype(helper.tensor_dtype_to_np_dtype(kind))})


def test_a_constant_has_nothing_to_run(tmp_path):
    path = save(
        tmp_path / "net.onnx",
        [helper.make_node("Neg", ["w"], ["y"])],
        [],
        [("y", FLOAT, [3])],
        {"w": floats(3)},
    )
    with pytest.raises(ExportError, match="rule 'no-inputs'"):
        read_onnx(path)


def test_batch_normalization_in_training_mode_is_refused(tmp_path):
    """ONNX Runtime writes the new statistics into the arrays that it is given."""
    names = ["x", "s", "b", "m", "v"]
    node = helper.make_node("BatchNormalization", names, ["y", "m2", "v2"], training_mode=1)
    path = save(
        tmp_path / "net.onnx",
        [node],
        [("x", FLOAT, [2, 3, 4]), *((name, FLOAT, [3]) for name in names[1:])],
        [("y", FLOAT, [2, 3, 4]), ("m2", FLOAT, [3]), ("v2", FLOAT, [3])],
    )
    with pytest.raises(ExportError, match="rule 'training'"):
        read_onnx(path)


def test_a_random_network_is_refused(tmp_path):
    path = save(
        tmp_path / "net.onnx",
        [helper.make_node("RandomUniformLike", ["x"], ["y"])],
        [("x", FLOAT, ["n", 2])],
        [("y", FLOAT, ["n", 2])],
    )
    with pytest.raises(ExportError, match="rule 'random'"):
        export(path, tmp_path / "b")


def test_a_bundle_is_called_after_its_file(tmp_path):
    path = save(
        tmp_path / "robot.onnx", relu_chain("x", "y"), [("x", FLOAT, [1])], [("y", FLOAT, [1])]
    )
    model = Model(path, {"x": Input(floats(1))}, ["y"])
    with export(model, tmp_path / "b") as bundle:
        assert bundle.manifest.name == "robot"
