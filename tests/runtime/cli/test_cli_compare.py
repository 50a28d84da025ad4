"""``mmedge compare`` as a user calls it: tables or JSON, exit 0, 1 for a broken gate, 2 misuse."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import reports
from typer.testing import CliRunner

from mmedge.cli import main
from mmedge.cli.app import build_app
from mmedge.errors import InputError


def call(*words):
    return CliRunner().invoke(build_app(), ["compare", *map(str, words)])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same run twice, one 20 % slower with half a point less metric, and a short one."""
    folder = tmp_path_factory.mktemp("reports")
    base = reports.sample(0)
    worse = reports.sample(0, 1.2, metric={**base.metric, "value": base.metric["value"] - 0.005})
    made = {"a": base, "same": base, "slow": worse, "short": reports.sample(0, calls=50)}
    for name, report in made.items():
        report.to_json(folder / f"{name}.json")
    return {name: folder / f"{name}.json" for name in made}


def test_the_table_and_the_verdicts(files):
    done = call(files["a"], files["slow"], "--gate", "p50=3%", "--gate", "metric=0.01")
    assert done.exit_code == 1
    assert "slower" in done.stdout
    assert "BROKEN" in done.stdout
    assert "kept" in done.stdout
    assert "was throttled" in done.stdout
    assert "fresh sessions" in done.stderr


def test_nothing_changed(files):
    done = call(files["a"], files["same"], "--gate", "p99=0%", "--gate", "p50=0.001ms")
    assert done.exit_code == 0
    assert "BROKEN" not in done.stdout
    assert "no difference shown" in done.stdout


def test_json(files):
    done = call(files["a"], files["slow"], "--json", "--gate", "mean=3%")
    assert done.exit_code == 1
    data = json.loads(done.stdout)
    assert data["ok"] is False
    rows = {row["name"]: row for row in data["rows"]}
    assert rows["p50"]["ratio"] == pytest.approx(1.2)
    assert rows["p50"]["ratio_95"][0] < 1.2 < rows["p50"]["ratio_95"][1]
    assert data["gates"][0] == {"gate": "mean=3%", "broken": True, "why": "20 % worse, shown"}


def test_misuse_names_the_gate_and_gives_examples(files):
    done = call(files["a"], files["same"], "--gate", "p77=5%")
    assert done.exit_code == 2
    assert "p77=5%" in done.stderr
    assert "examples" in done.stderr
    assert call(files["a"]).exit_code == 2


def test_a_gate_on_what_is_missing_is_an_error(files):
    done = call(files["a"], files["short"], "--gate", "p99=5%")
    assert isinstance(done.exception, InputError)
    assert "p99 cannot be judged" in str(done.exception)


def test_what_is_no_report_is_refused(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["mmedge", "compare", str(files["a"]), str(tmp_path / "none")])
    with pytest.raises(SystemExit) as error:
        main()
    assert error.value.code == 1
    assert "none: no such file; mmedge bench -o writes a report" in capsys.readouterr().err
    (tmp_path / "none").write_text("words")
    with pytest.raises(SystemExit):
        main()
    assert "cannot be read as a report" in capsys.readouterr().err


def test_names_are_no_markup(files, tmp_path):
    base = reports.sample(0)
    odd = replace(base, bundle={**base.bundle, "name": "[red]x[/red]"})
    odd.to_json(tmp_path / "[b].json")
    done = call(files["a"], tmp_path / "[b].json")
    assert done.exit_code == 0
    assert "[red]x[/red]" in done.stderr
