"""Energy by RAPL, by a Jetson's rails and by NVML, and what a stand-in for NVML tells of a GPU."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import sysfs_trees as trees
from hypothesis import given, settings
from hypothesis import strategies as st
from watching import watch

from mmedge.bench.machine import gpu_state
from mmedge.bench.machine.energy import Energy, consumed, rapl_packages
from mmedge.bench.machine.gpu_state import Gpus
from mmedge.bench.machine.jetson import Jetson
from mmedge.bench.machine.monitor import Monitor

NO_GPU = Gpus(None, None)


@pytest.fixture(scope="module")
def shared_orin(tmp_path_factory):
    return trees.orin(tmp_path_factory.mktemp("orin"))


def measure(root, readings, gpus=NO_GPU, change=None):
    """Energy over readings at these times (s); ``change`` is called before each with its index."""
    found = Energy(root, gpus, Jetson.find(root))
    for index, at in enumerate(readings):
        if change:
            change(index)
        if index == len(readings) - 1:
            found.finish(at)
        else:
            found.update(at)
    return found.report(10, [None] * len(gpus.joules()))


# --- RAPL -----------------------------------------------------------------------------------------


@given(st.integers(1, 2**48), st.data())
def test_a_counter_that_wraps(limit, data):
    before = data.draw(st.integers(0, limit - 1))
    rise = data.draw(st.integers(0, limit - 1))
    assert consumed(before, (before + rise) % limit, limit) == rise


def test_a_wrap_at_an_unknown_limit_is_no_figure():
    assert consumed(5, 4, None) is None
    assert consumed(4, 5, None) == 1


def test_only_packages_are_counted(x86):
    assert [package.name for package in rapl_packages(x86)] == ["package-0"]
    # 30 J in 2 s; the other domains rise as well.
    found = measure(x86, [5.0, 6.0, 7.0], change=lambda index: [
        trees.put(x86, {f"sys/class/powercap/{zone}/energy_uj": 1_000_000 + index * 15_000_000})
        for zone in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1", "intel-rapl-mmio:0")
    ])  # fmt: skip
    assert found["watts"] == pytest.approx(15)
    assert found["joules_per_result"] == pytest.approx(3)
    assert "package" in found["source"]
    assert "memory not in it" in found["source"]
    assert "idle is not subtracted" in found["source"]
    assert found["missing"] is None


def test_energy_is_that_of_the_block(x86, at_once):
    with Monitor(x86, period_s=None) as found:
        trees.put(x86, {f"{trees.RAPL}/energy_uj": 6_000_000})
    trees.put(x86, {f"{trees.RAPL}/energy_uj": 900_000_000})
    assert found.energy(10)["joules_per_result"] == pytest.approx(0.5)


def test_a_package_that_wraps_in_a_run(x86):
    limit = 262_143_328_850
    values = [limit - 4_000_000, 6_000_000, 16_000_000]
    found = measure(
        x86,
        [0.0, 1.0, 2.0],
        change=lambda i: trees.put(x86, {f"{trees.RAPL}/energy_uj": values[i]}),
    )
    assert found["watts"] == pytest.approx(10)


def test_two_packages_are_added_and_both_are_needed(x86, monkeypatch):
    second = "sys/class/powercap/intel-rapl:2"
    trees.put(x86, {f"{second}/name": "package-1", f"{second}/max_energy_range_uj": 10**12})

    def rise(index):
        for zone in (trees.RAPL, second):
            trees.put(x86, {f"{zone}/energy_uj": index * 10_000_000})

    assert measure(x86, [0.0, 2.0], change=rise)["watts"] == pytest.approx(10)
    still = measure(x86, [0.0, 2.0], change=lambda i: trees.put(
        x86, {f"{trees.RAPL}/energy_uj": i * 10_000_000}
    ))  # fmt: skip
    assert still["watts"] is None
    trees.forbid(monkeypatch, x86 / second / "energy_uj")
    found = measure(x86, [0.0, 2.0], change=rise)
    assert found["watts"] is None
    assert f"{x86 / second / 'energy_uj'} cannot be read by this user" in found["missing"]
    assert "chmod" in found["missing"]


def test_missing_says_what_there_is_not(tmp_path, x86):
    assert "RAPL counter did not move" in measure(x86, [0.0, 2.0])["missing"]
    trees.drop(x86, "sys/class/powercap")
    missing = measure(x86, [0.0, 2.0])["missing"]
    assert "intel-rapl:* does not exist" in missing
    assert "power meter" in missing
    short = measure(x86, [0.0, 0.005])
    assert short["joules_per_result"] is None
    assert "a run of 0.005 s" in short["missing"]
    assert Energy(x86, NO_GPU, None).report(0, [])["missing"]


# --- rails ----------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    st.lists(st.floats(0.01, 5), min_size=4, max_size=9),
    st.integers(1, 60_000), st.integers(1, 20_000),
)  # fmt: skip
def test_constant_power_is_power_times_time(shared_orin, steps, millivolts, milliamperes):
    root = shared_orin
    trees.hwmon_rail(root, "1-0040", 1, "VDD_IN", millivolts, milliamperes)
    times = [sum(steps[:n]) for n in range(len(steps) + 1)]
    found = measure(root, times)
    if times[-1] < 1:
        assert found["watts"] is None
    else:
        assert found["watts"] == pytest.approx(millivolts * milliamperes / 1e6)
        assert found["joules_per_result"] == pytest.approx(found["watts"] * times[-1] / 10)


def test_a_rail_that_changes_is_integrated(orin):
    amperes = [1000, 1000, 3000, 3000]  # 5, 5, 15, 15 W at 0, 1, 2, 4 s: 5 + 10 + 30 J
    found = measure(orin, [0.0, 1.0, 2.0, 4.0], change=lambda index: trees.hwmon_rail(
        orin, "1-0040", 1, "VDD_IN", 5000, amperes[index]
    ))  # fmt: skip
    assert found["joules_per_result"] == pytest.approx(4.5)
    assert found["watts"] == pytest.approx(11.25)
    assert "VDD_IN, which feeds the whole module, over 4 readings" in found["source"]


def test_rails_of_agx_orin_are_added_without_the_one_that_another_feeds(tmp_path):
    found = measure(trees.agx_orin(tmp_path), [0.0, 1.0, 2.0, 3.0])
    assert found["watts"] == pytest.approx(6 + 4 + 5)
    assert "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0 (VDDQ_VDD2_1V8AO is fed" in found["source"]
    assert "none feeds the whole module" in found["source"]


def test_rails_of_the_iio_driver(tmp_path):
    found = measure(trees.nano(tmp_path), [0.0, 1.0, 2.0, 3.0])
    assert found["watts"] == pytest.approx(4)
    assert "POM_5V_IN" in found["source"]


def test_too_few_readings_of_a_rail_are_no_figure(orin):
    found = measure(orin, [0.0, 9.0])
    assert found["watts"] is None
    assert "2 readings carry no average" in found["missing"]


def test_an_unreadable_rail_is_no_figure(orin, monkeypatch):
    label = orin / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/in1_label"
    trees.forbid(monkeypatch, label.with_name("curr1_input"))
    found = measure(orin, [0.0, 1.0, 2.0, 3.0])
    assert found["watts"] is None
    assert "curr1_input cannot be read by this user" in found["missing"]
    # A rail without a name may be the one that feeds the module: the others are no total.
    trees.forbid(monkeypatch, label)
    found = measure(orin, [0.0, 1.0, 2.0, 3.0])
    assert found["watts"] is None
    assert f"{label} cannot be read" in found["missing"]


def test_a_jetson_without_a_power_monitor(orin):
    trees.drop(orin, "sys/bus/i2c")
    missing = measure(orin, [0.0, 1.0, 2.0, 3.0])["missing"]
    assert "no power monitor below" in missing
    assert "power meter" in missing


# --- NVML -----------------------------------------------------------------------------------------


class NVMLError(Exception):
    """As pynvml's, for every answer that is none."""


