"""One framework's ways to compute segmented attention, in a process of its own.

Thread pools of several frameworks in one process disturb each other, so ``benchmarks/attention.py``
starts this file once for each framework and asks it over pipes, one JSON line a question: to set a
problem up (answered by the error of each way against the reference), and to time a block of calls.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from time import perf_counter_ns, sleep
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge import native
from mmedge.testing import AttentionCase, Inputs, make_inputs, reference

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Seconds to wait before a block, for the threads of whoever ran last to stop spinning.
PAUSE_S = 0.02
UNTIMED = 3


@dataclass(frozen=True)
class Problem:
    """One problem as segments, and as one buffer with a mask for those who need that.

    ``mask`` is what of the buffer's keys takes part, bool ``[B, L]``, or None for all; ``masks`` is
    the same of each segment, of the length that it has for us.
    """

    inputs: Inputs
    q: NDArray[np.float32]  # [B, H, Lq, D]
    k: NDArray[np.float32]  # [B, H, L, D]
    v: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    masks: list[NDArray[np.bool_]]
    wanted: NDArray[np.float64]  # [B, H, Lq, D]


def make_problem(case: AttentionCase, absent: tuple[int, ...]) -> Problem:
    """Inputs of ``case``, of which the segments ``absent`` are lost.

    Lost ones have length 0 for us and are masked in the buffer for the others.
    """
    whole = make_inputs(replace(case, layout="bhsd"))
    valid, lens = (whole.options.get(name) for name in ("key_valid", "lens"))
    masks = []
    for s, length in enumerate(case.lengths):
        taken = np.full((case.batch, length), s not in absent, np.bool_)
        if valid is not None and valid[s] is not None:
            taken &= valid[s]
        if lens is not None and lens[s] is not None:
            taken &= np.arange(length) < lens[s][:, None]
        masks.append(taken)
    mask = np.concatenate(masks, 1)
    k, v = (
        [x[:, :0] if s in absent else x for s, x in enumerate(parts)]
        for parts in (whole.k, whole.v)
    )
    options = dict(whole.options)
    if valid is not None:
        options["key_valid"] = [
            None if m is None else m[:, : k[s].shape[1]] for s, m in enumerate(valid)
        ]
    inputs = Inputs(whole.q, tuple(k), tuple(v), options)
    wanted, _ = reference(inputs.q, inputs.k, inputs.v, **options)
    q, keys, values = (
        np.ascontiguousarray(np.concatenate(parts, 1).transpose(0, 2, 1, 3))
        for parts in ([whole.q], whole.k, whole.v)
    )
    return Problem(
        inputs,
        q,
        keys,
        values,
        None if mask.all() else mask,
        [taken[:, : k[s].shape[1]] for s, taken in enumerate(masks)],
        wanted.transpose(0, 2, 1, 3),
    )


def heads_first(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """``[B, L, H, D]`` as contiguous ``[B, H, L, D]``."""
    return np.ascontiguousarray(values.transpose(0, 2, 1, 3))


def merged(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """``[B, H, L, D]`` as ``[B, L, H * D]``."""
    b, h, rows, d = values.shape
    return np.ascontiguousarray(values.transpose(0, 2, 1, 3)).reshape(b, rows, h * d)


def split(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """The opposite of :func:`merged`."""
    b, rows, width = values.shape
    return values.reshape(b, rows, heads, width // heads).transpose(0, 2, 1, 3)


class Mmedge:
    """The C API, with a pool of its own."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.version = {"instruction set": native.cpu_isa()}

    def ways(self, problem: Problem) -> dict[str, tuple[Any, Any]]:
        """Name -> call, and what reads its output ``[B, H, Lq, D]``."""
        inputs = problem.inputs
        made = native.prepare(inputs.q, inputs.k, inputs.v, **inputs.options)
        return {
            "mmedge": (lambda: made.run(self.threads), lambda _: made.out.transpose(0, 2, 1, 3))
        }


