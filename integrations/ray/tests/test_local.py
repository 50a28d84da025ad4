"""Recordings and samples through a bundle in one process: rows, resuming, errors, refusals."""

from __future__ import annotations

import ast
import importlib
import json
import os
import shutil
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from logs import BUNDLES, NAMES, ROOT, STREAMING, files, record, tables
from safetensors.numpy import save_file

import mmedge
import mmedge_ray
from mmedge import BundleError, InputError, SignatureError
from mmedge.recording import Golden, Playback, Recorder, open_recording
from mmedge.stream import Window
from mmedge_ray import find_recordings, read_outputs, run_recordings, run_samples
from mmedge_ray import tables as module


def test_only_public_names_of_mmedge_are_used():
    checked = 0
    for path in (ROOT / "integrations" / "ray" / "mmedge_ray").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "mmedge":
                assert node.module in {"mmedge", "mmedge.recording", "mmedge.spec", "mmedge.stream"}
                public = importlib.import_module(node.module).__all__
                assert {one.name for one in node.names} <= set(public), path
                checked += 1
    assert checked >= 10
    assert all(getattr(mmedge_ray, name) is not None for name in mmedge_ray.__all__)


def test_rows_are_the_results_of_a_playback(logs, local):
    assert tuple(tables(local)) == NAMES
    with mmedge.load(STREAMING, plan="cut", threads=1) as pipe:
        for name, path in find_recordings(logs).items():
            table = tables(local)[name]
            rows, out = table.to_pylist(), read_outputs(table, "out")
            with Playback(pipe, open_recording(path), trigger="camera", keep=999) as playback:
                results = list(playback)
            assert len(results) == len(rows) > 80
            for result, row, array in zip(results, rows, out, strict=True):
                assert array.dtype == np.float32
                assert array.tobytes() == result.outputs["out"].tobytes()
                for key in ("t", "made", "latency", "trigger", "fresh", "met", "outputs_t"):
                    assert row[key] == getattr(result, key)
                assert (row["recording"], row["reason"]) == (name, "")
                assert row["ages"] == dict(result.ages)
                assert {k: v for k, v in row["absent"].items() if v} == dict(result.absent)
                for modality, used in result.samples.items():
                    pairs = [(one["seq"], one["t"]) for one in row["samples"][modality]]
                    assert pairs == [tuple(one) for one in used]
                dropped = [
                    {"modality": m, "reason": r, "count": n}
                    for m, reasons in sorted(result.dropped.items())
                    for r, n in sorted(reasons.items())
                ]
                assert row["dropped"] == dropped
                assert dict(row["notes"]) == dict(result.notes)
            end = json.loads(pq.read_metadata(local / f"{name}.parquet").metadata[b"mmedge.end"])
            assert end["pushed"] == playback.pushed
            assert end["health"]["results"] == len(rows)
            assert end["health"]["results_dropped"] == 0


def test_a_deadline_and_costs_show_on_the_simulated_clock(logs, tmp_path):
    summary = run_recordings(
        STREAMING, [logs / "a"], tmp_path, trigger="camera", deadline_ms=10, costs={"fuse": 0.02}
    )
    (table,) = tables(tmp_path).values()
    rows = table.to_pylist()
    assert summary.outcomes[0].rows == len(rows)
    fresh = [row for row in rows if row["fresh"]]
    # 4 ms from the stamp to the arrival, and 20 ms of the stage.
    assert {round(row["latency"], 9) for row in fresh} == {0.024}
    assert {row["met"] for row in rows} == {False}
    assert any(not row["fresh"] for row in rows)


def test_a_finished_recording_is_not_run_again(logs, local, tmp_path):
    shutil.copytree(local, tmp_path / "out")
    before = files(tmp_path / "out")
    more = {**find_recordings(logs), "new": record(tmp_path / "new", seconds=1.0)}
    summary = run_recordings(STREAMING, more, tmp_path / "out", trigger="camera")
    counts = {outcome.name: (outcome.status, outcome.attempts) for outcome in summary.outcomes}
    assert counts.pop("new") == ("done", 1)
    assert set(counts.values()) == {("finished", 0)}
    after = files(tmp_path / "out")
    assert after.pop("new.parquet")
    assert after == before
    again = run_recordings(STREAMING, more, tmp_path / "out", trigger="camera")
    assert again.count("finished") == 7
    assert [one.rows for one in again.outcomes] == [one.rows for one in summary.outcomes]


