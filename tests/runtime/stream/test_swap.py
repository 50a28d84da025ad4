"""A guarded swap on a simulated clock: each way that it goes well, and each that it does not."""

from __future__ import annotations

import re
import shutil
import weakref
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stream_checks import balanced, check_account, fetch
from swap_bundles import CAMERA, LIDAR, Planted, check_origin, frame, make_network

import mmedge
from mmedge.errors import InputError
from mmedge.spec import Tolerance
from mmedge.stream import Observer, SimulatedClock, result_line

COSTS = {"see1": 0.004, "scan1": 0.006, "fuse1": 0.002, "see2": 0.005, "scan2": 0.007}
COSTS["fuse2"] = 0.003


class Events(Observer):
    def __init__(self):
        self.all, self.results = [], []

    def on_event(self, event):
        self.all.append(event)

    def on_result(self, result):
        self.results.append(result)

    @property
    def kinds(self):
        return [event.kind for event in self.all]


class Robot:
    """A stream of network 1, pushed at the sensors' rates."""

    def __init__(self, pipe, **options):
        costs = {**COSTS, **options.pop("costs", {})}
        self.clock = SimulatedClock(start=100.0, costs=costs)
        options = {"trigger": "camera", **options}
        self.stream = pipe.stream(clock=self.clock, keep=1000, **options)
        self.events = Events()
        self.stream.observe(self.events)
        self.count = 0

    def run(self, seconds):
        """Push for so long; return the results."""
        for _ in range(round(seconds / 0.01)):
            self.count += 1
            self.stream.push("state", np.full((1, 1), self.count, np.float32))
            if self.count % 5 == 0:
                self.stream.push("camera", frame(self.count))
            if self.count % 10 == 3:
                self.stream.push("lidar", frame(self.count))
            self.clock.advance(0.01)
        balanced(self.stream)
        return fetch(self.stream)


@contextmanager
def robot(pipe, **options):
    it = Robot(pipe, **options)
    with it.stream:
        yield it
    health = it.stream.health()
    check_account(health)
    assert all(m.pending == 0 for m in health.modalities.values())
    # Nothing is of two networks, and each result says which one made it.
    for result in it.events.results:
        check_origin(result)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    make_network(folder / "one", 1)
    make_network(folder / "two", 2)
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    with mmedge.load(folder / "one", threads=1) as pipe:
        yield pipe


def test_a_better_network_takes_over_between_two_results(pipe, folder):
    with robot(pipe) as it:
        before = it.run(0.5)
        swap = it.stream.swap(folder / "two", shadow=5, limit={"score": 1e-3}, probation=6)
        assert swap.state == "shadow"
        results = it.run(1.0)
        assert swap.state == "confirmed"
        after = it.run(0.3)
        report = swap.report
    numbers = [r.network.number for r in results]
    first = numbers.index(1)
    # Five were compared with live results, and the last of these made room.
    assert first in (5, 6)
    assert numbers == [0] * first + [1] * (len(numbers) - first)
    assert {r.network.number for r in (*before, *after)} == {0, 1}
    assert len(results) == 20
    assert all(r.fresh and not r.absent for r in results)
    # The switch costs no result any time: the first of network 2 takes what network 2 takes.
    camera = COSTS["see2"] + COSTS["fuse2"]
    assert [round(r.latency, 9) for r in results[first:]] == [camera] * (20 - first)
    assert it.events.kinds == ["swap_started", "swapped", "swap_confirmed", "close"]
    assert (report.compared, report.skipped, report.results) == (5, 0, 6)
    assert report.waited_for == ()
    assert report.differences["score"].max_abs == 0
    assert report.shadow_seconds == pytest.approx(camera)
    assert report.new.digest != report.old.digest == pipe.bundle.digest
    assert report.not_checked == ("the stream has no deadline: no latency was checked",)
    assert results[-1].network == report.new
    names = [modality.name for modality in pipe.bundle.manifest.modalities]
    assert "network" not in result_line(before[0], names)
    assert result_line(after[0], names)["network"] == report.new._asdict()


def test_until_the_switch_the_results_are_those_of_a_stream_without(pipe, folder):
    with robot(pipe) as plain:
        expected = plain.run(1.0)
    with robot(pipe) as it:
        it.stream.swap(folder / "two", shadow=5, probation=3)
        results = it.run(1.0)
    switch = next(i for i, r in enumerate(results) if r.network.number == 1)
    assert switch >= 5
    for one, other in zip(expected[:switch], results[:switch], strict=True):
        assert np.array_equal(one.outputs["out"], other.outputs["out"])
        assert replace(one, outputs=None) == replace(other, outputs=None)
    # The samples that results use are the same throughout.
    assert [r.samples for r in expected] == [r.samples for r in results]
    assert [r.t for r in expected] == [r.t for r in results]