class Torch:
    """torch in eager mode."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch = torch
        self.version = {"torch": torch.__version__}

    def ways(self, problem: Problem) -> dict[str, tuple[Any, Any]]:
        """Name -> call, and what reads its output ``[B, H, Lq, D]``."""
        torch = self.torch
        attend = torch.nn.functional.scaled_dot_product_attention
        q, k, v = (torch.from_numpy(x) for x in (problem.q, problem.k, problem.v))
        mask = None if problem.mask is None else torch.from_numpy(problem.mask)[:, None, None]
        parts = [
            [torch.from_numpy(heads_first(x)) for x in xs]
            for xs in (problem.inputs.k, problem.inputs.v)
        ]
        masks = [torch.from_numpy(x) for x in problem.masks]

        def concat() -> Any:  # noqa: ANN401
            joined = None if problem.mask is None else torch.cat(masks, 1)[:, None, None]
            return attend(q, torch.cat(parts[0], 2), torch.cat(parts[1], 2), joined)

        return {
            "torch: concat + mask + SDPA": (concat, lambda out: out.numpy()),
            "torch: SDPA, one buffer": (lambda: attend(q, k, v, mask), lambda out: out.numpy()),
        }


class Ort:
    """ONNX Runtime, inputs and outputs bound."""

    def __init__(self, threads: int) -> None:
        import onnxruntime as ort

        self.ort, self.threads = ort, threads
        self.version = {"onnxruntime": ort.__version__}

    def ways(self, problem: Problem) -> dict[str, tuple[Any, Any]]:
        """Name -> call, and what reads its output ``[B, H, Lq, D]``."""
        heads = problem.q.shape[1]
        segments, kind = self._segments(problem)
        model = segmented_model(len(problem.inputs.k), kind, segments, problem.q.shape[3])
        found = {
            "mmedge in ONNX Runtime": self._bind(model, segments, kernels=True),
            "ONNX Runtime: body": self._bind(model, segments),
        }
        four = {"q": problem.q, "k": problem.k, "v": problem.v}
        three = {name: merged(value) for name, value in four.items()}
        mask = problem.mask
        if mask is not None:
            # ONNX Runtime's CPU kernel takes no mask that repeats over queries.
            wide = (mask.shape[0], 1, problem.q.shape[2], mask.shape[1])
            four["mask"] = three["mask"] = np.ascontiguousarray(
                np.broadcast_to(mask[:, None, None], wide)
            )
        found["ONNX Runtime: Attention, 4 axes"] = self._bind(attention_model(four, None), four)
        bound = self._bind(attention_model(three, heads), three)
        found["ONNX Runtime: Attention, 3 axes"] = (
            bound[0],
            lambda out: split(bound[1](out), heads),
        )
        many = {name: value for name, value in three.items() if name != "mask"}
        if mask is not None:
            many["bias"] = np.where(four["mask"], np.float32(0), np.float32(-1e30))
        multi, read_multi = self._bind(multi_head_model(many, heads), many)
        found["ONNX Runtime: MultiHeadAttention"] = multi, lambda x: split(read_multi(x), heads)
        return found

    def _segments(self, problem: Problem) -> tuple[dict[str, NDArray[np.float32]], str]:
        inputs = problem.inputs
        values = {"q": problem.q}
        for letter, parts in (("k", inputs.k), ("v", inputs.v)):
            values |= {f"{letter}{i}": heads_first(x) for i, x in enumerate(parts)}
        if all(mask.all() for mask in problem.masks):
            return values, ""
        for i, mask in enumerate(problem.masks):
            zero, lost = np.float32(0), np.float32(-np.inf)
            values[f"bias{i}"] = np.where(mask, zero, lost)[:, None, None]
        return values, "Guarded"

    def _bind(
        self,
        model: bytes,
        feeds: dict[str, Any],
        *,
        kernels: bool = False,
    ) -> tuple[Any, Any]:
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 4
        if kernels:
            options.register_custom_ops_library(str(native.library().path))
        session = self.ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        for name, value in feeds.items():
            binding.bind_ortvalue_input(name, self.ort.OrtValue.ortvalue_from_numpy(value))
        binding.bind_output("y")
        session.run_with_iobinding(binding)
        # Written where the first run put it: no output is allocated while it is timed.
        binding.bind_ortvalue_output("y", binding.get_outputs()[0])

        def call() -> None:
            session.run_with_iobinding(binding)

        return call, lambda _: binding.copy_outputs_to_cpu()[0]


class OpenVino:
    """OpenVINO on the CPU, for latency."""

    def __init__(self, threads: int) -> None:
        import openvino

        self.ov, self.threads = openvino, threads
        self.version = {"openvino": openvino.__version__.split("-")[0]}

    def ways(self, problem: Problem) -> dict[str, tuple[Any, Any]]:
        """Name -> call, and what reads its output ``[B, H, Lq, D]``."""
        from openvino import opset13 as ops

        feeds = {"q": problem.q, "k": problem.k, "v": problem.v}
        if problem.mask is not None:
            zero, lost = np.float32(0), np.float32(-np.inf)
            feeds["mask"] = np.where(problem.mask[:, None, None], zero, lost)
        parameters = [ops.parameter(x.shape, np.float32, name=n) for n, x in feeds.items()]
        node = ops.scaled_dot_product_attention(*parameters, causal=False)
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        model = self.ov.Model([node], parameters)
        request = self.ov.Core().compile_model(model, "CPU", settings).create_infer_request()
        for number, value in enumerate(feeds.values()):
            request.set_input_tensor(number, self.ov.Tensor(value, shared_memory=True))

        def read(_: object) -> NDArray[np.float32]:
            # The request has addresses alone: what they point to lives as long as this function.
            assert feeds  # noqa: S101
            return np.array(request.get_output_tensor(0).data)

        return {"OpenVINO: SDPA, one buffer": (request.infer, read)}


def segmented_model(segments: int, kind: str, feeds: dict[str, Any], dim: int) -> bytes:
    """One node of segmented attention with its function."""
    import onnx_ir as ir

    from mmedge_export.partition.attention_function import attention_function

    function = attention_function(segments, kind, 20)
    inputs = [ir.val(name, ir.DataType.FLOAT, value.shape) for name, value in feeds.items()]
    node = ir.node(function.name, inputs, {"scale": dim**-0.5}, domain="mmedge")
    out = node.outputs[0]
    out.name, out.type, out.shape = "y", inputs[0].type, ir.Shape(list(feeds["q"].shape))
    graph = ir.Graph(inputs, [out], nodes=[node], opset_imports={"": 20, "mmedge": 1}, name="g")
    model: bytes = ir.serde.serialize_model(
        ir.Model(graph, ir_version=10, functions=[function])
    ).SerializeToString()
    return model


def _one_node(node: Any, feeds: dict[str, Any], imports: dict[str, int]) -> bytes:  # noqa: ANN401
    from onnx import TensorProto, helper

    inputs = [
        helper.make_tensor_value_info(
            name, TensorProto.BOOL if value.dtype == np.bool_ else TensorProto.FLOAT, value.shape
        )
        for name, value in feeds.items()
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, feeds["q"].shape)
    model: bytes = helper.make_model(
        helper.make_graph([node], "g", inputs, [out]),
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in imports.items()],
        ir_version=10,
    ).SerializeToString()
    return model


def attention_model(feeds: dict[str, Any], heads: int | None) -> bytes:
    """ONNX's own Attention of opset 23, on one buffer."""
    from onnx import helper

    extra: dict[str, Any] = {} if heads is None else {"q_num_heads": heads, "kv_num_heads": heads}
    node = helper.make_node("Attention", list(feeds), ["y"], **extra)
    return _one_node(node, feeds, {"": 23})