def test_a_copy_is_known_by_its_content_and_a_change_is_told(logs, tmp_path):
    shutil.copytree(logs / "a", tmp_path / "logs" / "a")
    run = lambda: run_recordings(  # noqa: E731
        STREAMING, tmp_path / "logs", tmp_path / "out", trigger="camera"
    )
    assert run().count("done") == 1
    for path in (tmp_path / "logs" / "a").iterdir():
        os.utime(path, ns=(1, 1))
    assert run().count("finished") == 1
    shutil.rmtree(tmp_path / "logs" / "a")
    shutil.copytree(logs / "b", tmp_path / "logs" / "a")
    before = files(tmp_path / "out")
    summary = run()
    assert summary.count("failed") == 1
    assert "was made of other content" in summary.errors[0][1]
    assert files(tmp_path / "out") == before


def test_another_bundle_or_option_is_refused(logs, tmp_path):
    one = [logs / "a"]
    run_recordings(STREAMING, one, tmp_path / "out", trigger="camera")
    before = files(tmp_path / "out")
    for options in (
        {"trigger": "lidar"},
        {"trigger": "camera", "deadline_ms": 5},
        {"trigger": "camera", "align": {"voice": Window(4, 2)}},
        {"trigger": "camera", "costs": {"fuse": 0.001}},
        {"trigger": "camera", "load": {"threads": 2}},
        {"trigger": "camera", "limits": {"depth": 8}},
    ):
        with pytest.raises(InputError, match="belongs to another run"):
            run_recordings(STREAMING, one, tmp_path / "out", **options)
    with pytest.raises(InputError, match="bundle was"):
        run_recordings(BUNDLES / "recurrent.mmedge", one, tmp_path / "out", trigger="camera")
    # A file that somebody put there.
    run_recordings(STREAMING, one, tmp_path / "other", trigger="lidar")
    shutil.copy(tmp_path / "other" / "a.parquet", tmp_path / "out" / "b.parquet")
    summary = run_recordings(STREAMING, [logs / "b"], tmp_path / "out", trigger="camera")
    assert "b.parquet: is of another run; options.trigger was" in summary.errors[0][1]
    assert files(tmp_path / "out").items() > before.items()
    (tmp_path / "out" / "_run.json").unlink()
    with pytest.raises(InputError, match="they are of no run"):
        run_recordings(STREAMING, one, tmp_path / "out", trigger="camera")


def test_an_unknown_trigger_is_refused_before_anything_is_written(logs, tmp_path):
    with pytest.raises(InputError, match="trigger 'camrea': expected 'any', a rate in Hz, or one"):
        run_recordings(STREAMING, logs, tmp_path / "out", trigger="camrea")
    assert not (tmp_path / "out").exists()
    assert run_recordings(STREAMING, [logs / "a"], tmp_path / "out", trigger="any").errors == ()


def test_what_is_broken_is_told_by_name_and_the_rest_goes_on(logs, tmp_path):
    folder = tmp_path / "logs"
    for name in ("a", "b"):
        shutil.copytree(logs / name, folder / name)
    chunk = folder / "a" / "chunk-000000.safetensors"
    data = bytearray(chunk.read_bytes())
    data[-1] ^= 1
    chunk.write_bytes(data)
    record(folder / "c", bundle=BUNDLES / "poses.mmedge")
    (folder / "d.mcap").write_bytes(b"no recording")
    shutil.copytree(logs / "c", folder / "e")
    summary = run_recordings(STREAMING, folder, tmp_path / "out", trigger="camera")
    assert dict(summary.errors).keys() == {"a", "c", "d.mcap"}
    assert "its digest differs" in dict(summary.errors)["a"]
    assert "modality 'pose' is none of bundle 'streaming'" in dict(summary.errors)["c"]
    assert {one.name for one in summary.outcomes if one.status == "done"} == {"b", "e"}
    table = json.loads((tmp_path / "out" / "_errors.json").read_text())
    assert {(row["name"], row["error"]) for row in table} == set(summary.errors)
    # No half file, and nothing left of the attempts.
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "_run.json", "_errors.json", "b.parquet", "e.parquet",
    }  # fmt: skip
    shutil.rmtree(folder / "c")
    (folder / "d.mcap").unlink()
    shutil.rmtree(folder / "a")
    assert not run_recordings(STREAMING, folder, tmp_path / "out", trigger="camera").errors
    assert not (tmp_path / "out" / "_errors.json").exists()


