"""Holds libmmedge, the runtime in C++, to the cases, and prints what differs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import run_python
from case_files import CASES, read, read_tensors
from native_streams import check_streams
from run_python import BUNDLES, differ

from mmedge.errors import AccuracyError, BundleError
from mmedge.native.runtime import NativeBundle, NativePipeline, NativeState

__all__ = ["CHECKS", "check_hostile"]

#: Kinds of errors are Python's, and their words need not be.
compare_run = partial(run_python.compare_run, messages=False)


def check_bundles() -> list[str]:
    """Every bundle opens, and both forms of one are the same."""
    faults = []
    for path in sorted(BUNDLES.iterdir()):
        with NativeBundle(path) as bundle:
            bundle.verify()
            if path.is_dir():
                with NativeBundle(path.with_suffix(".mmedge")) as other:
                    if other.digest != bundle.digest:
                        faults.append(f"{path.name}: another digest than the zip's")
    return faults


def check_calls() -> list[str]:
    """Single calls, on tensors."""
    faults: list[str] = []
    for path in sorted((CASES / "calls").glob("*.json")):
        content, tensors = read(path), read_tensors(path)
        pipes: dict[Any, NativePipeline] = {}
        states: dict[str, NativeState] = {}
        for case in content["cases"]:
            if case["texts"]:
                continue
            key = case["plan"], case["allow_non_finite"]
            if key not in pipes:
                with NativeBundle(BUNDLES / f"{content['bundle']}.mmedge") as bundle:
                    pipes[key] = NativePipeline(
                        bundle, variant=content["variant"], plan=key[0], threads=1, kernels=0,
                        allow_non_finite=key[1],
                    )  # fmt: skip
            inputs = {name: tensors[case["inputs"][name]] for name in case["order"]}
            state = None
            if case["state"] is not None:
                if case["state"] not in states:
                    states[case["state"]] = pipes[key].state()
                state = states[case["state"]]
            run = partial(pipes[key].run, inputs, state=state)
            faults += compare_run(f"{path.stem}: {case['name']}", case, tensors, run)
        for state in states.values():
            state.close()
        for pipe in pipes.values():
            pipe.close()
    return faults


def check_loops() -> list[str]:
    """Runs of loops on tensors; see :func:`count_left_out`."""
    faults: list[str] = []
    for path in sorted((CASES / "loops").glob("*.json")):
        content, tensors = read(path), read_tensors(path)
        if not any(is_run(case) for case in content["cases"] if "bundle" in content):
            continue
        cases = list(filter(is_run, content["cases"]))
        for variant in dict.fromkeys(case["variant"] for case in cases):
            with NativeBundle(BUNDLES / f"{content['bundle']}.mmedge") as bundle:
                pipe = NativePipeline(
                    bundle, variant=variant, threads=1, kernels=0, allow_unverified=1, cache=0
                )
            with pipe:
                pipe.reserve(8, 64)
                states: dict[str, NativeState] = {}
                for case in cases:
                    if case["variant"] != variant:
                        continue
                    if case["state"] is not None and case["state"] not in states:
                        states[case["state"]] = pipe.state()
                    state = states.get(case["state"])
                    faults += _compare_loop(path.stem, case, tensors, pipe, state)
                for state in states.values():
                    state.close()
    return faults


def is_run(case: dict[str, Any]) -> bool:
    """Whether libmmedge runs the case: it makes no tokens of texts."""
    return not case["texts"]


def count_left_out() -> dict[str, int]:
    """Cases of loops that are not run, by why."""
    counts = {"texts": 0}
    for path in sorted((CASES / "loops").glob("*.json")):
        for case in read(path)["cases"] if "bundle" in read(path) else ():
            counts["texts"] += bool(case["texts"])
    return counts


def _compare_loop(
    where: str, case: dict[str, Any], tensors: Any, pipe: NativePipeline, state: NativeState | None
) -> list[str]:
    where = f"{where}: {case['name']}"
    options = dict(case["options"])
    options |= {name: tensors[case[name]] for name in ("forced", "noise") if name in case}
    inputs = {name: tensors[key] for name, key in case["inputs"].items()}
    steps: list[Any] = []
    finish: list[str] = []

    def run() -> dict[str, Any]:
        pipe.begin(inputs, cached=False, state=state, **options)
        steps.extend(pipe.steps())
        words = case.get("finish", "")
        outputs, words = pipe.result(1 if isinstance(words, str) else len(words))
        finish.extend(words)
        return outputs

    faults = compare_run(where, case, tensors, run)
    expected = case.get("finish")
    if "error" not in case and finish != ([expected] if isinstance(expected, str) else expected):
        faults.append(f"{where}: {finish}")
    if "latents" in case and steps:
        latents = tensors[case["latents"]]
        got = np.stack([step.latent for step in steps]).reshape(-1, *latents.shape[1:])
        if differ(got, latents):
            faults.append(f"{where}: latents")
    if (
        "scores" in case
        and steps
        and differ(np.stack([s.scores for s in steps], 1), tensors[case["scores"]])
    ):
        faults.append(f"{where}: scores")
    return faults


def check_verification() -> list[str]:
    """What a verification finds, and what loading refuses by it."""
    faults = []
    for case in read(CASES / "rules" / "verification.json")["cases"]:
        with NativeBundle(BUNDLES / f"{case['bundle']}.mmedge") as bundle:
            pipe = NativePipeline(
                bundle, variant=case["variant"], plan=case["plan"], threads=1, kernels=0,
                allow_unverified=1,
            )  # fmt: skip
        with pipe:
            rows = pipe.verify()
        got = [{"stage": r.stage, "output": r.output, "passes": r.passes} for r in rows]
        if got != case["rows"]:
            faults.append(f"verification of {case['bundle']}: {rows}")
    try:
        with NativeBundle(BUNDLES / "off.mmedge") as bundle:
            NativePipeline(bundle, threads=1).close()
        faults.append("off.mmedge is loaded")
    except AccuracyError:
        pass
    return faults


def check_hostile(folder: Path) -> list[str]:
    """Hostile bundles that ``make.py --hostile`` wrote."""
    faults = []
    for case in read(folder / "hostile.json")["cases"]:
        try:
            with NativeBundle(folder / case["path"]) as bundle:
                if case["late"]:
                    bundle.verify()
        except BundleError:
            continue
        faults.append(f"hostile bundle {case['path']} is taken: {case['name']}")
    return faults


#: By name, what returns the faults.
CHECKS: dict[str, Callable[[], list[str]]] = {
    "bundles": check_bundles,
    "calls": check_calls,
    "loops": check_loops,
    "verification": check_verification,
}


def main() -> None:
    """Run every check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--streams",
        type=Path,
        metavar="PROGRAM",
        help="plays schedules of streams by stream_probe, which cmake -DMMEDGE_TESTS=ON builds",
    )
    parser.add_argument(
        "--schedules", type=Path, metavar="FILE", help="of make.py --schedules; else the cases"
    )
    options = parser.parse_args()
    faults = []
    if options.streams is not None:
        files = {} if options.schedules is None else {"schedules": options.schedules}
        faults = check_streams(options.streams, **files)
        print(f"streams: {len(faults)} faults")
    else:
        print("streams: not played; --streams names the program that does")
    for name, check in CHECKS.items():
        found = check()
        print(f"{name}: {len(found)} faults")
        faults += found
    left_out = ", ".join(f"{count} with {why}" for why, count in count_left_out().items())
    print(f"loops that are left out: {left_out}")
    print("\n".join(faults))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
