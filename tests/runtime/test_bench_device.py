"""The machine's state, throttling and energy, on recorded trees, a stand-in for NVML, and here."""

from __future__ import annotations

import json
import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import pytest
import sysfs_trees as trees
from hypothesis import given, settings
from hypothesis import strategies as st

from mmedge.bench import energy, gpu_state, host, monitor
from mmedge.bench.energy import Energy, consumed, rapl_packages
from mmedge.bench.gpu_state import Gpus
from mmedge.bench.jetson import Jetson
from mmedge.bench.monitor import CpuTimes, Monitor

NO_GPU = Gpus(None, None)
SOURCES = {
    "x86": trees.x86,
    "cgroup_v1": trees.cgroup_v1,
    "orin": trees.orin,
    "agx_orin": trees.agx_orin,
    "nano": trees.nano,
}


@pytest.fixture
def x86(tmp_path):
    return trees.x86(tmp_path)


@pytest.fixture
def orin(tmp_path):
    return trees.orin(tmp_path)


@pytest.fixture(scope="module")
def shared_orin(tmp_path_factory):
    return trees.orin(tmp_path_factory.mktemp("orin"))


@pytest.fixture
def at_once(monkeypatch):
    """Sample as often as asked, and let short blocks have an energy."""
    monkeypatch.setattr(monitor, "BUDGET", 1.0)
    monkeypatch.setattr(energy, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(energy, "MIN_GPU_SECONDS", 0.0)


def watch(root, change=None, samples=8):
    """A monitor that took ``samples`` of ``root`` or more; ``change`` is called halfway."""

    def wait(goal):
        end = time.monotonic() + 20
        while found._taken < goal:
            assert time.monotonic() < end, "no samples"
            time.sleep(0.001)

    with Monitor(root, period_s=0.002) as found:
        wait(samples // 2)
        if change:
            change()
        wait(max(samples, 2 * found._taken))
    return found


# --- state ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOURCES)
def test_every_tree_is_plain_data(name, tmp_path, at_once):
    root = SOURCES[name](tmp_path)
    state = host.state(root)
    record = watch(root, samples=4).record()
    assert json.loads(json.dumps([state, record], allow_nan=False)) == [state, record]
    assert record["during"]
    assert state["load_average"] == [0.5, 0.25, 0.1]
    assert state["memory_bytes"] == 8000 * 1024
    assert state["memory_available_bytes"] == 5000 * 1024
    assert state["swap_used_bytes"] == 100 * 1024
    assert state["affinity"] == "0-1"
    assert state["threads"] == 3
    assert state["system"].endswith("6.8.0-test")
    assert state["realtime_kernel"] is True


def test_the_state_of_a_pc(x86):
    state = host.state(x86)
    assert state["cpu"] == "Test CPU"
    assert state["board"] == "Test board"
    assert state["boost"] is False
    assert state["governors"] == ["performance"]
    assert state["frequency_mhz"] == [3000, 2900]
    assert state["frequency_source"] == "scaling_cur_freq"
    assert state["frequency_limits_khz"] == [800000, 3500000]
    assert state["frequency_hardware_khz"] == [400000, 4200000]
    assert state["temperature_c"] == {"acpitz": 40, "acpitz 2": 41, "coretemp": 55}
    assert state["cooling"] == {}  # a fan slows nothing down
    assert state["cgroup_memory_bytes"] == 4096000
    assert state["cgroup_cpu_max"] == "150000 100000"
    assert state["cgroup_cpus"] == 1.5
    assert state["cgroup_throttled"] == {"periods": 3, "seconds": 1.5}
    assert state["thermal_throttle"] == {"core": 10, "package": 7}  # one package, seen twice
    assert (state["virtual"], state["container"]) == (False, None)


def test_the_tightest_quota_of_all_groups_is_in_force(x86):
    trees.put(x86, {"sys/fs/cgroup/jobs/bench/cpu.max": "40000 20000"})
    assert host.state(x86)["cgroup_cpus"] == 1.5
    trees.put(x86, {"sys/fs/cgroup/jobs/bench/cpu.max": "10000 20000"})
    assert host.state(x86)["cgroup_cpus"] == 0.5
    trees.put(x86, {"sys/fs/cgroup/jobs/cpu.max": "100 1000"})
    assert host.state(x86)["cgroup_cpu_max"] == "100 1000"


def test_cgroup_v1_in_a_container_of_a_virtual_machine(tmp_path):
    state = host.state(trees.cgroup_v1(tmp_path))
    assert state["cgroup_cpus"] == 0.5
    assert state["cgroup_memory_bytes"] is None
    assert state["cgroup_throttled"] == {"periods": 2, "seconds": 2.5}
    assert state["virtual"] is True
    assert "docker" in state["container"]
    assert state["frequency_mhz"] == [2000]
    assert state["frequency_source"] == "cpuinfo (nominal)"


def test_cpuinfo_stands_in_for_cpufreq(x86):
    for core in range(2):
        trees.drop(x86, f"{trees.CPUS}/cpu{core}/cpufreq")
    state = host.state(x86)
    assert state["frequency_mhz"] == [3000, 3000]
    assert state["frequency_source"] == "cpuinfo"
    assert state["frequency_khz"] is None


def test_what_is_not_there_is_none(tmp_path):
    state = host.state(tmp_path)
    gone = ("governor", "boost", "frequency_mhz", "cgroup_throttled", "thermal_throttle", "board")
    assert [state[key] for key in gone] == [None] * len(gone)
    assert state["memory_bytes"] is None
    with Monitor(tmp_path, period_s=None) as found:
        pass
    assert found.record()["throttled"].startswith("unknown: ")
    assert found.record()["after"]["cpu_share"] is None


def test_the_commit_of_a_checkout(tmp_path):
    git = tmp_path / "repo" / ".git"
    assert host._commit(git) is None
    trees.put(git, {"HEAD": "ref: refs/heads/main", "packed-refs": "# pack\naaa refs/heads/main"})
    assert host._commit(git) == "aaa"
    trees.put(git, {"refs/heads/main": "bbb"})
    assert host._commit(git) == "bbb"
    trees.put(git, {"worktrees/w/HEAD": "ref: refs/heads/side", "worktrees/w/commondir": "../.."})
    trees.put(git, {"refs/heads/side": "ccc"})
    trees.put(tmp_path, {"w/.git": f"gitdir: {git / 'worktrees/w'}"})
    assert host._commit(tmp_path / "w" / ".git") == "ccc"
    trees.put(git, {"HEAD": "ddd"})
    assert host._commit(git) == "ddd"


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10**6), st.integers(0, 10**6))
def test_shares_of_the_cores_time_add_up(own, others, idle, steal):
    earlier = CpuTimes(50, 20, 1, 7)
    total = own + others + idle + steal
    later = CpuTimes(50 + total, 20 + own + others, 1 + steal, 7 + own)
    share = later.since(earlier)
    assert share["own"] + share["others"] == pytest.approx(share["busy"])
    assert share["busy"] + share["steal"] + idle / total == pytest.approx(1)
    assert earlier.since(earlier) is None


