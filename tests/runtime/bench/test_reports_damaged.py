"""A report that is damaged, or that a stranger wrote, is refused or compared; nothing else."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
from dataclasses import replace

import pytest
import reports

from mmedge.bench.report.compare import compare
from mmedge.bench.report.gates import parse_gate
from mmedge.bench.report.page import render
from mmedge.bench.report.report import MAX_REPORT_BYTES, Report
from mmedge.cli.compare import _show
from mmedge.cli.console import emit_json
from mmedge.errors import InputError

VALUES = [
    *(None, True, 0, -1, 1e308, -1e308, 5e-324, 1e29, 2**70, "", "x", "\x1b[31m", "\ud800"),
    *([], {}, [1], [[]], [None], ["x"], {"a": 1}, {"ms": 1}),
]
GATES = [parse_gate(text) for text in ("p99=5%", "deadline=0.01", "memory=5%", "step_ms=5%")]


@pytest.fixture(scope="module")
def trees():
    made = (
        reports.sample(calls=60), reports.stream(calls=60), reports.compared(2),
        reports.generated(calls=60),
    )  # fmt: skip
    return [json.loads(report.to_json()) for report in made]


def places(tree, place=()):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield (*place, key)
        if isinstance(value, dict | list) and place[:1] != ("series",):
            yield from places(value, (*place, key))


def damaged(tree, rng):
    tree = copy.deepcopy(tree)
    for place in rng.sample(list(places(tree)), rng.randint(1, 3)):
        parent = tree
        with contextlib.suppress(KeyError, IndexError, TypeError):  # gone by now
            for key in place[:-1]:
                parent = parent[key]
            if rng.random() < 0.2:
                del parent[place[-1]]
            else:
                parent[place[-1]] = rng.choice(VALUES)
    text = json.dumps(tree).encode()
    if rng.random() < 0.15:
        at = rng.randrange(len(text))
        text = text[:at] + rng.randbytes(1) + text[at + 1 :]
    return text


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore")
def test_damaged_reports(trees, tmp_path, seed):
    rng = random.Random(seed)
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    read = 0
    for _ in range(75):
        for path in rng.sample(paths, 2):
            path.write_bytes(json.dumps(rng.choice(trees)).encode())
        path.write_bytes(damaged(rng.choice(trees), rng))
        with contextlib.suppress(InputError), contextlib.redirect_stdout(io.StringIO()):
            one, other = map(Report.from_json, paths)
            read += 1
            try:
                found = compare(one, other, GATES)
            except InputError:  # a gate on a figure that one of them lacks
                found = compare(one, other)
            with contextlib.redirect_stderr(io.StringIO()):
                _show(*paths, found)
            emit_json(found.to_dict())
            render(one)
    assert read > 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t["series"]["start_s"].pop(), "series: expected lists of one length"),
        (lambda t: t["series"].pop("latency_ms"), "series.latency_ms: expected a value"),
        (lambda t: t.update(throughput_hz=1e400), "throughput_hz: expected a number|cannot be"),
        (lambda t: t["stages"].update(x=3), r"stages\['x'\]: expected object, got 3"),
        (lambda t: t["latency_ms"].update(p50="fast"), "latency_ms.p50: expected number or null"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(trees, tmp_path, change, words):
    tree = copy.deepcopy(trees[0])
    change(tree)
    (tmp_path / "r.json").write_text(json.dumps(tree))
    with pytest.raises(InputError, match=words):
        Report.from_json(tmp_path / "r.json")


@pytest.mark.timeout(20)
def test_a_file_without_end_is_no_report(tmp_path):
    with pytest.raises(InputError, match=f"more than {MAX_REPORT_BYTES} bytes"):
        Report.from_json("/dev/zero")
    with pytest.raises(InputError, match="cannot be read"):
        Report.from_json(tmp_path)


def test_keys_of_later_versions_are_passed_over(trees, tmp_path):
    tree = {**trees[0], "more": 1, "load": {**trees[0]["load"], "more": [1]}}
    (tmp_path / "r.json").write_text(json.dumps(tree))
    assert Report.from_json(tmp_path / "r.json").variant == tree["variant"]


@pytest.mark.parametrize("one", [5e-324, 1e30])
@pytest.mark.parametrize("other", [5e-324, 1e30])
def test_figures_whose_ratio_is_no_number(one, other):
    a, b = reports.sample(calls=60), reports.sample(1, calls=60)
    a = replace(a, latency_ms={**a.latency_ms, "p50": one})
    b = replace(b, latency_ms={**b.latency_ms, "p50": other}, throughput_hz=other)
    json.dumps(compare(a, b).to_dict(), allow_nan=False)