def refused(it, source, **options):
    """The report of a swap that the old network outlives."""
    it.run(0.3)
    swap = it.stream.swap(source, **{"shadow": 5, "probation": 5, **options})
    results = it.run(1.0)
    assert swap.state == "refused", swap.report
    assert {r.network.number for r in results} == {0}
    assert len(results) == 20
    assert all(r.fresh for r in results)
    assert it.events.kinds == ["swap_started", "swap_refused"]
    assert it.events.all[-1].details["reason"] == swap.report.reason
    assert swap.report.reason in it.events.all[-1].message
    return swap.report


def test_wrong_outputs_are_refused_by_limit_and_by_metric(pipe, folder, tmp_path):
    make_network(tmp_path / "off", 2, offset=3.0)
    with robot(pipe) as it:
        report = refused(it, tmp_path / "off", limit={"score": 0.01})
        assert "output 'score' differs by up to 3" in report.reason
        assert report.compared == 1
    with robot(pipe) as it:
        report = refused(
            it,
            tmp_path / "off",
            metric=lambda live, new: abs(float(live["score"][0] - new["score"][0])),
            limit=2.9,
        )
        assert "the metric is 3 in the mean of 5 results, and 2.9 is allowed" in report.reason
        assert report.metric == 3.0
    with robot(pipe) as it:
        swap = it.stream.swap(
            tmp_path / "off", shadow=2, limit={"score": Tolerance(0.0, 3.1)}, probation=0
        )
        it.run(1.0)
        assert swap.state == "confirmed"


def test_a_metric_that_raises_refuses(pipe, folder):
    with robot(pipe) as it:
        report = refused(it, folder / "two", metric=lambda live, new: live["nothing"], limit=1.0)
        assert "the metric raised KeyError: 'nothing'" in report.reason


@pytest.mark.parametrize("limit", [True, "0.2", {"score": 0.2}])
def test_a_metric_needs_one_number_as_its_limit(pipe, folder, limit):
    with (
        robot(pipe) as it,
        pytest.raises(InputError, match=r"with a metric, limit is the number .* such as limit=0.2"),
    ):
        it.stream.swap(folder / "two", metric=lambda live, new: 0.0, limit=limit)


def test_nan_in_the_shadow_is_refused(pipe, tmp_path):
    make_network(tmp_path / "nan", 2, nan_from=1.0)
    with robot(pipe) as it:
        assert "output 'score' has NaN or infinity" in refused(it, tmp_path / "nan").reason


def test_a_slow_network_is_refused_where_there_is_a_deadline(pipe, folder):
    with robot(pipe, deadline_ms=20, costs={"fuse2": 0.025}) as it:
        reason = refused(it, folder / "two").reason
        assert "half of its results would take more than 0.03 s" in reason
        assert "the deadline is 0.02 s" in reason


def test_a_crash_in_the_shadow_is_refused(pipe, folder):
    def crash(stage, _feeds):
        if stage == "scan2" and len(runs) > 3:
            raise OSError("out of memory")
        runs.append(stage)

    runs = []
    with mmedge.load(folder / "two", threads=1) as other, robot(pipe) as it:
        planted = Planted(other, crash)
        report = refused(it, planted)
        assert "its encoder of 'lidar' failed: OSError: out of memory" in report.reason
        assert not planted.closed  # the caller's


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"camera": replace(CAMERA, max_age_ms=100.0)}, "max_age_ms of modality 'camera' is 100.0"),
        ({"lidar": replace(LIDAR, required=True)}, "required of modality 'lidar' is True"),
        ({"lidar": replace(LIDAR, name="radar")}, "the list of modalities is"),
        ({"out": mmedge.spec.TensorSpec("logits", "float32", (1, 8))}, "the list of outputs is"),
    ],
)
def test_another_contract_is_refused_by_name_before_anything_runs(pipe, tmp_path, change, words):
    if "lidar" in change and change["lidar"].name == "radar":
        pytest.importorskip("onnx")
    path = make_network(tmp_path / "other", 2, **change)
    with robot(pipe) as it:
        report = refused(it, path)
        assert words in report.reason
        assert report.new is None
        assert "make one of the new bundle" in report.reason


def test_an_altered_or_missing_bundle_is_refused(pipe, folder, tmp_path):
    shutil.copytree(folder / "two", tmp_path / "altered")
    graph = next((tmp_path / "altered" / "onnx").iterdir())
    content = bytearray(graph.read_bytes())
    content[-9] ^= 1
    graph.chmod(0o644)
    graph.write_bytes(content)
    with robot(pipe) as it:
        assert "BundleError" in refused(it, tmp_path / "altered").reason
    with robot(pipe) as it:
        assert "BundleError" in refused(it, tmp_path / "nothing").reason