def test_the_time_of_others_and_steal(x86):
    with Monitor(x86, period_s=None) as found:
        trees.ticks(x86, busy=600, idle=1300, steal=100, own=200)
    assert found.record()["after"]["cpu_share"] == {
        "busy": 0.6, "own": 0.2, "others": 0.4, "steal": 0.1,
    }  # fmt: skip


# --- throttling -----------------------------------------------------------------------------------

STAT = "nr_periods 90\nnr_throttled 5\nthrottled_usec 1750000"
MOMENT = "nr_throttled 4\nthrottled_usec 1500000"
THERMAL = f"{trees.CPUS}/cpu1/thermal_throttle"
COOLING = "sys/class/thermal/cooling_device1/cur_state"
CAUSES = {
    "quota": ("x86", {trees.QUOTA: STAT}, "quota stopped it in 2 periods, 0.250 s"),
    "quota, a moment": ("x86", {trees.QUOTA: MOMENT}, "in 1 periods, 0.000 s"),
    "core": ("x86", {f"{THERMAL}/core_throttle_count": 9}, "thermal events of a CPU core: 4"),
    "package": (
        "x86",
        {f"{THERMAL}/package_throttle_count": 8},
        "thermal events of a CPU package: 1",
    ),
    "cooling": ("orin", {COOLING: 3}, "cooling device cpufreq-cpu0 in"),
    "current": (
        "orin",
        {"sys/class/hwmon/hwmon3/oc3_event_cnt": 5},
        "instantaneous over-current events of the module: 2",
    ),
}


@pytest.mark.parametrize("name", CAUSES)
def test_each_cause_is_named_and_none_without_it(name, tmp_path, at_once):
    source, files, words = CAUSES[name]
    root = SOURCES[source](tmp_path)
    quiet = watch(root).record()
    assert quiet["throttled"] is None
    assert "CPU frequency" in quiet["sampling"]["watched"]
    found = watch(root, lambda: trees.put(root, files)).record()["throttled"]
    assert words in found
    assert ";" not in found


@pytest.mark.parametrize(("last", "throttled"), [(2600, True), (2750, False)])
def test_a_falling_frequency(x86, at_once, last, throttled):
    # The other core idles at a low clock all the time, which is no throttling.
    trees.frequencies(x86, 3000, 800)
    found = watch(x86, lambda: trees.frequencies(x86, last, 800)).record()
    assert found["during"][0]["frequency_mhz"] == {"mean": 1900, "min": 800, "max": 3000}
    words = "the CPU's frequency fell from 3000 to 2600 MHz"
    assert found["throttled"] == (words if throttled else None)


