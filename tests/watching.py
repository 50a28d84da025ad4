"""A monitor that watches a tree of /sys and /proc for as many samples as a test needs."""

from __future__ import annotations

import time

from mmedge.bench.machine.monitor import Monitor


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
