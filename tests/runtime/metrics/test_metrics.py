"""Metrics of streams: as Prometheus reads them over HTTP, and as OpenTelemetry collects them."""

from __future__ import annotations

import gc
import re
import socket
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from streaming import make_streaming, value

import mmedge
from mmedge.errors import BackendError, InputError
from mmedge.metrics import Metrics
from mmedge.metrics.stream_metrics import StreamMetrics, stream_families
from mmedge.stream import SimulatedClock


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    path = make_streaming(tmp_path_factory.mktemp("streaming") / "streaming")
    with mmedge.load(path, threads=1) as pipe:
        yield pipe


def run(stream, clock, count=5, late=0.01):
    """Results whose state is lost from the second on."""
    for k in range(count):
        clock.advance(0.2)
        if k == 0:
            stream.push("state", value("state", k), t=clock() - 0.03)
        stream.push("camera", value("camera", k), t=clock() - late)


def samples(text):
    """Value by name and labels, as a Prometheus server reads them."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def pick(values, name, **labels):
    return values[(name, *sorted({"stream": "front", **labels}.items()))]


def test_counts_are_those_of_health_and_results(pipe):
    clock, metrics = SimulatedClock(), Metrics(machine=False)
    with pipe.stream(trigger="camera", clock=clock, deadline_ms=5, keep=2) as s:
        metrics.watch(s, "front")
        run(s, clock)
        s.push("state", np.full((1, 3), np.nan, np.float32), t=clock() + 0.001)
        s.forget("odom")
        values, health = samples(metrics.text()), s.health()
    fresh = health.results - health.stale - health.empty
    assert fresh
    assert health.deadline_misses
    assert pick(values, "mmedge_results_total", outcome="fresh") == fresh
    assert pick(values, "mmedge_results_total", outcome="stale") == health.stale
    assert pick(values, "mmedge_deadline_misses_total") == health.deadline_misses
    assert pick(values, "mmedge_results_unread_total") == health.results_dropped == 3
    assert pick(values, "mmedge_triggers_total") == health.triggers
    assert pick(values, "mmedge_events_total", kind="forget") == 1
    for name, state in health.modalities.items():
        assert pick(values, "mmedge_samples_total", modality=name) == state.pushed
        assert pick(values, "mmedge_samples_used_total", modality=name) == state.used
        assert pick(values, "mmedge_modality_present", modality=name) == state.present
        for reason, count in state.dropped.items():
            key = {"modality": name, "reason": reason}
            assert pick(values, "mmedge_samples_dropped_total", **key) == count
    assert pick(values, "mmedge_samples_dropped_total", modality="state", reason="nan") == 1


def test_histograms_hold_every_latency_and_age(pipe):
    clock = SimulatedClock(costs={"fusion": 0.03})
    metrics = Metrics(latencies=(0.01, 0.05, 0.1), ages=(0.0, 0.025, 0.05), machine=False)
    with pipe.stream(trigger="camera", clock=clock) as s:
        metrics.watch(s, "front")
        run(s, clock)
        results = [s.result() for _ in range(5)]
        values = samples(metrics.text())
    latencies = [result.latency for result in results]
    for bound in (0.01, 0.05, 0.1):
        expected = sum(latency <= bound for latency in latencies)
        key = f"{bound:g}"
        assert pick(values, "mmedge_result_latency_seconds_bucket", le=key) == expected
    assert pick(values, "mmedge_result_latency_seconds_count") == 5
    total = pick(values, "mmedge_result_latency_seconds_sum")
    assert total == pytest.approx(sum(latencies))
    ages = [r.ages["state"] for r in results if r.ages["state"] is not None]
    assert pick(values, "mmedge_sample_age_seconds_count", modality="state") == len(ages)
    # A reason's figures, which never come again, are left out of the label.
    absences = {key: n for key, n in values.items() if key[0] == "mmedge_modality_absences_total"}
    reasons = {dict(key[1:])["reason"] for key in absences}
    assert "too_old" in reasons
    assert all(reason.replace("_", "").isalpha() for reason in reasons)
    counts = sum(name == "state" for result in results for name in result.absent)
    key = {"modality": "state", "reason": "too_old"}
    assert pick(values, "mmedge_modality_absences_total", **key) == counts == 4


def test_a_reason_of_several_words_is_told_whole(pipe):
    clock, metrics = SimulatedClock(), Metrics(machine=False)
    with pipe.stream(trigger="camera", clock=clock) as s:
        metrics.watch(s, "front")
        clock.advance(0.2)
        s.push("camera", value("camera", 0), t=clock())
        assert s.result().absent["state"] == "no sample yet"
        values = samples(metrics.text())
    key = {"modality": "state", "reason": "no_sample_yet"}
    assert pick(values, "mmedge_modality_absences_total", **key) == 1


def test_scores_of_drift_and_the_network_are_told(pipe):
    clock, metrics = SimulatedClock(), Metrics(machine=False)
    with pipe.stream(trigger="camera", clock=clock) as s:
        metrics.watch(s, "front")
        assert not [key for key in samples(metrics.text()) if "network" in key[0]]
        run(s, clock, 1)
        network = s.result().network
        values = samples(metrics.text())
    labels = {"number": "0", "digest": network.digest, "variant": network.variant}
    assert pick(values, "mmedge_network", **labels) == 1
    # Nothing is scored without a profile.
    assert "mmedge_drift_score" not in {key[0] for key in values}
    health = s.health()
    camera = replace(health.modalities["camera"], drift=0.25)
    scored = replace(health, modalities={**health.modalities, "camera": camera})
    families = {f.name: f for f in stream_families("front", scored, StreamMetrics((1,), (1,)))}
    assert families["mmedge_drift_score"].values == {("front", "camera"): 0.25}


def test_streams_have_names_of_their_own_and_go_with_their_stream(pipe):
    metrics = Metrics(machine=False)
    front = pipe.stream(trigger="camera", clock=SimulatedClock())
    rear = pipe.stream(trigger="camera", clock=SimulatedClock())
    metrics.watch(front, "front")
    with pytest.raises(InputError, match="a stream named 'front' is watched already"):
        metrics.watch(rear, "front")
    end = metrics.watch(rear, "rear")
    names = {dict(key[1:])["stream"] for key in samples(metrics.text())}
    assert names == {"front", "rear"}
    end()
    end()
    front.close()
    # A closed stream keeps its last figures; one that is gone has none.
    assert pick(samples(metrics.text()), "mmedge_events_total", kind="close") == 1
    del front
    gc.collect()
    assert samples(metrics.text()) == {}
    rear.close()


def test_served_to_this_machine_alone_until_closed(pipe):
    clock, metrics = SimulatedClock(), Metrics()
    with pipe.stream(trigger="camera", clock=clock) as s:
        metrics.watch(s, "front")
        run(s, clock)
        with metrics.serve(0) as server:
            assert server.address == "127.0.0.1"
            url = f"http://127.0.0.1:{server.port}/metrics"
            with urllib.request.urlopen(url) as answer:
                values = samples(answer.read().decode())
            port = server.port
        assert pick(values, "mmedge_results_total", outcome="fresh") == 5
        memory = values[("mmedge_process_memory_bytes",)]
        assert 10e6 < memory < 100e9
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_written_whole_to_a_file(pipe, tmp_path):
    metrics = Metrics(machine=False)
    with pipe.stream(trigger="camera", clock=SimulatedClock()) as s:
        metrics.watch(s, "front")
        metrics.write(tmp_path / "mmedge.prom")
        assert (tmp_path / "mmedge.prom").read_text() == metrics.text()
    assert [path.name for path in tmp_path.iterdir()] == ["mmedge.prom"]


def test_opentelemetry_collects_the_same_values(pipe):
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    clock, metrics = SimulatedClock(), Metrics(machine=False)
    metrics.instrument(provider.get_meter("robot"))

    def collect():
        (resource,) = reader.get_metrics_data().resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: metric for metric in scope.metrics}

    with pipe.stream(trigger="camera", clock=clock) as s:
        metrics.watch(s, "front")
        run(s, clock)
        first = collect()
        run(s, clock, 2)
        second = collect()
        text = samples(metrics.text())
    outcomes = {
        point.attributes["outcome"]: point.value
        for point in second["mmedge.results"].data.data_points
    }
    assert outcomes == {"fresh": 7, "stale": 0, "empty": 0}
    assert first["mmedge.results"].data.data_points[0].value == 5
    latency = second["mmedge.result_latency"]
    assert (latency.unit, latency.data.data_points[0].count) == ("s", 7)
    total = pick(text, "mmedge_result_latency_seconds_sum")
    assert latency.data.data_points[0].sum == pytest.approx(total)
    bounds = latency.data.data_points[0].explicit_bounds
    assert tuple(bounds) == metrics.histograms()[0].bounds
    # Every family that Prometheus is given is an instrument, too, where it has values.
    families = {family.name for family in metrics.catalog()}
    assert {f"mmedge_{name.removeprefix('mmedge.')}" for name in second} <= families | {
        "mmedge_result_latency",
        "mmedge_sample_age",
    }
    provider.shutdown()


def test_the_page_lists_every_metric():
    page = (Path(__file__).parents[3] / "docs/howto/metrics.md").read_text()
    rows = re.findall(r"^\| `(mmedge_\w+)` \| (\w+) \|([^|]*)\| ([^|]*) \|", page, re.MULTILINE)
    listed = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels)), what)
        for name, kind, labels, what in rows
    }
    metrics = Metrics()
    families = {f.name: (f.kind, f.labels, f.description) for f in metrics.catalog()}
    assert len(families) == len(metrics.catalog())
    families |= {f.name: ("histogram", f.labels, f.description) for f in metrics.histograms()}
    expected = {
        name: (kind, tuple(label for label in labels if label != "stream"), what)
        for name, (kind, labels, what) in families.items()
    }
    # Sensors that this machine lacks are on the page all the same.
    sensors = ("mmedge_temperature_celsius", "mmedge_cooling_state", "mmedge_core_frequency_hertz")
    assert {
        name: row for name, row in listed.items() if name not in sensors or name in expected
    } == expected


@pytest.mark.parametrize("bounds", [(), (1, 1), (2, 1), (1, float("nan"))])
def test_bounds_that_do_not_rise_are_refused(bounds):
    with pytest.raises(InputError, match="latencies: expected rising numbers"):
        Metrics(latencies=bounds)


def test_a_stream_that_fails_while_it_is_read_hides_no_other(pipe):
    clock = [100.0]

    def read():
        if clock[0] is None:
            raise OSError("gone")
        return clock[0]

    metrics = Metrics(machine=False)
    with pipe.stream(trigger="camera", clock=read) as one, pipe.stream(trigger="camera") as two:
        metrics.watch(one, "one")
        metrics.watch(two, "two")
        clock[0] = None
        found = samples(metrics.text())
    failed = {name: found["mmedge_stream_failed", ("stream", name)] for name in ("one", "two")}
    assert failed == {"one": 1.0, "two": 0.0}


def test_without_the_client_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "mmedge.metrics.prometheus", raising=False)
    with pytest.raises(BackendError, match=r"pip install 'mmedge\[metrics\]'"):
        Metrics().text()


def test_nothing_listens_unless_asked():
    program = (
        "import sys, mmedge.metrics; mmedge.metrics.Metrics().families();"
        "print([m for m in sys.modules if m.startswith(('prometheus', 'opentelemetry', 'http.s'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