def test_a_swap_asks_for_the_signature_that_the_running_bundle_has(tmp_path):
    keys = [mmedge.generate_key(tmp_path / name) for name in ("ours", "theirs")]
    signed = {"old": (1, 0, 4), "new": (2, 0, 5), "older": (3, 0, 3), "foreign": (4, 1, 9)}
    for name, (number, key, version) in signed.items():
        make_network(tmp_path / name, number)
        mmedge.sign_bundle(tmp_path / name, keys[key].private, version=version)
    make_network(tmp_path / "unsigned", 5)
    trusted = [keys[0].public]
    with mmedge.load(tmp_path / "old", threads=1, trusted_keys=trusted) as pipe:
        for name, words in (
            ("older", "release of version 3, expected 4 or higher"),
            ("foreign", "no signature by a trusted key"),
            ("unsigned", "the bundle is not signed"),
        ):
            with robot(pipe) as it:
                report = refused(it, tmp_path / name)
                assert "SignatureError" in report.reason
                assert words in report.reason
        # A pipeline that was loaded without keys is of no verified release.
        with mmedge.load(tmp_path / "new", threads=1) as other, robot(pipe) as it:
            assert "the new one is of no verified release" in refused(it, other).reason
        with robot(pipe) as it:
            swap = it.stream.swap(tmp_path / "new", shadow=2, probation=2)
            it.run(0.5)
            assert swap.state == "confirmed"


def test_wrong_golden_samples_are_refused(pipe, folder):
    class Wrong(Planted):
        def run_stage(self, stage, feeds):
            outputs = super().run_stage(stage, feeds)
            return {name: value + 1 for name, value in outputs.items()}

    with mmedge.load(folder / "two", threads=1) as other, robot(pipe) as it:
        report = refused(it, Wrong(other, lambda stage, feeds: None))
        assert "AccuracyError" in report.reason


def test_nothing_is_left_of_a_network_that_was_refused(pipe, tmp_path, monkeypatch):
    make_network(tmp_path / "off", 2, offset=3.0)
    loaded = []
    reload = pipe.reload

    def load(*args, **options):
        made = reload.func(*args, **options)
        loaded.extend(map(weakref.ref, (made, *made._loaded.sessions.values())))
        return made

    load_as_before = type(reload)(load, **reload.keywords)
    monkeypatch.setattr(pipe, "reload", load_as_before)
    with robot(pipe) as it:
        refused(it, tmp_path / "off", limit={"score": 0.01})
        assert len(loaded) == 4
        assert [reference() for reference in loaded] == [None] * 4


def test_a_fault_in_probation_brings_the_old_network_back_and_no_result_is_lost(pipe, folder):
    for stage, fault in (("fuse2", "its fusion failed"), ("see2", "its encoder of 'camera'")):
        with mmedge.load(folder / "two", threads=1) as other, robot(pipe) as it:

            def crash(name, feeds, stage=stage, it=it):
                if name == stage and it.count > 70:
                    raise ValueError("broken")

            swap = it.stream.swap(Planted(other, crash), shadow=3, probation=100)
            results = it.run(1.2)
            assert swap.state == "rolled_back"
            assert fault in swap.report.reason
            numbers = [r.network.number for r in results]
            assert numbers == sorted(numbers[:14]) + [0] * (len(numbers) - 14)
            assert 1 in numbers[:14]
            # None is lost or empty: the one that failed was made again by the old network.
            assert len(results) == 24
            assert all(r.fresh and r.outputs is not None for r in results)
            assert it.events.kinds == ["swap_started", "swapped", "rolled_back"]
            assert it.stream.health().modalities["camera"].errors == 0


def test_nan_in_probation_never_comes_out(pipe, tmp_path):
    make_network(tmp_path / "nan", 2, nan_from=70.0)
    with robot(pipe) as it:
        swap = it.stream.swap(tmp_path / "nan", shadow=3, probation=100)
        results = it.run(1.2)
        assert swap.state == "rolled_back"
        assert swap.report.reason == "output 'score' has NaN or infinity"
        assert all(np.isfinite(r.outputs["score"]).all() for r in results)
        assert len(results) == 24


def test_more_missed_deadlines_than_before_bring_the_old_network_back(pipe, folder):
    with robot(pipe, deadline_ms=20) as it:
        swap = it.stream.swap(folder / "two", shadow=3, probation=100)
        it.run(0.5)
        assert swap.state == "probation"
        it.clock.costs["fuse2"] = 0.030
        results = it.run(1.5)
        assert swap.state == "rolled_back"
        assert "3 of " in swap.report.reason
        assert "missed the deadline, 2 at most by the share before" in swap.report.reason
        assert swap.report.misses == 3
        assert [r.met for r in results].count(False) == 3
        assert all(r.met for r in results[-20:])


