"""Rules that need no network: constraints and sizes, differences, verification."""

from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from case_files import Tensors, write

import mmedge
from mmedge.constraints import Relations, parse
from mmedge.execution.verify import verify
from mmedge.spec import Constraint, Dimension, Tolerance
from mmedge.tolerance import OutputComparison

__all__ = ["write_rules"]

NAMES = ("n", "m", "batch_1")

EXPRESSIONS = (
    "n == 1",
    "n // 0 == 0",
    "n % 0 == 1 or n == 2",
    "n == 2 or n % 0 == 1",
    "-7 // 2 == -4",
    "-7 % 2 == 1",
    "7 % -2 == -1",
    "min(n, m, 3) <= max(1, m)",
    "not n > m and m != 0",
    "not (n > m and m != 0)",
    "9223372036854775807 + n > 0",
    "n * 9223372036854775807 >= n",
    "- - n == n",
    "n<=m",
    "((((n))))==(m)",
    "batch_1 * 2 - n * -1 >= m % 3",
    "0 - 9223372036854775807 - 1 < 0",
)

#: What is no relation.
MALFORMED = (
    "",
    "n",
    "n + 1",
    "n == m == 1",
    "1 < n < 3",
    "n = 1",
    "n == 1 and",
    "(n == 1",
    "n == 1)",
    "min(n) == 1",
    "min(n, m == 1) == 1",
    "and == 1",
    "not n",
    "n == 9223372036854775808",
    "n ** 2 == 4",
    "n / 2 == 1",
    "n == 1.5",
    "n == 0x1",
    "\u0663 == 3",
    "n\t== 1",
    "n == '1'",
    "f(n) == 1",
    "n or m",
    "-" * 40 + "n == 1",
    "(" * 40 + "n == 1" + ")" * 40,
    "n == 00012 or",
)


def expression(rng: random.Random, depth: int = 0) -> str:
    """A random relation."""

    def number(depth: int) -> str:
        kind = rng.randrange(9) if depth < 4 else rng.randrange(2)
        if kind == 0:
            return str(rng.choice([0, 1, 2, 3, 7, 10, 2**31, 2**62]))
        if kind == 1:
            return rng.choice(NAMES)
        if kind == 2:
            return f"-{number(depth + 1)}"
        if kind == 3:
            return f"({number(depth + 1)})"
        if kind == 4:
            return f"{rng.choice(['min', 'max'])}({number(depth + 1)}, {number(depth + 1)})"
        return f"{number(depth + 1)} {rng.choice(['+', '-', '*', '//', '%'])} {number(depth + 1)}"

    kind = rng.randrange(5) if depth < 3 else 4
    if kind == 0:
        return f"not ({expression(rng, depth + 1)})"
    if kind in (1, 2):
        word = ("and", "or")[kind - 1]
        return f"({expression(rng, depth + 1)}) {word} {expression(rng, depth + 1)}"
    compare = rng.choice(["==", "!=", "<", "<=", ">", ">="])
    return f"{number(1)} {compare} {number(1)}"


def write_rules(folder: Path, bundles: Path) -> None:
    """Write the files to ``folder``."""
    _write_constraints(folder)
    _write_sizes(folder)
    _write_differences(folder)
    _write_verification(folder, bundles)


def _write_constraints(folder: Path) -> None:
    rng = random.Random(3)
    cases: list[dict[str, Any]] = []
    for text in (*EXPRESSIONS, *(expression(rng) for _ in range(60))):
        relation = parse(text)
        sizes = [{name: rng.choice([0, 1, 2, 3, 5, 12, 2**31]) for name in NAMES} for _ in range(6)]
        sizes.append(dict(zip(NAMES, (2, 4, 1), strict=True)))
        cases.append({
            "expression": text, "names": sorted(relation.names), "sizes": sizes,
            "holds": [relation.holds(each) for each in sizes],
        })  # fmt: skip
    for text in MALFORMED:
        try:
            parse(text)
        except ValueError:
            cases.append({"expression": text, "malformed": True})
        else:
            raise AssertionError(text)
    write(folder / "constraints.json", {"cases": cases})


def _write_sizes(folder: Path) -> None:
    """Completed sizes of what is absent."""
    cases: list[dict[str, Any]] = []
    for dimensions, constraints, given in (
        ({"a": (1, 4, 9, 1), "b": (0, 4, None, 2)}, [], {"a": 3}),
        ({"a": (1, 4, 9, 1), "b": (0, 4, None, 2)}, ["a == b"], {"a": 4}),
        ({"a": (1, 4, 9, 1), "b": (0, 4, None, 2)}, ["a == b"], {"a": 5}),
        ({"a": (1, 4, 9, 1), "b": (1, 4, 100, 1)}, ["b % 7 == 5"], {}),
        ({"a": (1, 4, 500, 1), "b": (1, 4, 500, 1)}, ["b == a + 1"], {"a": 300}),
        ({"a": (1, 4, 500, 1), "b": (1, 4, 500, 1)}, ["b == a + 2"], {"a": 300}),
        ({"x": (1, 1, 64, 1), "y": (1, 1, 64, 1), "z": (1, 1, 64, 1)}, ["x + y == z", "x > y"], {}),
        ({"x": (1, 1, 64, 1), "y": (1, 1, 64, 1), "z": (1, 1, 64, 1)}, ["z == 2 * x", "y > 60"],
         {"x": 30}),
        ({"x": (1, 1, 80, 1), "y": (1, 1, 80, 1)}, ["x > 70"], {}),
        ({"x": (3, 3, None, 3), "y": (2, 4, 1000, 2), "w": (1, 1, 1, 1)}, ["x * 2 == y * 3"], {}),
    ):  # fmt: skip
        limits = {name: Dimension(*limit) for name, limit in dimensions.items()}
        relations = Relations(limits, [Constraint(text, "line") for text in constraints])
        sizes = relations.complete(given)
        cases.append({
            "dimensions": {n: asdict(limit) for n, limit in limits.items()},
            "constraints": constraints, "given": given,
            "sizes": sizes if relations.holds(sizes) else None,
        })  # fmt: skip
    write(folder / "sizes.json", {"cases": cases})


