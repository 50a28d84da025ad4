"""Fixtures that tests of all packages share."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path

import native_builds
import pytest
from hypothesis import HealthCheck, settings
from tiny import Tiny, make_tiny

from mmedge.bundle import Bundle

# A slow machine is no failure: what is timed is timed in benchmarks/. On top of what is in force,
# which hypothesis chooses by itself under CI. `make test` takes short (.ci/run long for random
# schedules of streams), `make test-long` long.
for name, examples in (("short", 100), ("long", 2000)):
    settings.register_profile(
        name,
        settings(),
        max_examples=examples,
        deadline=None,
        suppress_health_check=(HealthCheck.too_slow,),
    )
settings.load_profile("short")

# A tenth of the time of tests that export went by in looking for garbage, ten times as often as
# this, among all that torch and thousands of collected tests have on the heap.
gc.set_threshold(7_000, 10, 10)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--native-builds",
        choices=("always", "changed", "never"),
        default="always",
        help="when tests that compile native code run; changed: where it differs from main",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put what compiles for minutes first, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("native_build") is None)
    reason = native_builds.left_out(config.getoption("native_builds"))
    if reason is None:
        return
    for item in items:
        if item.get_closest_marker("native_build") is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module", autouse=True)
def heap_out_of_sight() -> None:
    """Hide what is alive from the garbage collector before each module.

    A measurement collects garbage before each of its sessions. That takes half a second where the
    heap holds torch and thousands of collected tests.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_left_out(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail where an export went on without a pass or a cut that raised: a user is only told.

    The marker ``left_out`` allows it.
    """
    log = logging.getLogger("mmedge_export.partition.stages")
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = records.append  # type: ignore[method-assign]
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    yield
    log.removeHandler(handler)
    log.setLevel(level)
    if records and request.node.get_closest_marker("left_out") is None:
        raise AssertionError(records[0].getMessage()) from records[0].exc_info[1]  # type: ignore[index]


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """What the tiny bundle is written from."""
    return make_tiny()


@pytest.fixture(scope="session")
def tiny_bundle(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a good bundle as a directory; leave it as it is.

    Modalities image (uint8 [batch, 4, 4, 3]) and text (int64 [batch, 5], optional, zeros); one
    stage ``net``; one output ``score`` (float32 [batch, 2]); variant ``ort-fp32-cpu``.
    """
    path = tmp_path_factory.mktemp("tiny") / "tiny"
    Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples).close()
    return path


@pytest.fixture(scope="session")
def tiny_zip(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle as one zip; leave it as it is."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.mmedge"
    Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples).close()
    return path