def multi_head_model(feeds: dict[str, Any], heads: int) -> bytes:
    """ONNX Runtime's MultiHeadAttention, on one buffer."""
    from onnx import helper

    names = ["q", "k", "v", *(["", "", "bias"] if "bias" in feeds else [])]
    node = helper.make_node(
        "MultiHeadAttention", names, ["y"], domain="com.microsoft", num_heads=heads
    )
    return _one_node(node, feeds, {"": 20, "com.microsoft": 1})


FRAMEWORKS: dict[str, type[Any]] = {
    "mmedge": Mmedge,
    "onnxruntime": Ort,
    "torch": Torch,
    "openvino": OpenVino,
}


def main() -> None:
    """Answer questions until there are none."""
    parser = argparse.ArgumentParser()
    parser.add_argument("framework", choices=FRAMEWORKS)
    parser.add_argument("threads", type=int)
    parser.add_argument("--isa", help="instruction set of our kernel; the best by default")
    arguments = parser.parse_args()
    if arguments.isa is not None:
        native.use_isa(arguments.isa)
    made = FRAMEWORKS[arguments.framework](arguments.threads)
    answer({"version": made.version})
    ways: dict[str, tuple[Any, Any]] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "case" in question:
            fields: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in question["case"].items()
            }
            problem = make_problem(AttentionCase(**fields), tuple(question["absent"]))
            ways = made.ways(problem)
            errors = {}
            for name, (call, read) in ways.items():
                got = np.asarray(read(call()))
                errors[name] = float(np.abs(got - problem.wanted).max(initial=0.0))
            answer({"errors": errors})
        else:
            answer({"ns": time(ways[question["way"]][0], question["calls"])})


def time(call: Any, calls: int) -> list[int]:  # noqa: ANN401
    """Nanoseconds of each call."""
    sleep(PAUSE_S)
    for _ in range(UNTIMED):
        call()
    found = []
    for _ in range(calls):
        start = perf_counter_ns()
        call()
        found.append(perf_counter_ns() - start)
    return found


def answer(data: dict[str, Any]) -> None:
    """One line to the asker."""
    print(json.dumps(data), flush=True)


if __name__ == "__main__":
    main()
