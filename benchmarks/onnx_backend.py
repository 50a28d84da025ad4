"""The onnx package's own test models: those that ONNX Runtime runs, through ``mmedge export``.

For each model that plain ONNX Runtime runs on its test data: export from the file alone, and with
the test's inputs as the example; load the bundle; compare its outputs on the test's data with ONNX
Runtime's. The JSON has the counts and each refusal by its rule.

    python benchmarks/onnx_backend.py -o benchmarks/results/onnx_backend.json

In shards, each with a file of its own for what it found, and then together:

    python benchmarks/onnx_backend.py --shard 0/4 --progress part0.json
    python benchmarks/onnx_backend.py --merge part*.json -o benchmarks/results/onnx_backend.json
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
import traceback
import warnings
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What a model became, as JSON has it.
Result = dict[str, Any]

#: Inputs by name, and ONNX Runtime's outputs in order.
DataSet = tuple[dict[str, Any], list[Any]]

KINDS = ("simple", "pytorch-converted", "pytorch-operator")


def cases() -> dict[str, Any]:
    """Every test by name: its model and its data sets."""
    from onnx.backend.test.loader import load_model_tests

    warnings.simplefilter("ignore")
    np.random.seed(0)  # noqa: NPY002 - the tests draw from it when they are collected
    found = {f"node/{c.name}": c for c in load_model_tests(kind="node")}
    for kind in KINDS:
        found |= {f"{kind}/{c.name}": c for c in load_model_tests(kind=kind)}
    return dict(sorted(found.items()))


def files(case: Any) -> tuple[bytes, list[list[Any]]]:  # noqa: ANN401
    """The model's bytes, and the inputs of each data set."""
    import onnx

    if case.model is not None:
        return case.model.SerializeToString(), [list(inputs) for inputs, _ in case.data_sets]
    folder = Path(case.model_dir)
    model = onnx.load(folder / "model.onnx")
    sets = []
    for data in sorted(folder.glob("test_data_set_*")):
        inputs: list[Any] = []
        for index in range(len(list(data.glob("input_*.pb")))):
            raw = (data / f"input_{index}.pb").read_bytes()
            kind = model.graph.input[index].type
            if kind.HasField("tensor_type"):
                inputs.append(onnx.numpy_helper.to_array(onnx.TensorProto.FromString(raw)))
            else:
                inputs.append(raw)  # not what a bundle takes
        sets.append(inputs)
    return (folder / "model.onnx").read_bytes(), sets


