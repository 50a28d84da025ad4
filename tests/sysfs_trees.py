"""Trees of /sys and /proc as machines show them, built from their documented layouts.

Values are plain numbers that tests can reckon with; names, units and places are the kernel's.
"""

from __future__ import annotations

import shutil
from pathlib import Path

CPUFREQ = {
    "scaling_governor": "performance",
    "scaling_min_freq": 800000,
    "scaling_max_freq": 3500000,
    "cpuinfo_min_freq": 400000,
    "cpuinfo_max_freq": 4200000,
}
CPUS = "sys/devices/system/cpu"
QUOTA = "sys/fs/cgroup/jobs/cpu.stat"
RAPL = "sys/class/powercap/intel-rapl:0"


def put(root, files):
    """Write ``files`` (path below ``root`` -> text or number), as the kernel ends them."""
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


def forbid(monkeypatch, *paths):
    """Make files unreadable, for root too, whom no file mode stops."""
    real = Path.read_bytes

    def read_bytes(self):
        if self in paths:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)


def ticks(root, *, busy=0, idle=1000, steal=0, own=0):
    """Clock ticks of the whole machine (``busy`` without steal) and of this process."""
    put(root, {
        "proc/stat": f"cpu  {busy} 0 0 {idle} 0 0 0 {steal} 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0",
        "proc/self/stat": f"4 (a (b) c) R 1 1 1 0 -1 0 0 0 0 0 {own} 0 7 7 20 0 1 0 5 6 7",
    })  # fmt: skip


def linux(root, cpuinfo):
    """What every machine has: two cores' worth of procfs."""
    put(root, {
        "proc/cpuinfo": cpuinfo,
        "proc/meminfo": "MemTotal: 8000 kB\nMemAvailable: 5000 kB\nSwapTotal: 300 kB\n"
                        "SwapFree: 200 kB",
        "proc/loadavg": "0.50 0.25 0.10 1/100 77",
        "proc/self/status": "Name:\tpython\nThreads:\t3\nCpus_allowed_list:\t0-1",
        "proc/sys/kernel/osrelease": "6.8.0-test",
        "proc/version": "Linux version 6.8.0-test (gcc) #1 SMP PREEMPT_RT",
    })  # fmt: skip
    ticks(root)


def frequencies(root, *mhz):
    """Current frequency of cores 0, 1, ... in MHz."""
    put(root, {
        f"{CPUS}/cpu{core}/cpufreq/scaling_cur_freq": value * 1000
        for core, value in enumerate(mhz)
    })  # fmt: skip


def x86(root):
    """A bare PC: two cores, one package, cgroup v2 with a quota, RAPL in all its domains."""
    cores = ("model name\t: Test CPU\ncpu MHz\t\t: 3000.000\nflags\t\t: fpu sse2",) * 2
    linux(root, "\n\n".join(cores))
    frequencies(root, 3000, 2900)
    for core in range(2):
        put(root, {f"{CPUS}/cpu{core}/cpufreq/{name}": value for name, value in CPUFREQ.items()})
        put(root, {
            f"{CPUS}/cpu{core}/thermal_throttle/core_throttle_count": 5,
            f"{CPUS}/cpu{core}/thermal_throttle/package_throttle_count": 7,
            f"{CPUS}/cpu{core}/topology/physical_package_id": 0,
        })  # fmt: skip
    put(root, {
        f"{CPUS}/intel_pstate/no_turbo": 1,
        "sys/class/dmi/id/board_name": "Test board",
        "sys/class/thermal/thermal_zone0/type": "acpitz",
        "sys/class/thermal/thermal_zone0/temp": 40000,
        "sys/class/thermal/thermal_zone1/type": "acpitz",
        "sys/class/thermal/thermal_zone1/temp": 41000,
        "sys/class/thermal/cooling_device0/type": "Fan",
        "sys/class/thermal/cooling_device0/cur_state": 1,
        "sys/class/hwmon/hwmon0/name": "coretemp",
        "sys/class/hwmon/hwmon0/temp1_input": 55000,
        "sys/class/hwmon/hwmon1/name": "nvme",
        "sys/class/hwmon/hwmon1/temp1_input": 33000,
        "proc/self/cgroup": "0::/jobs/bench",
        "sys/fs/cgroup/cgroup.controllers": "cpu memory",
        "sys/fs/cgroup/jobs/cpu.max": "150000 100000",
        "sys/fs/cgroup/jobs/memory.max": 4096000,
        QUOTA: "usage_usec 9\nnr_periods 50\nnr_throttled 3\nthrottled_usec 1500000",
        "sys/fs/cgroup/jobs/bench/cpu.max": "max 100000",
        "sys/fs/cgroup/jobs/bench/memory.max": "max",
    })  # fmt: skip
    for zone, name in {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "psys",
        "intel-rapl-mmio:0": "package-0",
    }.items():
        put(root, {
            f"sys/class/powercap/{zone}/name": name,
            f"sys/class/powercap/{zone}/energy_uj": 1_000_000,
            f"sys/class/powercap/{zone}/max_energy_range_uj": 262_143_328_850,
        })  # fmt: skip
    return root