@pytest.fixture
def nvml(x86, monkeypatch):
    """A pynvml of one GPU, whose answers are the attributes of what is yielded."""
    trees.put(x86, {"proc/driver/nvidia/version": "NVRM version: 550"})
    answers = SimpleNamespace(reasons=0x1, energy=5_000_000, calls=[])

    def refuse(*_):
        raise NVMLError("Not Supported")

    def count(name):
        answers.calls.append(name)

    module = ModuleType("pynvml")
    module.NVMLError = NVMLError
    module.NVML_CLOCK_SM, module.NVML_CLOCK_MEM, module.NVML_TEMPERATURE_GPU = 1, 2, 0
    module.nvmlInit = lambda: count("init")
    module.nvmlShutdown = lambda: count("shutdown")
    module.nvmlSystemGetDriverVersion = lambda: b"550.54"
    module.nvmlDeviceGetCount = lambda: 1
    module.nvmlDeviceGetHandleByIndex = lambda index: f"handle {index}"
    module.nvmlDeviceGetName = lambda handle: "Test GPU"
    module.nvmlDeviceGetPersistenceMode = lambda handle: 1
    module.nvmlDeviceGetEnforcedPowerLimit = lambda handle: 300_000
    module.nvmlDeviceGetMaxClockInfo = lambda handle, kind: {1: 1980, 2: 2619}[kind]
    module.nvmlDeviceGetClockInfo = lambda handle, kind: {1: 1500, 2: 2619}[kind]
    module.nvmlDeviceGetPowerUsage = lambda handle: 123_000
    module.nvmlDeviceGetTemperature = lambda handle, sensor: 61
    module.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: answers.reasons
    module.nvmlDeviceGetUtilizationRates = lambda handle: SimpleNamespace(gpu=87, memory=4)
    module.nvmlDeviceGetPerformanceState = refuse
    module.nvmlDeviceGetTotalEnergyConsumption = lambda handle: answers.energy
    monkeypatch.setitem(sys.modules, "pynvml", module)
    answers.module, answers.refuse = module, refuse
    return answers