def _write_differences(folder: Path) -> None:
    """Golden tensors and others: the largest share of the limit that an element takes."""
    rng = np.random.default_rng(8)
    tensors, cases = Tensors(), []

    def add(
        name: str, golden: list[np.ndarray], got: list[np.ndarray], rtol: float, atol: float
    ) -> None:
        comparison = OutputComparison(Tolerance(rtol, atol))
        for one, other in zip(got, golden, strict=True):
            comparison.add(one, other)
        worst = comparison.result()
        number = len(cases)
        cases.append({
            "name": name, "rtol": rtol, "atol": atol,
            "golden": [tensors.put(f"{number}.golden.{i}", a) for i, a in enumerate(golden)],
            "got": [tensors.put(f"{number}.got.{i}", a) for i, a in enumerate(got)],
            "passes": worst.limit_used <= 1,
            # None: infinite.
            "limit_used": worst.limit_used if np.isfinite(worst.limit_used) else None,
        })  # fmt: skip

    def near(array: np.ndarray, by: float) -> np.ndarray:
        noise = rng.uniform(-by, by, array.shape)
        return (array + noise * np.abs(array).max(initial=0)).astype(array.dtype)

    for dtype in (np.float16, np.float32, np.float64):
        for shape in ((7,), (3, 5), (2, 3, 4), (1, 4, 3, 5)):
            golden = [rng.normal(size=shape).astype(dtype) for _ in range(2)]
            name = f"{np.dtype(dtype)} {list(shape)}"
            add(name, golden, [near(a, 0.004) for a in golden], 4e-3, 1e-6)
    rows = rng.normal(size=(6, 8)).astype(np.float32)
    rows *= np.float32(10.0) ** -np.arange(6, dtype=np.float32)[:, None]
    add("rows of other sizes", [rows], [rows * np.float32(1.002)], 1e-3, 0)
    add("rows of other sizes, near the largest", [rows], [rows + np.float32(1e-4)], 1e-3, 0)
    small = rng.normal(size=(4, 8)).astype(np.float32)
    channels = small * np.array([1, 1, 1, 1, 1e-3, 1e-3, 1e-3, 1e-3], np.float32)
    add("channels of two groups", [channels], [channels + np.float32(1e-4)], 1e-3, 0)
    add(
        "a channel of one small value",
        [small * [1, 1, 1, 1, 1, 1, 1, 1e-5]],
        [small * [1, 1, 1, 1, 1, 1, 1, 2e-5]],
        1e-3,
        0,
    )
    filled = small.copy()
    filled[1, 3] = -1e9
    add("fill value", [filled], [near(small, 1e-3) + (filled - small)], 1e-2, 0)
    add("fill value that is off", [filled], [np.where(filled < -1, filled * 1.01, filled)], 1e-3, 0)
    odd = np.array([1, np.nan, np.inf, -np.inf, 0], np.float32)
    add("NaN and infinities in their places", [odd], [odd], 0, 0)
    add("NaN elsewhere", [odd], [odd[::-1].copy()], 1, 1)
    add("infinity of another sign", [odd], [np.abs(odd)], 1, 1)
    whole = np.arange(6).reshape(2, 3)
    add("integers", [whole], [whole.copy()], 0.5, 5)
    add("integers that are off", [whole], [whole + (whole == 4)], 0.5, 5)
    add("booleans", [whole > 2], [whole > 2], 0, 0)
    shares = np.array([[0.9, 0.09, 0.009, 0.001]], np.float32)
    add("shares", [shares], [shares + np.float32(5e-4)], 1e-3, 0)
    add("zeros", [np.zeros((2, 2), np.float32)], [np.full((2, 2), 1e-7, np.float32)], 1e-3, 1e-6)
    add("no elements", [np.zeros((0, 2), np.float32)], [np.zeros((0, 2), np.float32)], 0, 0)
    write(folder / "differences.json", {"cases": cases}, tensors)


def _write_verification(folder: Path, bundles: Path) -> None:
    """Which outputs of which stages a verification looks at, and whether it passes."""
    cases = []
    for bundle, variant, plan in (
        ("attention", None, None), ("both", None, "cut"), ("both", None, "whole"),
        ("captioner", None, None), ("decoder", "ort-fp32-cpu", None),
        ("decoder", "ort-fp32-cpu-in_place", None), ("floats", None, None), ("off", None, None),
        ("painter", None, None), ("state", None, None), ("sums", None, None), ("tiny", None, None),
        ("variants", "ort-fp32-cpu", "cut"),
    ):  # fmt: skip
        path = bundles / f"{bundle}.mmedge"
        with mmedge.load(
            path, variant, plan=plan, threads=1, kernels=False, backend="ort", device="cpu",
            allow_unverified=True,
        ) as pipe:  # fmt: skip
            told = verify(pipe)
            cases.append({
                "bundle": bundle, "variant": told.variant, "plan": told.plan, "passes": told.ok,
                "samples": told.samples,
                "rows": [
                    {"stage": row.stage, "output": row.output, "passes": row.ok}
                    for row in told.rows
                ],
            })  # fmt: skip
    write(folder / "verification.json", {"cases": cases})
