"""Recordings of small bundles, and one Ray for all tests."""

from __future__ import annotations

import os

# As mmedge_ray sets them for a Ray of its own; and workers that do not give way to whatever else is
# tested at the same time.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112

import pytest
import ray
from logs import STREAMING, write_logs

from mmedge_ray import run_recordings


@pytest.fixture(scope="session")
def logs(tmp_path_factory):
    """A folder with six recordings, one of them an MCAP file in a folder of its own."""
    return write_logs(tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="session")
def local(logs, tmp_path_factory):
    """Their results, made in this process."""
    output = tmp_path_factory.mktemp("local") / "out"
    summary = run_recordings(STREAMING, logs, output, trigger="camera")
    assert not summary.errors
    return output


@pytest.fixture(scope="session")
def cluster():
    """A Ray of two CPUs."""
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1",
        object_store_memory=128 << 20, log_to_driver=False, logging_level="warning",
    )  # fmt: skip
    yield
    ray.shutdown()
