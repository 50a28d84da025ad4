"""What a device measured is kept beside the bundle, for that bundle and that device alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from typer.testing import CliRunner

import mmedge
from mmedge.backends.registry import probe
from mmedge.bench import tune as tuning
from mmedge.bench.tune import tune
from mmedge.bundle import Bundle
from mmedge.bundle.device_cache import Measurement, cache_folder, read_measurements
from mmedge.cli.app import build_app
from mmedge.errors import BundleError, InputError

MEASURED = {
    "ort-fp32-cpu": Measurement(2.0, 1, "cut"),
    "ort-int8-cpu": Measurement(1.0, 1, "cut"),
}


@pytest.fixture
def bundle(both, tmp_path):
    path = tmp_path / "robot.mmedge"
    shutil.copy(both, path)
    return path


@pytest.fixture
def here():
    return probe()


def keep(bundle, device, measured=None):
    with Bundle.open(bundle) as opened:
        return opened.keep_measurements(MEASURED if measured is None else measured, device)


def test_loading_goes_by_it_and_the_bundle_stays_as_it_was(bundle, here):
    before = bundle.read_bytes()
    folder = keep(bundle, here)
    assert bundle.read_bytes() == before
    assert folder.parent == bundle.parent / "robot.mmedge.cache"
    with mmedge.load(bundle) as pipe:
        assert pipe.variant.id == "ort-int8-cpu"
        assert pipe.threads == 1
        assert pipe.plan == "cut"
    with mmedge.load(bundle, "ort-fp32-cpu") as pipe:
        assert (pipe.plan, pipe.why_plan) == ("cut", "measured to be faster by mmedge tune")


@pytest.mark.parametrize(
    "changes",
    [
        {"cores": 99},
        {"name": "another processor"},
        {"gpus": ("a GPU",)},
        {"libraries": {"onnxruntime": "0.1"}},
    ],
)
def test_another_device_does_not_go_by_it(bundle, here, changes):
    keep(bundle, replace(here, **changes))
    with mmedge.load(bundle) as pipe:
        assert (pipe.variant.id, pipe.plan, pipe.threads) == ("ort-fp32-cpu", "whole", None)


def test_loading_goes_by_it_where_one_target_is_asked_for(bundle, here, monkeypatch):
    """The machine is the same one, whichever of its targets is to run the bundle."""
    robot = replace(here, name="a GPU", gpus=("a GPU (sm_87)",), targets=("cpu", "cuda", "sm_87"))
    keep(bundle, robot)
    monkeypatch.setattr("mmedge.loader.probe", lambda: robot)
    for target in ("cpu", None):
        with mmedge.load(bundle, device=target) as pipe:
            assert (pipe.variant.id, pipe.plan, pipe.threads) == ("ort-int8-cpu", "cut", 1)
    with pytest.raises(InputError, match="'sm_99' is not here"):
        mmedge.load(bundle, device="sm_99")
    monkeypatch.setattr("mmedge.cli.verify.probe", lambda: robot)
    done = CliRunner().invoke(build_app(), ["verify", str(bundle), "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.stderr
    assert {row["variant"] for row in json.loads(done.stdout)["verified"]} == {"ort-int8-cpu"}


def test_two_devices_keep_theirs_side_by_side(bundle, here):
    other = replace(here, cores=99)
    folders = {
        keep(bundle, here),
        keep(bundle, other, {"ort-fp32-cpu": Measurement(7.0, None, None)}),
    }
    assert len(folders) == 2
    with Bundle.open(bundle) as opened:
        assert opened.on(here).variants[1].metrics["latency_ms"] == 1.0
        assert opened.on(other).variants[0].metrics == {"latency_ms": 7.0}


def test_another_bundle_in_its_place_does_not_go_by_it(bundle, here):
    old = keep(bundle, here)
    with Bundle.open(bundle) as opened:
        opened.with_metrics({"ort-fp32-cpu": {"parity": 0.5}}).close()
    with mmedge.load(bundle) as pipe:
        assert (pipe.variant.id, pipe.plan) == ("ort-fp32-cpu", "whole")
    assert keep(bundle, here) != old
    assert not old.exists()  # nothing will ever read it again


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[: len(text) // 2], "not JSON"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "version"),
        (lambda text: text.replace('"plan": "cut"', '"plan": "fast"'), "one of cut, whole"),
        (lambda text: text.replace("2.0", "-2.0"), "above 0"),
        (lambda text: text.replace('"threads": 1', '"threads": 0'), "whole number from 1"),
        (lambda text: text.replace('"manifest": "', '"manifest": "0')[:-3], "not JSON"),
        (lambda text: text + " " * (1 << 18), "at most"),
    ],
)
def test_a_damaged_file_counts_for_nothing_and_is_told(bundle, here, damage, words):
    file = keep(bundle, here) / "measured.json"
    file.write_text(damage(file.read_text()))
    with pytest.warns(UserWarning, match=f"measured.json: .*{words}.*mmedge tune again"):  # noqa: SIM117
        with mmedge.load(bundle) as pipe:
            assert (pipe.variant.id, pipe.plan) == ("ort-fp32-cpu", "whole")


def test_a_plan_or_variant_that_the_bundle_lacks_is_not_gone_by(bundle, here):
    file = keep(bundle, here) / "measured.json"
    text = file.read_text().replace("ort-int8-cpu", "ort-int4-cpu")
    file.write_text(text)
    with mmedge.load(bundle) as pipe:
        assert pipe.variant.id == "ort-fp32-cpu"
    keep(bundle, here, {"ort-int8-cpu": Measurement(1.0, 1, "whole")})
    with mmedge.load(bundle) as pipe:
        assert (pipe.variant.id, pipe.plan) == ("ort-int8-cpu", "cut")


def test_what_cannot_be_kept_is_an_error(bundle, here):
    (bundle.parent / "robot.mmedge.cache").write_text("in the way")
    with pytest.raises(BundleError, match="cannot be kept"):
        keep(bundle, here)


@pytest.fixture
def cut_is_faster(monkeypatch):
    def told(path, cells):
        return [{"cut": 1.0, "whole": 2.0}[cell.plan] for cell in cells]

    monkeypatch.setattr(tuning, "time_apart", told)


def test_tuning_tries_both_plans(bundle, cut_is_faster):
    opened, measured = tune(Bundle.open(bundle))
    opened.close()
    assert {one.plan for one in measured.values()} == {"cut"}
    with mmedge.load(bundle, "ort-fp32-cpu") as pipe:
        assert pipe.plan == "cut"


@pytest.mark.parametrize(("cut", "expected"), [(0.99, "whole"), (0.9, "cut"), (1.5, "whole")])
def test_whole_is_taken_of_plans_that_are_as_fast(bundle, monkeypatch, cut, expected):
    monkeypatch.setattr(
        tuning, "time_apart", lambda _, cells: [cut if c.plan == "cut" else 1.0 for c in cells]
    )
    opened, measured = tune(Bundle.open(bundle))
    opened.close()
    assert measured["ort-fp32-cpu"].plan == expected


def test_the_command_keeps_it_beside_or_in_place(bundle, cut_is_faster):
    before = bundle.read_bytes()
    done = CliRunner().invoke(build_app(), ["tune", str(bundle), "--json"])
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert bundle.read_bytes() == before
    with Bundle.open(bundle) as opened:
        assert said["kept"] == str(cache_folder(bundle, opened.digest, probe()))
        assert read_measurements(bundle, opened.digest, probe()).keys() == said["variants"].keys()
    done = CliRunner().invoke(build_app(), ["tune", str(bundle), "--in-place", "--json"])
    assert done.exit_code == 0, done.stderr
    with Bundle.open(bundle) as opened:
        assert opened.manifest.variants[0].plan == "cut"
        assert opened.manifest.variants[0].metrics["cores"] == probe().cores


def test_the_cache_of_a_bundle_that_was_written_elsewhere_goes_with_it(bundle, here, tmp_path):
    from mmedge.bundle.place import staging
    from mmedge.bundle.write import move_bundle

    target = tmp_path / "moved.mmedge"
    with staging(target) as folder:
        shutil.copy(bundle, folder / target.name)
        keep(folder / target.name, here)
        move_bundle(folder / target.name, target, overwrite=False)
    with mmedge.load(target) as pipe:
        assert pipe.variant.id == "ort-int8-cpu"
