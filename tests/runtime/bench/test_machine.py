"""The machine's state and what throttles it, on recorded trees and here; the monitor of both."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path

import pytest
import sysfs_trees as trees
from hypothesis import given
from hypothesis import strategies as st
from watching import watch

from mmedge.bench.machine import host, monitor
from mmedge.bench.machine.jetson import Jetson
from mmedge.bench.machine.monitor import CpuTimes, Monitor

SOURCES = {
    "x86": trees.x86,
    "cgroup_v1": trees.cgroup_v1,
    "orin": trees.orin,
    "agx_orin": trees.agx_orin,
    "nano": trees.nano,
}


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


def test_a_report_from_a_checkout_names_its_commit():
    here = Path(__file__).resolve().parents[3]
    if not (here / ".git").exists():
        pytest.skip("no checkout: the tests run from a copy of the files")
    assert re.fullmatch(r"[0-9a-f]{40}", host.state()["commit"])


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


# --- the monitor ----------------------------------------------------------------------------------


@pytest.mark.serial
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
