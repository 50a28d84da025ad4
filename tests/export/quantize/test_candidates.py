"""Which form of a node a plan takes, by how fast each was."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mmedge_export.quantize.choose_schemes import candidates, more_exact

ALL = ("static", "dynamic", "dynamic_tensor", "block8")


def chosen(speed):
    """The form that each of the two plans by speed gives to a node with these."""
    site = SimpleNamespace(node="n", op="MatMul", forms=ALL)
    plans = candidates(SimpleNamespace(sites=[site], speed={"n": speed}), ALL)
    every = plans["every node in its fastest form"]
    # Equal plans stand there once; one without a node in lower precision does not.
    faster = plans.get("nodes that are faster by themselves")
    return every["n"], faster["n"] if faster else None


@pytest.mark.parametrize(
    ("speed", "form"),
    [
        ({"static": 2.0, "dynamic": 1.5, "block8": 1.2}, "static"),
        # Nearly as fast: the more exact one.
        ({"static": 2.0, "dynamic": 1.95, "block8": 1.2}, "dynamic"),
        ({"static": 2.0, "dynamic_tensor": 1.98, "dynamic": 1.95}, "dynamic"),
        # But none that loses in the place of one that gains.
        ({"static": 1.03, "block8": 0.99}, "static"),
        ({"static": 0.9, "block8": 0.88}, "static"),
    ],
)
def test_the_most_exact_of_the_fastest(speed, form):
    every, faster = chosen(speed)
    assert every == form
    assert faster is None  # the same plan, or nothing


def test_plans_of_one_form_are_tried_whatever_its_nodes_were_by_themselves():
    sites = [
        SimpleNamespace(node="m", op="MatMul", forms=ALL),
        SimpleNamespace(node="c", op="Conv", forms=("static",)),
    ]
    speed = {"m": {"block8": 2.0, "dynamic_tensor": 1.9, "dynamic": 1.5}, "c": {"static": 1.2}}
    plans = candidates(SimpleNamespace(sites=sites, speed=speed), ALL)
    for form in ("dynamic", "dynamic_tensor"):
        assert {"m": form, "c": "static"} in plans.values()
    assert {"m": "block8", "c": "static"} in plans.values()


def test_a_nearly_as_fast_plan_with_finer_scales_is_taken():
    plans = {
        "coarse": {"m": "dynamic_tensor", "n": "dynamic_tensor", "c": "static"},
        "mixed": {"m": "dynamic", "n": "dynamic_tensor", "c": "static"},
        "fine": {"m": "dynamic", "n": "dynamic", "c": "static"},
        "other": {"m": "block8", "n": "dynamic", "c": "float"},
    }
    assert more_exact("coarse", ["coarse", "mixed", "fine", "other"], plans) == "fine"
    assert more_exact("coarse", ["coarse", "mixed", "other"], plans) == "mixed"
    assert more_exact("coarse", ["other"], plans) == "coarse"
    assert more_exact("other", ["other", "fine"], plans) == "other"


def test_a_convolution_that_cannot_be_static_stays_float():
    """Of an old opset that could not be converted: a plan with it would have no ranges."""
    sites = [
        SimpleNamespace(node="m", op="MatMul", forms=("dynamic", "block8")),
        SimpleNamespace(node="c", op="Conv", forms=()),
    ]
    speed = {"m": {"dynamic": 2.0, "block8": 1.5}, "c": {}}
    plans = candidates(SimpleNamespace(sites=sites, speed=speed), ALL)
    assert plans
    assert {plan["c"] for plan in plans.values()} == {"float"}