def test_the_old_network_may_shadow_the_new_one(pipe, tmp_path, folder):
    with mmedge.load(folder / "two", threads=1) as other, robot(pipe) as it:

        class Drifts(Planted):
            def run_stage(self, stage, feeds):
                outputs = super().run_stage(stage, feeds)
                if stage == "fuse2" and it.count > 70:
                    outputs["score"] = outputs["score"] + 5
                return outputs

        swap = it.stream.swap(
            Drifts(other, lambda *_: None),
            shadow=3, limit={"score": 0.01}, probation=1000, shadow_old=True,
        )  # fmt: skip
        it.run(0.6)
        assert swap.state == "probation"
        assert swap.report.compared > 3
        it.run(0.6)
        assert swap.state == "rolled_back"
        assert "beside the old network: output 'score' differs" in swap.report.reason


def test_cancel_in_the_shadow_and_in_probation(pipe, folder):
    with robot(pipe) as it:
        swap = it.stream.swap(folder / "two", shadow=5)
        it.run(0.1)
        swap.cancel()
        swap.cancel()
        assert (swap.state, swap.report.reason) == ("canceled", "the application canceled it")
        swap = it.stream.swap(folder / "two", shadow=2)
        it.run(0.5)
        assert swap.state == "probation"
        swap.cancel()
        assert swap.state == "rolled_back"
        results = it.run(0.2)
        assert {r.network.number for r in results} == {0}


def test_a_stream_that_is_closed_in_the_midst_cleans_up(pipe, folder):
    for seconds, state in ((0.1, "shadow"), (0.5, "probation")):
        with robot(pipe) as it:
            swap = it.stream.swap(folder / "two", shadow=4)
            it.run(seconds)
            assert swap.state == state
            owned = it.stream._core.owned[0].pipe
            it.stream.close()
            assert swap.state == "canceled"
            assert not owned._loaded.sessions
            assert it.events.kinds[-2:] == ["swap_refused", "close"]
    with pipe.stream(trigger="camera", clock=SimulatedClock()):
        pass  # the pipeline itself is still open


def test_two_swaps_one_after_the_other(pipe, folder, tmp_path):
    make_network(tmp_path / "three", 3)
    with robot(pipe, costs={}) as it:
        first = it.stream.swap(folder / "two", shadow=2, probation=2)
        with pytest.raises(InputError, match="another swap is under way"):
            it.stream.swap(tmp_path / "three")
        it.run(0.6)
        assert first.state == "confirmed"
        (owned,) = it.stream._core.owned
        second = it.stream.swap(tmp_path / "three", shadow=2, probation=2)
        it.run(0.6)
        assert second.state == "confirmed"
        assert not owned.pipe._loaded.sessions  # the stream loaded it, and closed it
        assert [n.id.number for n in it.stream._core.owned] == [2]


def test_wait_advances_the_clock_and_says_how_far_it_is(pipe, folder):
    with robot(pipe) as it:
        swap = it.stream.swap(folder / "two", shadow=2)
        with pytest.raises(TimeoutError, match="state 'shadow', with 0 of 2 results compared"):
            swap.wait(0.5)
        it.run(0.2)
        swap.cancel()
        assert swap.wait() == "rolled_back"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shadow": -1}, "shadow must be a number of results"),
        ({"probation": 1.5}, "probation must be a number of results"),
        ({"shadow": 0, "limit": 0.1}, "shadow=0 compares nothing"),
        ({"limit": {"nothing": 0.1}}, "unknown output 'nothing'"),
        ({"limit": -0.1}, "limit of all outputs"),
        ({"limit": {"out": True}}, "limit of output 'out'"),
        ({"shadow_old": True}, "shadow_old needs probation, and a limit"),
        ({"metric": lambda a, b: 0.0}, "with a metric, limit is the number that its mean"),
        ({"nothing": 1}, "unknown argument 'nothing'"),
        ({"patience_ms": -1}, "patience_ms must be 0 or more"),
    ],
)
def test_arguments_that_cannot_be_meant(pipe, folder, options, words):
    with robot(pipe) as it, pytest.raises(InputError, match=words):
        it.stream.swap(folder / "two", **options)


def test_options_of_a_pipeline_that_is_loaded_already(pipe):
    with robot(pipe) as it, pytest.raises(InputError, match="is loaded already"):
        it.stream.swap(pipe, threads=1)


def test_the_program_of_the_page(folder, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[3] / "docs" / "howto" / "update.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shutil.copytree(folder / "one", tmp_path / "robot.mmedge")
    shutil.copytree(folder / "two", tmp_path / "robot-2.mmedge")
    monkeypatch.chdir(tmp_path)
    # This network's output has another name.
    exec(compile(program.replace('"action"', '"score"'), "update.md", "exec"), {})
    assert capsys.readouterr().out.split() == ["loading"]