def plain(data: bytes, sets: list[list[Any]]) -> list[DataSet] | str:
    """ONNX Runtime's outputs for each data set, or why it has none."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        taken = {value.name: value.type for value in session.get_inputs()}
        results = []
        for inputs in sets:
            values = map(array, inputs)
            feeds = dict(zip(taken, values, strict=False))
            given = {n: v if isinstance(v, list) else held(v, taken[n]) for n, v in feeds.items()}
            if any(isinstance(value, ort.OrtValue) for value in given.values()):
                got = session.run_with_ort_values(None, given)
                results.append((feeds, [value.numpy() for value in got]))
            else:
                results.append((feeds, session.run(None, given)))
    except Exception as error:  # noqa: BLE001 - whatever it raises, it does not run
        return str(error).splitlines()[0][:200]
    return results


def array(value: Any) -> Any:  # noqa: ANN401
    """An input of a test as an array; a sequence as it is."""
    import onnx

    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return value if isinstance(value, list) else np.asarray(value)


def held(value: Any, kind: str) -> Any:  # noqa: ANN401
    """What ONNX Runtime takes of it: dtypes that NumPy lacks need a word on what they are."""
    import onnx
    import onnxruntime as ort

    if value.dtype.kind in "biufUSO":
        return value
    name = kind.removeprefix("tensor(").removesuffix(")").upper()
    width = {1: np.uint8, 2: np.uint16}[value.dtype.itemsize]
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
        value.view(width), getattr(onnx.TensorProto, name)
    )


def outcome(path: Path, expected: list[DataSet], example: Mapping[str, Any] | None) -> Result:
    """What became of one export."""
    import mmedge
    from mmedge.errors import MMEdgeError
    from mmedge_export import SourceOptions, export
    from mmedge_export.sources.onnx import load_file

    step = "export"
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            said: list[str] = []
            options = SourceOptions(example=example)
            with export(path, Path(folder) / "b", options=options, progress=said.append) as bundle:
                left_out = [r for r in bundle.manifest.cut.remarks if "left out" in r]
            step = "load"
            normalized = load_file(path).normalized
            with mmedge.load(Path(folder) / "b", allow_non_finite=True) as pipe:
                step = "run"
                for feeds, outputs in expected:
                    values = {new: feeds[old] for new, old in normalized.inputs.items()}
                    got = pipe.run({n: np.asarray(v) for n, v in values.items()})
                    for name, value in zip(normalized.outputs, outputs, strict=True):
                        if not same(got[name], value):
                            return {"what": "wrong", "text": f"output {name!r}"}
    except MMEdgeError as error:
        text = str(error)
        rule = re.search(r"docs/reference/onnx\.md, rule '([a-z-]+)'", text)
        if rule:
            return {"what": "refused", "rule": rule[1], "text": text[:400]}
        return {"what": "unstated", "step": step, "text": f"{type(error).__name__}: {text}"[:600]}
    except Exception:  # noqa: BLE001 - the fault that is looked for
        return {"what": "traceback", "step": step, "text": traceback.format_exc()[-1500:]}
    return {"what": "taken", **({"left_out": left_out} if left_out else {})}


def same(got: Any, value: Any) -> bool:  # noqa: ANN401
    """Whether two outputs agree as far as the same kernels do."""
    value = np.asarray(value)
    if got.dtype != value.dtype or got.shape != value.shape:
        return False
    if value.dtype.kind not in "fc":
        return bool(np.array_equal(got, value))
    return bool(np.allclose(got, value, rtol=1e-4, atol=1e-6, equal_nan=True))


def work(names: list[str]) -> None:
    """One line of JSON for each model."""
    every = cases()
    for name in names:
        data, sets = files(every[name])
        expected = plain(data, sets)
        result: Result = {"name": name}
        if isinstance(expected, str):
            result["plain"] = expected
        else:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{name.rpartition('/')[2]}.onnx"
                path.write_bytes(data)
                result["alone"] = outcome(path, expected, None)
                feeds = expected[0][0] if expected else {}
                example = {n: v if isinstance(v, list) else np.asarray(v) for n, v in feeds.items()}
                result["example"] = outcome(path, expected, example)
        print(json.dumps(result), flush=True)


def run_all(names: list[str], progress: Path | None) -> list[Result]:
    """Results of all, each in a child that may die."""
    results: list[Result] = []
    waiting = list(names)
    while waiting:
        with tempfile.NamedTemporaryFile("w") as listed, tempfile.TemporaryFile("w+") as said:
            listed.write("\n".join(waiting))
            listed.flush()
            child = subprocess.Popen(
                [sys.executable, __file__, "--work", "--names", listed.name],
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
            for line in child.stdout or ():
                results.append(json.loads(line))
                waiting.pop(0)
                if progress is not None:
                    progress.write_text(json.dumps(results))
            code = child.wait()
            if waiting:
                said.seek(0)
                died = {"what": "crash", "text": f"exit {code}: {said.read()[-1500:]}"}
                results.append({"name": waiting.pop(0), "alone": died, "example": died})
    return results


def summary(results: list[Result]) -> Result:
    """Counts, and every refusal by rule."""
    ran = [r for r in results if "plain" not in r]
    report: Result = {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: metadata.version(name) for name in ("onnx", "onnxruntime", "mmedge")},
        "models": len(results),
        "onnxruntime_runs": len(ran),
    }
    for way in ("alone", "example"):
        counts = collections.Counter(r[way]["what"] for r in ran)
        rules = collections.Counter(r[way]["rule"] for r in ran if r[way]["what"] == "refused")
        good = counts["taken"] + counts["refused"]
        report[way] = {
            "counts": dict(counts.most_common()),
            "refused_by_rule": dict(rules.most_common()),
            "taken_or_refused_by_rule": round(good / max(len(ran), 1), 4),
            "refused": {
                rule: sorted(r["name"] for r in ran if r[way].get("rule") == rule) for rule in rules
            },
            "others": {
                r["name"]: r[way] for r in ran if r[way]["what"] not in ("taken", "refused")
            },
        }
    return report


def main() -> None:
    """Run the shard that is asked for and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--progress", type=Path, help="results so far, one JSON list")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th model from the i-th on")
    parser.add_argument("--only", default="", help="regular expression of names")
    parser.add_argument("--names", type=Path, help="file with the names to run, one a line")
    parser.add_argument("--merge", type=Path, nargs="+", help="files of --progress, of all shards")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.merge:
        finish([r for file in options.merge for r in json.loads(file.read_text())], options.output)
        return
    names = options.names.read_text().split() if options.names else list(cases())
    if options.work:
        work(names)
        return
    index, count = map(int, options.shard.split("/"))
    names = [name for name in names if re.search(options.only, name)][index::count]
    finish(run_all(names, options.progress), options.output)


def finish(results: list[Result], output: Path | None) -> None:
    """Print the counts, and write all of the summary."""
    report = summary(results)
    shown = {
        key: value.get("counts", value) if isinstance(value, dict) else value
        for key, value in report.items()
    }
    print(json.dumps(shown))
    if output:
        output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
