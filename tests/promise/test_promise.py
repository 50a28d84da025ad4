"""Random networks: each is refused with a reason, or its bundle answers as torch does."""

from __future__ import annotations

import copy
import os

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmedge.bundle import Bundle
from mmedge_export import export
from mmedge_export.quantize import quantize
from mmedge_export.quantize.limits import MAX_ERROR
from mmedge_export.quantize.options import QuantizeOptions
from mmedge_export.targets.openvino.variant import add_openvino
from promise.judge import Collector, judge
from promise.networks import Random, networks

# A third of what other tests have: 33. `make promise` says a number.
EXAMPLES = int(os.environ.get("MMEDGE_EXAMPLES", settings.default.max_examples // 3))


def promise(share: float) -> settings:
    return settings(
        max_examples=max(1, round(EXAMPLES * share)),
        deadline=None,
        derandomize="MMEDGE_EXAMPLES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


#: A network costs a second, one in OpenVINO two, one in int8 five.
PROMISE, FEWER, FEWEST = promise(1), promise(0.25), promise(0.05)


def torch_reference(network):
    """Outputs of a fresh copy of the network, and how far float32 is from float64 there."""
    fresh, exact = copy.deepcopy(network.network), copy.deepcopy(network.network).double()

    def run(module, case, dtype):
        tensors = {}
        for name, value in case.items():
            tensor = torch.from_numpy(np.array(value))
            tensors[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        with torch.no_grad():
            return copy.deepcopy(module)(**tensors)

    def reference(case):
        try:
            outputs = run(fresh, case, torch.float32)
        except (RuntimeError, IndexError, ValueError):
            return None
        try:
            precise = run(exact, case, torch.float64)
        except (RuntimeError, IndexError, ValueError):
            precise = outputs
        names = [f"y{index}" for index in range(len(outputs))]
        noise = {
            name: np.nan_to_num((a.double() - b.double()).abs().numpy(), posinf=0)
            if a.shape == b.shape
            else None
            for name, a, b in zip(names, outputs, precise, strict=True)
        }
        return dict(zip(names, (o.numpy() for o in outputs), strict=True)), noise

    return reference


CUT, WHOLE = Collector("cut"), Collector("whole")
OPENVINO, INT8 = Collector("openvino"), Collector("int8")


@PROMISE
@given(random=networks, samples=st.booleans())
def test_a_random_network_is_refused_or_right(random: Random, samples):
    # A cut is held against the uncut graph when it is made, so most networks are cut.
    split = random.seed % 4 != 0
    verdict = judge(
        lambda path: export(random.model(samples=samples), path, split=split).close(),
        torch_reference(random),
        random.cases(8),
        backend="ort",
    )
    (CUT if split else WHOLE).take(verdict, random)


def add_openvino_variant(path):
    with Bundle.open(path) as opened:
        bundle, _ = add_openvino(opened)
        bundle.close()


@FEWER
@given(random=networks, samples=st.booleans())
def test_a_random_network_is_refused_or_right_in_openvino(random: Random, samples):
    reference = torch_reference(random)
    verdict = judge(
        lambda path: export(random.model(samples=samples), path).close(),
        reference,
        random.cases(8),
        prepare=add_openvino_variant,
        backend="openvino",
    )
    OPENVINO.take(verdict, random)


def add_int8(path):
    bundle, _ = quantize(path, options=QuantizeOptions(goal="size", max_error=MAX_ERROR, budget=8))
    bundle.close()


@FEWEST
@given(random=networks)
def test_a_random_network_in_int8_keeps_the_limit(random: Random):
    """On the golden samples, on which the gate judged; by a measure of the test's own."""
    reference = torch_reference(random)
    verdict = judge(
        lambda path: export(random.model(samples=True), path).close(),
        reference,
        random.cases(3, usual=True),
        prepare=add_int8,
        compare=within_limit,
        precision="int8",
    )
    INT8.take(verdict, random)


def within_limit(got, wanted, noise):
    """Errors as a share of the output's largest value."""
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return f"{got.dtype}{list(got.shape)} for {wanted.dtype}{list(wanted.shape)}"
    if not np.issubdtype(wanted.dtype, np.inexact):
        return ""  # a class may turn where two are as good as one
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    fills = (a == b) | (np.isnan(a) & np.isnan(b))
    kept = np.abs(b[~fills])
    worst = np.max(np.abs(a - b)[~fills], initial=0.0)
    limit = 1.05 * MAX_ERROR * np.max(kept, initial=0.0) + 1e-5
    return "" if worst <= limit else f"off by {worst:.3g}, allowed are {limit:.3g}"
