"""Holds the Python runtime to the cases, and prints what differs."""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from case_choices import choose_all
from case_files import CASES, read, read_tensors, versions
from signature_files import decide, read_tiny, write_case
from stream_player import load as load_for_streams
from stream_player import play

import mmedge
from mmedge.bundle import Bundle
from mmedge.constraints import Relations, parse
from mmedge.errors import AccuracyError, BundleError, MMEdgeError
from mmedge.execution.detokenize import detokenizer
from mmedge.execution.inputs import Feeds
from mmedge.execution.random_numbers import normal, uniform
from mmedge.execution.sampling import Sampling, choose
from mmedge.execution.verify import verify
from mmedge.spec import Constraint, Dimension, RuntimeName, Tolerance
from mmedge.tolerance import OutputComparison

__all__ = ["CHECKS"]

BUNDLES = CASES / "bundles"


@cache
def has_same_bits() -> bool:
    """Whether outputs here must be those of the cases to the last bit."""
    return bool(read(CASES / "versions.json") == versions())


def differ(got: Any, expected: Any) -> bool:
    """Whether an array is not what it must be."""
    one, other = np.asarray(got), np.asarray(expected)
    if one.dtype != other.dtype or one.shape != other.shape:
        return True
    if has_same_bits() or one.dtype.kind != "f":
        return bool(one.tobytes() != other.tobytes())
    return not np.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)


def check_bundles() -> list[str]:
    """Every bundle opens, and both forms of one are the same."""
    faults = []
    for path in sorted(BUNDLES.iterdir()):
        with Bundle.open(path) as bundle:
            bundle.verify()
            if path.is_dir():
                with Bundle.open(path.with_suffix(".mmedge")) as other:
                    if other.digest != bundle.digest:
                        faults.append(f"{path.name}: another digest than the zip's")
    return faults


def check_calls(runtime: RuntimeName = "python") -> list[str]:
    """Single calls by :func:`mmedge.load`; words of errors have to be those of Python's runtime."""
    faults: list[str] = []
    for path in sorted((CASES / "calls").glob("*.json")):
        content, tensors = read(path), read_tensors(path)
        pipes: dict[Any, Any] = {}
        states: dict[str, Any] = {}
        for case in content["cases"]:
            key = case["plan"], case["allow_non_finite"]
            if key not in pipes:
                pipes[key] = mmedge.load(
                    BUNDLES / f"{content['bundle']}.mmedge", content["variant"], plan=key[0],
                    threads=1, kernels=False, allow_non_finite=key[1], runtime=runtime,
                )  # fmt: skip
            pipe = pipes[key]
            options = {}
            if case["state"] is not None:
                options["state"] = states.setdefault(case["state"], pipe.state())
            arrays = {name: tensors[key] for name, key in case["inputs"].items()}
            values = {**arrays, **case["texts"]}
            inputs = {name: values[name] for name in case["order"]}
            run = partial(pipe.run, inputs, **options)
            where = f"{path.stem}: {case['name']}"
            faults += compare_run(where, case, tensors, run, messages=runtime == "python")
        for pipe in pipes.values():
            pipe.close()
    return faults