def test_the_state_of_a_gpu(nvml, x86):
    gpus = Gpus.open(x86)
    (state,) = gpus.state()
    assert state == {
        "name": "Test GPU", "driver": "550.54", "persistence": True, "power_limit_w": 300.0,
        "sm_max_mhz": 1980, "mem_max_mhz": 2619, "energy_j": 5000.0, "sm_mhz": 1500,
        "mem_mhz": 2619, "power_w": 123.0, "temperature_c": 61, "reasons": ["idle"],
        "utilisation": 0.87, "performance_state": None,
    }  # fmt: skip
    gpus.close()
    gpus.close()
    assert nvml.calls == ["init", "shutdown"]


def test_a_gpu_that_slows_down_and_its_energy(nvml, x86, at_once):
    def change():
        nvml.reasons, nvml.energy = 0x4 | 0x40, nvml.energy + 60_000
        trees.put(x86, {f"{trees.RAPL}/energy_uj": 41_000_000})

    found = watch(x86, change)
    record = found.record()
    assert "gpu0: hardware thermal slowdown in " in record["throttled"]
    assert "gpu0: software power cap in " in record["throttled"]
    assert record["during"][-1]["power_w"]["gpu0"] == 123
    assert record["during"][-1]["gpu"]["gpu0"]["sm_mhz"] == 1500
    used = found.energy(results=10)
    assert used["joules_per_result"] == pytest.approx((60 + 40) / 10)
    assert "CPU package" in used["source"]
    assert "GPU 0 Test GPU (NVML" in used["source"]
    assert nvml.calls == ["init", "shutdown"]


def test_reasons_that_slow_nothing_down(nvml, x86, at_once):
    nvml.reasons = 0x1 | 0x2 | 0x10 | 0x100
    assert watch(x86).record()["throttled"] is None


def test_a_session_that_is_short_for_a_gpu_is_long_enough_for_a_package(nvml, x86):
    def rise(index):
        trees.put(x86, {f"{trees.RAPL}/energy_uj": index * 2_000_000})
        nvml.energy += 1000

    assert measure(x86, [0.0, 0.2], change=rise)["watts"] == pytest.approx(10)
    # A package without the GPU that works is not what the run took.
    found = measure(x86, [0.0, 0.2], Gpus.open(x86), change=rise)
    assert found["watts"] is None
    assert "a run of 0.2 s: the counters need at least 1 s" in found["missing"]


def test_a_gpu_without_an_energy_counter(nvml, x86):
    nvml.module.nvmlDeviceGetTotalEnergyConsumption = nvml.refuse
    found = measure(x86, [0.0, 2.0], Gpus.open(x86))
    assert found["watts"] is None
    assert "NVML has no energy counter for it" in found["missing"]
    assert "a RAPL counter did not move" in found["missing"]


def test_nvml_that_is_not_installed_or_does_not_start(nvml, x86, monkeypatch):
    nvml.module.nvmlInit = nvml.refuse
    assert "does not start: Not Supported" in Gpus.open(x86).missing
    monkeypatch.setitem(sys.modules, "pynvml", None)  # what import makes of an absent module
    with Monitor(x86, period_s=None) as found:
        pass
    assert found.record()["before"]["gpus"] == []
    assert "pip install nvidia-ml-py" in measure(x86, [0.0, 2.0], Gpus.open(x86))["missing"]
    trees.drop(x86, "proc/driver")
    assert Gpus.open(x86).missing is None


@given(st.integers(0, 2**20 - 1))
def test_every_bit_of_the_reasons_is_told(bits):
    words = gpu_state._decode(bits)
    known = {name: bit for bit, name in gpu_state.REASONS.items()}
    assert sum(known[w] if w in known else int(w.rsplit("0x", 1)[1], 16) for w in words) == bits