def cgroup_v1(root):
    """A container's view of version 1: its group is at the mount, the path is the host's."""
    linux(root, "model name\t: Old CPU\nflags\t\t: fpu hypervisor\ncpu MHz\t\t: 2000.000")
    put(root, {
        "proc/self/cgroup": "5:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n1:name=systemd:/d",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": 50000,
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": 100000,
        "sys/fs/cgroup/cpu,cpuacct/cpu.stat":
            "nr_periods 9\nnr_throttled 2\nthrottled_time 2500000000",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712,
    })  # fmt: skip
    return root


def _tegra(root, model, compatible):
    linux(root, "model name\t: ARMv8 Processor rev 1 (v8l)\n")
    frequencies(root, 1510, 1510)
    put(root, {
        "proc/device-tree/model": f"{model}\0",
        "proc/device-tree/compatible": f"{compatible}\0",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3\n# more",
        "etc/nvpmodel.conf":
            "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n"
            "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< PM_CONFIG DEFAULT=0 >",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": 48500,
        "sys/class/thermal/cooling_device0/type": "pwm-fan",
        "sys/class/thermal/cooling_device0/cur_state": 2,
        "sys/class/thermal/cooling_device1/type": "cpufreq-cpu0",
        "sys/class/thermal/cooling_device1/cur_state": 0,
    })  # fmt: skip


def hwmon_rail(root, chip, channel, label, millivolts, milliamperes):
    """One channel of an INA3221 as Linux's own driver shows it."""
    folder = f"sys/bus/i2c/drivers/ina3221/{chip}/hwmon/hwmon{int(chip[-1]) + 1}"
    put(root, {
        f"{folder}/in{channel}_label": label,
        f"{folder}/in{channel}_input": millivolts,
        f"{folder}/curr{channel}_input": milliamperes,
    })  # fmt: skip


def orin(root):
    """Jetson Orin Nano or NX: hwmon rails, of which VDD_IN (5 V x 2 A = 10 W) feeds the module."""
    _tegra(root, "NVIDIA Jetson Orin Nano", "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234")
    hwmon_rail(root, "1-0040", 1, "VDD_IN", 5000, 2000)
    hwmon_rail(root, "1-0040", 2, "VDD_CPU_GPU_CV", 5000, 600)
    hwmon_rail(root, "1-0040", 3, "VDD_SOC", 5000, 400)
    put(root, {
        "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/in7_label": "sum of shunt voltages",
        "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet",
        "sys/kernel/debug/bpmp/debug/clk/emc/rate": 3199000000,
        "sys/class/devfreq/15340000.vic/cur_freq": 1,
        "sys/class/devfreq/17000000.gpu/cur_freq": 624750000,
        "sys/class/devfreq/17000000.gpu/min_freq": 306000000,
        "sys/class/devfreq/17000000.gpu/max_freq": 1020000000,
        "sys/class/devfreq/17000000.gpu/device/load": 845,
        **{f"sys/class/hwmon/hwmon3/oc{index}_event_cnt": index for index in (1, 2, 3)},
    })  # fmt: skip
    return root


def agx_orin(root):
    """Jetson AGX Orin: no rail feeds the module, and one is fed by another."""
    _tegra(root, "NVIDIA Jetson AGX Orin", "nvidia,p3737-0000+p3701-0000\0nvidia,tegra234")
    hwmon_rail(root, "1-0040", 1, "VDD_GPU_SOC", 20000, 300)
    hwmon_rail(root, "1-0040", 2, "VDD_CPU_CV", 20000, 200)
    hwmon_rail(root, "1-0040", 3, "VIN_SYS_5V0", 5000, 1000)
    hwmon_rail(root, "1-0041", 1, "NC", 0, 0)
    hwmon_rail(root, "1-0041", 2, "VDDQ_VDD2_1V8AO", 5000, 200)
    return root


def nano(root):
    """Jetson Nano with Jetson Linux 32: iio rails, of which POM_5V_IN (4 W) feeds the module."""
    _tegra(root, "NVIDIA Jetson Nano Developer Kit", "nvidia,p3450-0000\0nvidia,tegra210")
    folder = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    rails = {"POM_5V_IN": 4000, "POM_5V_GPU": 1000, "POM_5V_CPU": 1500}
    for channel, (name, milliwatts) in enumerate(rails.items()):
        put(root, {
            f"{folder}/rail_name_{channel}": name,
            f"{folder}/in_power{channel}_input": milliwatts,
        })  # fmt: skip
    put(root, {
        "sys/kernel/debug/clk/emc/clk_rate": 1600000000,
        "sys/class/devfreq/57000000.gpu/cur_freq": 921600000,
        "sys/class/devfreq/57000000.gpu/device/load": 120,
    })  # fmt: skip
    return root


def drop(root, name):
    """Take a file or folder away."""
    path = root / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