def test_a_nominal_frequency_and_a_quiet_quota_prove_nothing(tmp_path, at_once):
    record = watch(trees.cgroup_v1(tmp_path)).record()
    assert record["throttled"].startswith("unknown: ")
    assert "quota did not stop it" in record["throttled"]
    assert record["sampling"]["watched"] == ["cgroup quota"]


# --- energy ---------------------------------------------------------------------------------------


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


# --- Jetson ---------------------------------------------------------------------------------------


def test_the_state_of_an_orin(orin):
    state = Jetson.find(orin).state()
    assert state["model"] == "NVIDIA Jetson Orin Nano"
    assert "nvidia,tegra234" in state["compatible"]
    assert state["release"] == "# R36 (release), REVISION: 4.3"
    mode = {"id": 2, "name": "MAXN_SUPER", "source": "/var/lib/nvpmodel/status"}
    assert state["power_mode"] == mode
    assert state["emc_mhz"] == 3199
    assert state["gpu"] == {
        "name": "17000000.gpu", "frequency_mhz": 624.75, "frequency_limits_mhz": [306.0, 1020.0],
        "load": 0.845,
    }  # fmt: skip
    assert state["rails_w"] == {"VDD_IN": 10, "VDD_CPU_GPU_CV": 3, "VDD_SOC": 2}
    events = {"under-voltage": 1, "average over-current": 2, "instantaneous over-current": 3}
    assert state["overcurrent_events"] == events


def test_the_state_of_a_nano_that_keeps_its_default_mode(tmp_path):
    state = Jetson.find(trees.nano(tmp_path)).state()
    assert state["power_mode"] == {"id": 0, "name": "15W", "source": "/etc/nvpmodel.conf"}
    assert state["emc_mhz"] == 1600
    assert state["gpu"]["name"] == "57000000.gpu"
    assert state["gpu"]["load"] == 0.12
    assert state["rails_w"] == {"POM_5V_IN": 4, "POM_5V_GPU": 1, "POM_5V_CPU": 1.5}
    assert state["overcurrent_events"] == {}


def test_a_jetson_that_keeps_its_files_from_the_user(orin, monkeypatch):
    trees.forbid(
        monkeypatch,
        orin / "var/lib/nvpmodel/status",
        orin / "etc/nvpmodel.conf",
        orin / "sys/kernel/debug/bpmp/debug/clk/emc/rate",
    )
    state = Jetson.find(orin).state()
    assert state["power_mode"] is None
    assert state["emc_mhz"] is None


def test_a_pc_is_no_jetson(x86):
    assert Jetson.find(x86) is None


def test_a_sample_of_a_jetson(orin, at_once):
    record = watch(orin).record()
    sample = record["during"][-1]
    assert sample["gpu"]["17000000.gpu"]["load"] == 0.845
    assert sample["power_w"]["VDD_IN"] == 10
    assert sample["temperature_c"] == {"cpu-thermal": 48.5}
    assert record["before"]["jetson"]["power_mode"]["name"] == "MAXN_SUPER"
    times = [sample["at_s"] for sample in record["during"]]
    assert times == sorted(times)
    assert times[0] > 0


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


# --- the monitor ----------------------------------------------------------------------------------


def test_this_machine_within_the_budget():
    with Monitor(period_s=0.02) as found:
        time.sleep(1.2)
    record = found.record()
    sampling = record["sampling"]
    assert 2 <= sampling["taken"] == sampling["kept"] == len(record["during"])
    # The first sample is taken before its cost is known; the rest keep the mean below the budget.
    assert sampling["cpu_share"] < 2 * monitor.BUDGET
    assert record["during"][-1]["load"] is not None
    assert record["after"]["cpu_share"]["own"] < 0.5
    used = found.energy(100)
    assert (used["watts"] is None) == (used["source"] is None)
    assert used["source"] or used["missing"]
    json.dumps([record, used], allow_nan=False)


def test_no_thread_is_left_and_none_is_started_without_a_period(x86):
    def alive():
        return [t for t in threading.enumerate() if t.name == "mmedge-monitor"]

    with pytest.raises(KeyError), Monitor(x86) as found:
        assert len(alive()) == 1
        raise KeyError
    assert not alive()
    assert found.record()["after"]
    with Monitor(x86, period_s=None) as found:
        assert not alive()
    assert found.record()["during"] == []


def test_long_runs_are_thinned_evenly(x86, monkeypatch, at_once):
    monkeypatch.setattr(monitor, "KEEP", 4)
    found = watch(x86, samples=40)
    sampling = found.record()["sampling"]
    assert 4 <= sampling["kept"] < 8
    assert sampling["taken"] >= 40
    assert sampling["kept"] == -(-sampling["taken"] // found._stride)


def test_wrong_use_is_refused(x86):
    with pytest.raises(ValueError, match="period_s must be > 0"):
        Monitor(x86, period_s=0)
    found = Monitor(x86)
    with pytest.raises(RuntimeError, match="not ended"):
        found.record()
    with pytest.raises(RuntimeError, match="not ended"):
        found.energy(1)