def test_a_recording_whose_recorder_was_killed_says_so(tmp_path):
    with mmedge.Bundle.open(STREAMING) as bundle, Recorder(tmp_path / "run", bundle) as recorder:
        for sample in Golden(bundle, seconds=11.0):
            recorder.record(sample.modality, sample.value, sample.t, sample.arrival)
        until = time.monotonic() + 60
        while not (tmp_path / "run" / "chunk-000001.safetensors").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        shutil.copytree(tmp_path / "run", tmp_path / "cut")
    run = lambda: run_recordings(  # noqa: E731
        STREAMING, [tmp_path / "cut"], tmp_path / "out", trigger="camera"
    )
    summary = run()
    assert not summary.errors
    assert summary.outcomes[0].missing.startswith("the recorder was not closed")
    assert 290 < summary.outcomes[0].rows < 330
    assert run().outcomes[0].missing == summary.outcomes[0].missing


def test_rows_are_written_in_groups_as_they_come(logs, local, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GROUP_ROWS", 25)
    run_recordings(STREAMING, [logs / "a"], tmp_path, trigger="camera")
    rows = pq.read_metadata(tmp_path / "a.parquet")
    assert rows.num_row_groups == -(-rows.num_rows // 25) > 3
    assert pq.read_table(tmp_path / "a.parquet").equals(pq.read_table(local / "a.parquet"))
    monkeypatch.setattr(module, "GROUP_BYTES", 1)
    run_recordings(STREAMING, [logs / "b"], tmp_path, trigger="camera")
    rows = pq.read_metadata(tmp_path / "b.parquet")
    assert rows.num_row_groups == rows.num_rows


@pytest.mark.parametrize(
    ("bundle", "trigger", "outputs"),
    [
        ("policy", "camera", {"latent", "finish"}),
        ("painter", "condition", {"picture", "finish"}),
        ("captioner", "image", {"tokens", "lengths", "finish"}),
        ("recurrent", "camera", None),
        ("both", 5.0, None),
        ("poses", "any", None),
    ],
)
def test_bundles_with_loops_and_states_have_rows(tmp_path, bundle, trigger, outputs):
    path = BUNDLES / f"{bundle}.mmedge"
    record(tmp_path / "run", bundle=path, seconds=1.0)
    summary = run_recordings(path, [tmp_path / "run"], tmp_path / "out", trigger=trigger)
    assert not summary.errors
    table = pq.read_table(tmp_path / "out" / "run.parquet")
    names = {field.name for field in table.schema.field("outputs").type}
    assert outputs is None or outputs <= names, names
    assert any(row["outputs"] is not None for row in table.to_pylist())
    with (
        mmedge.load(path, threads=1) as pipe,
        Playback(pipe, open_recording(tmp_path / "run"), trigger=trigger) as playback,
    ):
        results = list(playback)
    for name in names:
        given = [None if one.outputs is None else one.outputs[name] for one in results]
        if isinstance(next(value for value in given if value is not None), np.ndarray):
            read = read_outputs(table, name)
            assert [None if v is None else (v.dtype, v.shape, v.tobytes()) for v in read] == [
                None if v is None else (v.dtype, v.shape, v.tobytes()) for v in given
            ]
        else:
            column = [
                None if row["outputs"] is None else row["outputs"][name]
                for row in table.to_pylist()
            ]
            assert column == [[v] if isinstance(v, str) else v for v in given]


def test_samples_are_run_singly(tmp_path):
    path = BUNDLES / "both.mmedge"
    folder = tmp_path / "samples"
    folder.mkdir()
    expected = {}
    with mmedge.load(path, plan="whole", threads=1) as pipe:
        for number, sample in enumerate(pipe.bundle.samples()):
            for copy in range(4):
                name = f"{number}-{copy}.safetensors"
                inputs = {key: np.ascontiguousarray(value) for key, value in sample.inputs.items()}
                save_file(inputs, folder / name)
                expected[name] = pipe.run(inputs, cached=False)
    (folder / "z.safetensors").write_bytes(b"broken")
    save_file({"nose": np.zeros(2, np.float32)}, folder / "y.safetensors")
    summary = run_samples(path, folder, tmp_path / "out", part_samples=3)
    assert dict(summary.errors).keys() == {"y.safetensors", "z.safetensors"}
    rows = {}
    for table in tables(tmp_path / "out").values():
        assert len(table) <= 3
        arrays = {name: read_outputs(table, name) for name in pipe.bundle.manifest.outputs}
        for index, row in enumerate(table.to_pylist()):
            rows[row["sample"]] = (row["error"], {k: v[index] for k, v in arrays.items()})
    assert rows.pop("y.safetensors")[0] == dict(summary.errors)["y.safetensors"]
    assert rows.pop("z.safetensors")[1] == dict.fromkeys(pipe.bundle.manifest.outputs)
    assert rows.keys() == expected.keys()
    for name, outputs in expected.items():
        for key, array in outputs.items():
            assert rows[name][1][key].tobytes() == array.tobytes()
    # Errors stay on record, also where nothing is run any more.
    before = files(tmp_path / "out")
    again = run_samples(path, folder, tmp_path / "out", part_samples=3)
    assert again.count("finished") == len(again.outcomes)
    assert again.errors == summary.errors
    assert files(tmp_path / "out") == before


def test_a_bundle_has_to_be_signed_by_a_trusted_key_where_one_is_given(tmp_path):
    folder, path = tmp_path / "samples", tmp_path / "tiny"
    folder.mkdir()
    with mmedge.Bundle.open(BUNDLES / "tiny.mmedge") as bundle:
        bundle.copy(path).close()
        inputs = bundle.samples()[0].inputs
        variant = bundle.manifest.variants[0].id
    save_file({k: np.ascontiguousarray(v) for k, v in inputs.items()}, folder / "a.safetensors")
    key = mmedge.generate_key(tmp_path / "key")
    load = {"trusted_keys": [str(key.public)], "lowest_version": 3}
    for more in ({}, {"variant": variant}):
        with pytest.raises(SignatureError, match="the bundle is not signed"):
            run_samples(path, folder, tmp_path / "none", load={**load, **more})
    assert not (tmp_path / "none").exists()
    mmedge.sign_bundle(path, key.private, version=3)
    summary = run_samples(path, folder, tmp_path / "out", load=load)
    assert (summary.count("done"), summary.errors) == (1, ())
    with pytest.raises(SignatureError, match="lowest_version"):
        run_samples(path, folder, tmp_path / "none", load={**load, "lowest_version": 4})


def test_names_that_cannot_be_files_are_refused(logs, tmp_path):
    run = lambda recordings: run_recordings(  # noqa: E731
        STREAMING, recordings, tmp_path / "out", trigger="camera"
    )
    for name in ("../a", "/a", "a/../b", "_a", ".a", "a//b", ""):
        with pytest.raises(InputError, match="a name is the path"):
            run({name: logs / "a"})
    with pytest.raises(InputError, match="same name"):
        run([logs / "a", tmp_path / "a"])
    with pytest.raises(InputError, match="no recording is in it"):
        run(tmp_path)
    with pytest.raises(BundleError):
        run_recordings(tmp_path / "none", logs, tmp_path / "out", trigger="camera")
    with pytest.raises(InputError, match="cannot be written down"):
        run_recordings(
            STREAMING, logs, tmp_path / "out", trigger="camera", limits={"sanity": object()}
        )
    assert not (tmp_path / "out").exists()
