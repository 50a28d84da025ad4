"""The probe says what runs here, and for the rest why not and what to install."""

from __future__ import annotations

import contextlib
import sys
from importlib import metadata

import pytest

from mmedge.backends import registry
from mmedge.backends.registry import probe
from mmedge.bundle.choose import restrict
from mmedge.device import Gpu, find_gpus, installed_versions
from mmedge.errors import InputError
from mmedge.spec import Tolerance, Variant


def variant(backend: str, target: str, **more) -> Variant:
    return Variant(backend, "fp32", target, {}, Tolerance(0, 0), **more)


@pytest.fixture
def machine(monkeypatch):
    """Pretend other libraries and GPUs."""

    def pretend(libraries: dict[str, str], gpus: tuple[Gpu, ...] = ()):
        monkeypatch.setattr(registry, "_libraries", lambda _names: libraries)
        monkeypatch.setattr(registry, "find_gpus", lambda: gpus)
        return probe()

    return pretend


def test_this_machine_runs_onnxruntime_on_its_cpu():
    found = probe()
    assert "ort" in found.backends
    assert found.targets[0] == "cpu"
    assert found.cores >= 1
    assert found.memory_bytes > 0
    assert variant("ort", "cpu").reject_reason(found) is None


def test_both_onnxruntime_wheels_are_detected(machine):
    found = machine({"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"})
    assert "ort" not in found.backends
    reason = variant("ort", "cpu").reject_reason(found)
    assert "overwrite each other" in reason
    assert "pip uninstall" in reason


def test_no_onnxruntime_names_the_install_line(machine):
    assert "pip install 'mmedge[cpu]'" in variant("ort", "cpu").reject_reason(machine({}))


def test_cuda_needs_a_gpu_and_its_wheel(machine):
    gpu = Gpu("Orin", "sm_87")
    assert "no NVIDIA GPU" in variant("ort", "cuda").reject_reason(
        machine({"onnxruntime-gpu": "1.31.1"})
    )
    assert "mmedge[cuda]" in variant("ort", "cuda").reject_reason(
        machine({"onnxruntime": "1.32.0"}, (gpu,))
    )
    full = machine({"onnxruntime-gpu": "1.31.1"}, (gpu,))
    assert variant("ort", "cuda").reject_reason(full) is None
    assert full.targets == ("cpu", "cuda", "sm_87")


def test_an_engine_needs_its_library_version_and_architecture(machine):
    gpu = Gpu("RTX 3090", "sm_86")
    engine = variant("tensorrt_rtx", "sm_86", requires={"tensorrt-rtx": "1.7.1"})
    assert "mmedge[rtx]" in engine.reject_reason(machine({}))
    assert "needs an NVIDIA GPU" in engine.reject_reason(machine({"tensorrt-rtx": "1.7.1"}))
    assert "needs tensorrt-rtx 1.7.1, found 1.8" in engine.reject_reason(
        machine({"tensorrt-rtx": "1.8"}, (gpu,))
    )
    right = machine({"tensorrt-rtx": "1.7.1"}, (gpu,))
    assert engine.reject_reason(right) is None
    other = variant("tensorrt_rtx", "sm_89", requires={"tensorrt-rtx": "1.7.1"})
    assert "made for sm_89" in other.reject_reason(right)


@pytest.mark.parametrize(
    ("sm", "runs"),
    [("sm_75", True), ("sm_87", False), ("sm_90", False), ("sm_120", True), ("sm_121", True)],
)
def test_tensorrt_for_rtx_runs_on_some_architectures_alone(machine, sm, runs):
    found = machine({"tensorrt-rtx": "1.7.1", "onnxruntime-gpu": "1.31.1"}, (Gpu("a GPU", sm),))
    assert ("tensorrt_rtx" in found.backends) is runs
    if not runs:
        assert f"runs on no {sm}: only on sm_75" in found.missing["tensorrt_rtx"]


def test_restrict_keeps_one_target_or_says_what_is_here(machine):
    found = machine({"onnxruntime": "1.32.0"})
    assert restrict(found, None) is found
    assert restrict(found, "cpu").targets == ("cpu",)
    with pytest.raises(InputError, match="'cuda' is not here; this machine offers cpu"):
        restrict(found, "cuda")


def test_gpus_are_found_without_aborting_where_there_are_none():
    assert all(gpu.sm.startswith("sm_") for gpu in find_gpus())


def test_versions_are_those_that_importlib_tells(tmp_path, monkeypatch):
    names = ["mmedge", "numpy", "onnxruntime", "cuda-bindings", "tensorrt-rtx", "no-such-thing"]
    told = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            told[name] = metadata.version(name)
    assert installed_versions(names) == told
    assert {"mmedge", "numpy", "onnxruntime"} <= told.keys()
    # As Debian and pip write them; of two folders on the path the first one counts.
    for folder, entry in (
        ("one", "Some_Thing-1.2.dist-info"),
        ("two", "some.thing-9.9.dist-info"),
        ("two", "other-3.4-py3.11.egg-info"),
    ):
        (tmp_path / folder / entry).mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "one"), str(tmp_path / "two"), "no folder"])
    assert installed_versions(["some-thing", "other"]) == {"some-thing": "1.2", "other": "3.4"}