def compare_run(
    where: str,
    case: dict[str, Any],
    tensors: Any,
    run: Callable[[], dict[str, Any]],
    *,
    messages: bool = True,
) -> list[str]:
    """What a run gives, or raises, that is not what its case says.

    ``messages``: whether words of an error have to be those of the case.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            outputs = run()
    except (MMEdgeError, TimeoutError) as error:
        got = type(error).__name__
        if got != case.get("error"):
            return [f"{where}: {got}: {error}"]
        if messages and str(error) != case["message"]:
            return [f"{where}: another message: {error}"]
        return []
    if "error" in case:
        return [f"{where}: no {case['error']}"]
    if list(outputs) != list(case["outputs"]):
        return [f"{where}: outputs {list(outputs)}"]
    return [
        f"{where}: output {name}"
        for name, key in case["outputs"].items()
        if differ(outputs[name], tensors[key])
    ]


def check_loops(runtime: RuntimeName = "python") -> list[str]:
    """Runs of loops by :func:`mmedge.load`."""
    faults: list[str] = []
    for path in sorted((CASES / "loops").glob("*.json")):
        content, tensors = read(path), read_tensors(path)
        if "bundle" not in content:
            continue
        pipes: dict[str, Any] = {}
        states: dict[Any, Any] = {}
        for case in content["cases"]:
            variant = case["variant"]
            if variant not in pipes:
                pipes[variant] = mmedge.load(
                    BUNDLES / f"{content['bundle']}.mmedge", variant, threads=1, kernels=False,
                    allow_unverified=True, runtime=runtime,
                )  # fmt: skip
            pipe = pipes[variant]
            options = dict(case["options"])
            options |= {name: tensors[case[name]] for name in ("forced", "noise") if name in case}
            if case["state"] is not None:
                options["state"] = states.setdefault((variant, case["state"]), pipe.state())
            inputs = {name: tensors[key] for name, key in case["inputs"].items()} | case["texts"]
            where = f"{path.stem}: {case['name']}"
            steps: list[Any] = []
            extra: dict[str, Any] = {}
            run = partial(_run_loop, pipe, inputs, options, steps, extra)
            faults += compare_run(where, case, tensors, run, messages=runtime == "python")
            faults += [f"{where}: {k} {v!r}" for k, v in extra.items() if v != case.get(k)]
            if "pieces" in case and [list(step.text) for step in steps] != case["pieces"]:
                faults.append(f"{where}: pieces of the text")
            for name, field in (("scores", "scores"), ("latents", "latent")):
                if name in case:
                    axis = 1 if name == "scores" else 0
                    got = np.stack([getattr(step, field) for step in steps], axis)
                    if differ(got, tensors[case[name]]):
                        faults.append(f"{where}: {name}")
        for pipe in pipes.values():
            pipe.close()
    return faults


def _run_loop(
    pipe: Any,
    inputs: dict[str, Any],
    options: dict[str, Any],
    steps: list[Any],
    extra: dict[str, Any],
) -> dict[str, Any]:
    """The tensors that a loop gives; its steps, and what else it gives, are added to the last."""
    with pipe.iterate(inputs, cached=False, **options) as loop:
        steps.extend(loop)
        result: dict[str, Any] = loop.result()
    extra.update({key: result.pop(key) for key in ("finish", "text") if key in result})
    return result


def check_choices_of_tokens() -> list[str]:
    """Random numbers, and tokens for scores."""
    faults = []
    path = CASES / "loops" / "random-numbers.json"
    tensors = read_tensors(path)
    for case in read(path)["cases"]:
        for name, draw in (("uniform", uniform), ("normal", normal)):
            expected = tensors[case[name]]
            if differ(draw(case["seed"], case["stream"], expected.size), expected):
                faults.append(f"{name} numbers of seed {case['seed']}")
    path = CASES / "loops" / "choices.json"
    tensors = read_tensors(path)
    for number, case in enumerate(read(path)["cases"]):
        sampling = Sampling(case["temperature"], case["top_k"], case["top_p"], case["seed"])
        tokens = choose(tensors[case["scores"]], sampling, case["choice"], case["suppress"])
        if tokens != case["tokens"]:
            faults.append(f"choice {number}: {tokens}")
    return faults


def check_texts() -> list[str]:
    """Texts to ids and masks, and tokens to text."""
    faults = []
    for path in sorted((CASES / "texts").glob("*.json")):
        content = read(path)
        with Bundle.open(BUNDLES / f"{content['bundle']}.mmedge") as bundle:
            feeds = Feeds(bundle)
            (modality,) = bundle.manifest.modalities
            assert modality.tokenizer is not None
            decode = detokenizer(bundle, modality.tokenizer.file)
            assert decode is not None
            for case in content["cases"]:
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    try:
                        values, _ = feeds.check_modality(content["modality"], case["text"])
                    except MMEdgeError as error:
                        if type(error).__name__ != case.get("error"):
                            faults.append(f"{path.stem}: {case['text'][:40]!a}: {error}")
                        continue
                got = {
                    "ids": values["ids"][0].tolist(),
                    "mask": values["mask"][0].astype(int).tolist() if "mask" in values else None,
                    "cut": bool(told),
                }
                if any(got[name] != case.get(name) for name in got):
                    faults.append(f"{path.stem}: {case['text'][:40]!a}: {got}")
            for case in content["decode"]:
                if decode(case["tokens"]) != case["text"]:
                    faults.append(f"{path.stem}: text of {case['tokens']}")
    return faults


def check_choices() -> list[str]:
    """Variants, plans and threads on devices."""
    content = read(CASES / "choices" / "choices.json")
    rows = choose_all(content["cases"], content["devices"], BUNDLES)
    return [
        f"{case['bundle']} on {case['device']} {case['options']}: {row}"
        for case, row in zip(content["cases"], rows, strict=True)
        if {**case, **row} != case
    ]


def check_rules() -> list[str]:
    """Constraints, sizes, differences."""
    faults = []
    for case in read(CASES / "rules" / "constraints.json")["cases"]:
        try:
            relation = parse(case["expression"])
        except ValueError:
            if not case.get("malformed"):
                faults.append(f"constraint {case['expression']!r} is refused")
            continue
        if case.get("malformed") or sorted(relation.names) != case["names"]:
            faults.append(f"constraint {case['expression']!r} has {sorted(relation.names)}")
        elif [relation.holds(sizes) for sizes in case["sizes"]] != case["holds"]:
            faults.append(f"constraint {case['expression']!r}")
    for case in read(CASES / "rules" / "sizes.json")["cases"]:
        limits = {name: Dimension(**limit) for name, limit in case["dimensions"].items()}
        relations = Relations(limits, [Constraint(text, "line") for text in case["constraints"]])
        sizes = relations.complete(case["given"])
        if (sizes if relations.holds(sizes) else None) != case["sizes"]:
            faults.append(f"sizes {case}")
    path = CASES / "rules" / "differences.json"
    tensors = read_tensors(path)
    for case in read(path)["cases"]:
        comparison = OutputComparison(Tolerance(case["rtol"], case["atol"]))
        for got, golden in zip(case["got"], case["golden"], strict=True):
            comparison.add(tensors[got], tensors[golden])
        used: float | None = comparison.result().limit_used
        used = used if np.isfinite(used) else None
        if used != case["limit_used"] and not (
            used is not None
            and case["limit_used"] is not None
            and np.isclose(used, case["limit_used"], rtol=1e-6)
        ):
            faults.append(f"differences: {case['name']}: {used}")
    return faults


def check_verification() -> list[str]:
    """What a verification looks at, and what loading refuses by it."""
    faults = []
    for case in read(CASES / "rules" / "verification.json")["cases"]:
        with mmedge.load(
            BUNDLES / f"{case['bundle']}.mmedge", case["variant"], plan=case["plan"], threads=1,
            kernels=False, allow_unverified=True,
        ) as pipe:  # fmt: skip
            told = verify(pipe)
        rows = [{"stage": r.stage, "output": r.output, "passes": r.ok} for r in told.rows]
        if (told.ok, told.samples, rows) != (case["passes"], case["samples"], case["rows"]):
            faults.append(f"verification of {case['bundle']}: {told}")
    try:
        mmedge.load(BUNDLES / "off.mmedge", threads=1).close()
        faults.append("off.mmedge is loaded")
    except AccuracyError:
        pass
    return faults


def check_streams(schedules: Path = CASES / "streams" / "schedules.jsonl") -> list[str]:
    """Schedules of streams."""
    faults = []
    for line in schedules.read_text(encoding="ascii").splitlines():
        schedule = json.loads(line)
        got = json.loads(json.dumps(play(load_for_streams(BUNDLES, schedule["bundle"]), schedule)))
        faults += compare_schedule(schedule, got)
    return faults


def compare_schedule(schedule: dict[str, Any], got: dict[str, Any]) -> list[str]:
    """What differs of what came of a schedule."""
    faults = []
    for what in ("results", "healths", "errors"):
        expected = schedule[what]
        if len(got[what]) != len(expected):
            faults.append(f"schedule {schedule['name']}: {len(got[what])} {what}")
        for number, (one, other) in enumerate(zip(got[what], expected, strict=False)):
            if _strip(one) != _strip(other):
                faults.append(f"schedule {schedule['name']}: {what} {number}: {one}")
                break
    return faults


def _strip(row: dict[str, Any]) -> dict[str, Any]:
    """Without outputs where their bits may be others."""
    if has_same_bits() or "outputs" not in row:
        return row
    return {**row, "outputs": sorted(row["outputs"])}


def check_signatures(
    decide: Callable[..., dict[str, Any]] = decide,
    fields: Sequence[str] = ("error", "message", "release", "verified_by"),
) -> list[str]:
    """Who signed a bundle, and when: each case as a directory and as a zip.

    Args:
        decide: what a runtime makes of a bundle, keys, a lowest version and a time.
        fields: of a case that it is held to.
    """
    content = read(CASES / "signatures" / "signatures.json")
    files = read_tiny()
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(content["cases"]):
            keys = (
                None if case["trusted"] is None else [content["keys"][n] for n in case["trusted"]]
            )
            expected = {name: case[name] for name in fields if name in case}
            for zipped in (False, True):
                path = Path(folder) / f"{number}{'.mmedge' * zipped}"
                write_case(path, files, case, zipped=zipped)
                got = decide(path, keys, case["lowest_version"], case["now"])
                if got != expected:
                    faults.append(f"signatures: {case['name']}, {zipped=}: {got}")
        for path in (CASES / "signatures" / "signed", CASES / "signatures" / "signed.mmedge"):
            for name, key_id in content["key_ids"].items():
                got = decide(path, [content["keys"][name]], 7, content["cases"][0]["now"])
                if got.get("verified_by") != ([key_id] if name in "ab" else None):
                    faults.append(f"signatures: {path.name} by {name}: {got}")
    return faults


def check_hostile(folder: Path) -> list[str]:
    """Hostile bundles that ``make.py --hostile`` wrote."""
    faults = []
    for case in read(folder / "hostile.json")["cases"]:
        try:
            with Bundle.open(folder / case["path"]) as bundle:
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
    "choices": check_choices,
    "choices of tokens": check_choices_of_tokens,
    "loops": check_loops,
    "rules": check_rules,
    "signatures": check_signatures,
    "streams": check_streams,
    "texts": check_texts,
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
