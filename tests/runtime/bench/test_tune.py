"""The variant and the threads that are fastest here are found, kept and gone by."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from typer.testing import CliRunner

import mmedge
from mmedge.backends.registry import probe
from mmedge.bench import subprocesses
from mmedge.bench import tune as tuning
from mmedge.bench.tune import thread_counts, tune
from mmedge.bundle import Bundle
from mmedge.bundle.device_cache import Measurement
from mmedge.cli.app import build_app
from mmedge.errors import AccuracyError, BundleError, NoVariantError
from mmedge.pipeline import Pipeline

CORES = 4


@pytest.fixture(autouse=True)
def four_cores(monkeypatch):
    """As on a machine of four cores."""
    for module in ("mmedge.bench.tune", "mmedge.cli.tune", "mmedge.loader", "mmedge.pipeline"):
        monkeypatch.setattr(f"{module}.probe", lambda: replace(probe(), cores=CORES))


@pytest.fixture
def bundle(sums, tmp_path):
    """A copy of the bundle, to be written to."""
    path = tmp_path / sums.name
    (shutil.copytree if sums.is_dir() else shutil.copy)(sums, path)
    return path


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(subprocesses, "PROCESSES", 1)
    monkeypatch.setattr(subprocesses, "BLOCKS", 1)
    monkeypatch.setattr(subprocesses, "BLOCK_MS", 1.0)


@pytest.fixture
def clock(monkeypatch):
    """Times that are given by the number of threads in place of measured ones."""
    times = {}

    def told(path, cells):
        return [times.get((cell.plan, cell.threads), times[cell.threads]) for cell in cells]

    monkeypatch.setattr(tuning, "time_apart", told)
    return times


@pytest.mark.parametrize(("cores", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6])])
def test_thread_counts(cores, counts):
    assert thread_counts(cores) == counts


@pytest.mark.parametrize(
    ("times", "best"),
    [({1: 5.0, 2: 3.0, 4: 1.0}, 4), ({1: 1.0, 2: 2.0, 4: 3.0}, 1), ({1: 1.02, 2: 1.0, 4: 1.0}, 1)],
)
def test_the_fastest_count_is_kept_and_the_smaller_one_of_equals(bundle, clock, times, best):
    clock.update(times)
    made, found = tune(Bundle.open(bundle), threads=4, in_place=True)
    with made:
        assert found
        for variant in made.manifest.variants:
            if variant.id in found:
                assert found[variant.id] == Measurement(times[best], best, "cut")
                assert variant.metrics["threads"] == best
                assert variant.metrics["latency_ms"] == times[best]
                assert variant.metrics["cores"] == CORES
                assert variant.plan == "cut"


def test_loading_goes_by_it_unless_told_otherwise(bundle, clock):
    clock.update({1: 1.0, 2: 0.5, 4: 0.9})
    tune(Bundle.open(bundle))[0].close()
    with mmedge.load(bundle) as pipe:
        assert pipe.threads == 2
    with mmedge.load(bundle, threads=1) as pipe:
        assert pipe.threads == 1


@pytest.mark.parametrize(
    "metrics", [{"cores": 8.0}, {"threads": 1e5}, {"threads": 0.5}, {"threads": -1.0}]
)
def test_what_says_nothing_of_this_machine_is_not_gone_by(bundle, clock, metrics):
    clock.update({1: 1.0, 2: 0.5, 4: 0.9})
    made, found = tune(Bundle.open(bundle), in_place=True)
    made.with_metrics(dict.fromkeys(found, metrics)).close()
    with mmedge.load(bundle) as pipe:
        assert pipe.threads is None


def test_some_of_the_cores_tell_nothing_of_the_others(bundle, clock):
    clock.update({1: 1.0, 2: 0.5, 4: 0.9})
    tune(Bundle.open(bundle))[0].close()
    tune(Bundle.open(bundle), threads=1)[0].close()
    with mmedge.load(bundle) as pipe:
        assert pipe.threads is None
        assert pipe.variant.metrics["latency_ms"] == 1.0


def test_a_variant_that_is_wrong_here_is_left_out(bundle, clock, monkeypatch):
    clock.update({1: 1.0, 2: 0.5, 4: 0.9})

    def wrong(path, cell):
        raise AccuracyError("it computes something else")

    monkeypatch.setattr(tuning, "_check", wrong)
    told = []
    made, found = tune(Bundle.open(bundle), tell=told.append)
    made.close()
    assert found == {}
    assert any("left out: it computes something else" in line for line in told)
    done = CliRunner().invoke(build_app(), ["tune", str(bundle)])
    assert isinstance(done.exception, NoVariantError)


def test_a_number_of_threads_that_computes_something_else_is_not_recorded(
    bundle, clock, monkeypatch
):
    """As OpenVINO's int8 did: right with one thread, wrong with two, which was faster."""
    clock.update({1: 1.0, 2: 0.5, 4: 0.9})
    run_stage = Pipeline.run_stage

    def off(self, stage, feeds):
        outputs = run_stage(self, stage, feeds)
        return {n: v * 2 for n, v in outputs.items()} if self.threads == 2 else outputs

    monkeypatch.setattr(Pipeline, "run_stage", off)
    left_out = []
    made, found = tune(Bundle.open(bundle), leave=left_out.append)
    with made:
        assert found
        assert {one.threads for one in found.values()} == {4}
        assert all(v.metrics.get("threads", 4) == 4 for v in made.manifest.variants)
    assert len(left_out) == len(found)
    assert all("with 2 threads: left out: variant" in line for line in left_out)
    assert all("differs from the golden samples by" in line for line in left_out)


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_timed(bundle, monkeypatch):
    monkeypatch.setattr(tuning.os, "access", lambda *_: False)
    with pytest.raises(BundleError, match="cannot be written to"):
        tune(Bundle.open(bundle))


def test_without_tuning_the_backend_decides(bundle):
    with mmedge.load(bundle) as pipe:
        assert pipe.threads is None


def test_the_command_times_every_variant_for_real(bundle, quick):
    done = CliRunner().invoke(build_app(), ["tune", str(bundle), "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["variants"]
    here = replace(probe(), cores=CORES)
    with Bundle.open(bundle) as opened:
        for name, row in found.items():
            (variant,) = (v for v in opened.on(here).variants if v.id == name)
            assert row["threads"] in (1, 2, 4)
            assert variant.metrics["threads"] == row["threads"]
            assert 0 < variant.metrics["latency_ms"] == row["latency_ms"] < 1000
    assert found


def test_the_command_prints_a_table_and_names_what_is_missing(bundle, quick, clock):
    clock.update({1: 1.0})
    done = CliRunner().invoke(build_app(), ["tune", str(bundle), "--threads", "1"])
    assert done.exit_code == 0
    assert "ort-fp32-cpu" in done.stdout


def test_a_bundle_without_samples_cannot_be_timed(bundle, monkeypatch):
    opened = Bundle.open(bundle)
    opened.manifest = replace(opened.manifest, samples=0)
    monkeypatch.setattr("mmedge.cli.tune.Bundle.open", lambda _path: opened)
    done = CliRunner().invoke(build_app(), ["tune", str(bundle)])
    assert isinstance(done.exception, BundleError)
    assert "no golden samples" in str(done.exception)
