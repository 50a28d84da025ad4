"""Reports survive JSON, their schema describes all of them, and what is no report is refused."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, fields
from importlib.resources import files

import jsonschema
import pytest
import reports
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mmedge
from mmedge.bench.arrivals import Load
from mmedge.bench.measure import bench
from mmedge.bench.report.page import render
from mmedge.bench.report.report import OPTIONAL, REPORT_VERSION, Report
from mmedge.errors import InputError

SCHEMA = json.loads(files("mmedge.bench.report").joinpath("report.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
NAMES = [own.name for own in fields(Report)]
REQUIRED = [name for name in NAMES if name not in OPTIONAL]
SAMPLES = {
    "closed loop": reports.sample(),
    "one call": reports.sample(calls=1),
    "thinned": reports.sample(calls=20_500),
    "stream": reports.stream(),
    "variants": reports.compared(),
    "loop": reports.generated(),
    "nothing known": reports.sample(
        deadline=None,
        metric=None,
        size_bytes=None,
        operators=[],
        copies=[],
        attention={},
        energy={"joules_per_result": None, "watts": None, "source": None, "missing": "no counter"},
    ),
}
FEW = settings(max_examples=60, deadline=None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)


def faults(report):
    return [
        f"{list(error.absolute_path)}: {error.message[:200]}"
        for error in VALIDATOR.iter_errors(json.loads(report.to_json()))
    ]


def parts(schema):
    """Every schema inside this one, with where it stands."""
    for key, value in schema.items():
        if key in ("properties", "$defs"):
            for name, part in value.items():
                yield f"{key}/{name}", part
                yield from parts(part)
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            yield from parts(value)


def test_the_schema_is_one_and_has_the_keys_of_the_dataclass():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert list(SCHEMA["properties"]) == NAMES
    assert SCHEMA["required"] == REQUIRED
    assert SCHEMA["additionalProperties"] is False
    assert SCHEMA["properties"]["report_version"]["const"] == REPORT_VERSION


def test_every_key_of_the_schema_is_described():
    found = dict(parts(SCHEMA))
    assert len(found) > 100
    assert [where for where, part in found.items() if not part.get("description")] == []


def test_every_key_of_the_dataclass_is_described():
    assert [name for name in NAMES if f"        {name}: " not in Report.__doc__] == []


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_reports_fit_the_schema(name):
    assert faults(SAMPLES[name]) == []


@pytest.mark.parametrize("kind", ["closed", "rate"])
def test_a_real_report_fits_the_schema(sums, tmp_path, kind):
    load = Load(kind, calls=20, rate_hz=400.0 if kind == "rate" else None)
    found = bench(str(sums), threads=1, load=load, warmup=2, deadline_ms=5.0)
    assert faults(found) == []
    assert found.series["of"] == 20
    found.to_json(tmp_path / "r.json")
    assert Report.from_json(tmp_path / "r.json") == found


@pytest.mark.parametrize("key", REQUIRED)
def test_the_schema_refuses_a_report_without_a_key_or_with_a_misspelt_one(key):
    data = json.loads(SAMPLES["stream"].to_json())
    data[key + "x"] = data.pop(key)
    assert not VALIDATOR.is_valid(data)
    assert {error.validator for error in VALIDATOR.iter_errors(data)} == {
        "required",
        "additionalProperties",
    }


def test_the_schema_refuses_wrong_units_of_thought():
    data = json.loads(SAMPLES["closed loop"].to_json())
    for path, value in (
        (("deadline", "rate"), 12.0),
        (("load", "kind"), "burst"),
        (("latency_ms", "p50"), "14 ms"),
        (("bundle", "manifest_sha256"), "abc"),
        (("confidence_ms", "p50"), [1.0]),
        (("peak_memory_bytes",), -1),
    ):
        wrong = copy.deepcopy(data)
        part = wrong
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value
        assert not VALIDATOR.is_valid(wrong), path


@FEW
@given(
    seed=st.integers(0, 200), calls=st.integers(1, 120), kind=st.sampled_from(["sample", "stream"])
)
def test_what_is_written_is_read(tmp_path_factory, seed, calls, kind):
    path = tmp_path_factory.mktemp("round") / "r.json"
    report = getattr(reports, kind)(seed=seed, calls=calls)
    text = report.to_json(path)
    assert path.read_text("utf-8") == text
    assert mmedge.Report.from_json(path) == report
    assert list(json.loads(text)) == REQUIRED


def test_sample_reports_add_up():
    report = SAMPLES["closed loop"]
    whole = sum(stage["mean"] for stage in report.stages.values())
    assert whole == pytest.approx(report.latency_ms["mean"])
    assert SAMPLES["thinned"].series["kept"] == 20_000 < SAMPLES["thinned"].series["of"]
    assert reports.sample(scale=2.0).latency_ms["p50"] == pytest.approx(
        2 * report.latency_ms["p50"]
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_never_written_or_read(tmp_path, value):
    path = tmp_path / "r.json"
    report = reports.sample(throughput_hz=value)
    for write in (report.to_json, lambda path: render(report, path)):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write(path)
    assert not path.exists()
    path.write_text(json.dumps(asdict(report)))
    with pytest.raises(InputError, match="not a finite number"):
        Report.from_json(path)


@pytest.mark.parametrize("version", [1, 3, "2", 2.0, True, None])
def test_another_version_is_refused(tmp_path, version):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(asdict(SAMPLES["one call"]) | {"report_version": version}))
    with pytest.raises(InputError, match="version 2, got .*run mmedge bench again"):
        Report.from_json(path)


@pytest.mark.parametrize(
    ("name", "rule"),
    [(name, rule) for name, rule in SCHEMA["properties"].items() if name != "report_version"],
)
def test_a_key_of_another_kind_is_refused(tmp_path, name, rule):
    path = tmp_path / "r.json"
    data = asdict(SAMPLES["one call"])
    kinds = rule.get("type", "object")  # that of a reference
    for kind, wrong in (
        ("boolean", True), ("array", ["a"]), ("object", {"a": 1}), ("string", "a"),
        ("number", 1.5), ("null", None),
    ):  # fmt: skip
        if kind in ([kinds] if isinstance(kinds, str) else kinds):
            continue
        path.write_text(json.dumps(data | {name: wrong}))
        with pytest.raises(InputError, match=rf"not a whole report: \$\.{name}"):
            Report.from_json(path)


def test_a_part_of_a_report_is_refused_and_an_added_key_passed_over(tmp_path):
    path = tmp_path / "r.json"
    data = asdict(SAMPLES["one call"])
    path.write_text(json.dumps({key: data[key] for key in data if key != "stages"}))
    with pytest.raises(InputError, match="not a whole report: .*'stages'.*run mmedge bench again"):
        Report.from_json(path)
    path.write_text(json.dumps(data | {"added_later": 1}))
    assert Report.from_json(path) == SAMPLES["one call"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, None])
def test_a_broken_file_is_refused(tmp_path, content):
    path = tmp_path / "r.json"
    if content is not None:
        path.write_bytes(content)
    words = "no such file" if content is None else "cannot be read as a report"
    with pytest.raises(InputError, match=words):
        Report.from_json(path)


@settings(FEW, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=JSON)
def test_foreign_json_is_refused_with_an_input_error(tmp_path, data):
    path = tmp_path / "r.json"
    whole = asdict(SAMPLES["one call"])
    added = {"report_version": 2} | data if isinstance(data, dict) else data
    for document in (data, added, whole | data if isinstance(data, dict) else data):
        path.write_text(json.dumps(document))
        try:
            found = Report.from_json(path)
        except InputError:
            continue
        assert found.report_version == REPORT_VERSION
        assert isinstance(found.bundle, dict)
