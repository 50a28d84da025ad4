"""Holds libmmedge, the runtime in C++, to the cases, and prints what differs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from case_files import CASES, read, read_tensors
from run_python import BUNDLES, differ

from mmedge.errors import AccuracyError, BundleError, MMEdgeError
from mmedge.native.runtime import NativeBundle, NativePipeline, NativeState

__all__ = ["CHECKS", "check_hostile"]


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
    """Single calls of bundles without loop, on tensors."""
    faults: list[str] = []
    for path in sorted((CASES / "calls").glob("*.json")):
        content, tensors = read(path), read_tensors(path)
        pipes: dict[Any, NativePipeline] = {}
        states: dict[str, NativeState] = {}
        with NativeBundle(BUNDLES / f"{content['bundle']}.mmedge") as bundle:
            if _is_left_out(bundle):
                continue
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
            faults += _compare(f"{path.stem}: {case['name']}", case, tensors, run)
        for state in states.values():
            state.close()
        for pipe in pipes.values():
            pipe.close()
    return faults


def _compare(
    where: str, case: dict[str, Any], tensors: Any, run: Callable[[], dict[str, Any]]
) -> list[str]:
    try:
        outputs = run()
    except MMEdgeError as error:
        got = type(error).__name__
        return [] if got == case.get("error") else [f"{where}: {got}: {error}"]
    if "error" in case:
        return [f"{where}: no {case['error']}"]
    if list(outputs) != list(case["outputs"]):
        return [f"{where}: outputs {list(outputs)}"]
    return [
        f"{where}: output {name}"
        for name, key in case["outputs"].items()
        if differ(outputs[name], tensors[key])
    ]


def check_verification() -> list[str]:
    """What a verification finds, and what loading refuses by it."""
    faults = []
    for case in read(CASES / "rules" / "verification.json")["cases"]:
        with NativeBundle(BUNDLES / f"{case['bundle']}.mmedge") as bundle:
            if _is_left_out(bundle):
                continue
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


def _is_left_out(bundle: NativeBundle) -> bool:
    """Whether libmmedge refuses to load it, as its page says."""
    manifest = bundle.manifest()
    return bool(manifest["loops"])


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
    "verification": check_verification,
}


def main() -> None:
    """Run every check."""
    faults = []
    for name, check in CHECKS.items():
        found = check()
        print(f"{name}: {len(found)} faults")
        faults += found
    print("\n".join(faults))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
