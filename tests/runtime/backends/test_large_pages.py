"""Large pages are asked for where memory grew, and what was gained is read back."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmedge
from mmedge.backends import large_pages
from mmedge.backends.large_pages import LargePages, Memory, private_memory, use_large_pages

PAGE = 2 << 20

SMAPS = """\
55d0c0000000-55d0c8000000 rw-p 00000000 00:00 0                          [heap]
Rss:              131072 kB
AnonHugePages:      4096 kB
VmFlags: rd wr mr mw me ac
7f0000000000-7f0004000000 rw-p 00000000 fe:01 77                         /usr/lib/weights.bin
Rss:               65536 kB
AnonHugePages:         0 kB
7f1000000000-7f1000400000 rw-p 00000000 00:00 0
Rss:                4096 kB
AnonHugePages:         0 kB
7f2000000000-7f2000400000 r--p 00000000 00:00 0
Rss:                4096 kB
AnonHugePages:         0 kB
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
Rss:                 132 kB
AnonHugePages:         0 kB
"""


def test_own_writable_memory_is_read_from_the_kernels_account(tmp_path: Path) -> None:
    smaps = tmp_path / "smaps"
    smaps.write_text(SMAPS)
    assert private_memory(smaps) == [
        Memory(0x55D0C0000000, 0x55D0C8000000, 128 << 20, 4 << 20),
        Memory(0x7F1000000000, 0x7F1000400000, 4 << 20, 0),
    ]


@st.composite
def regions(draw: st.DrawFn) -> list[Memory]:
    bounds = sorted(draw(st.sets(st.integers(0, 400), max_size=12)))
    pairs = zip(bounds[::2], bounds[1::2], strict=False)
    quarter = PAGE // 4
    return [
        Memory(a * quarter, b * quarter, draw(st.sampled_from([0, (b - a) * quarter])), 0)
        for a, b in pairs
    ]


@given(regions(), regions())
def test_only_whole_pages_that_are_new_and_in_use_are_asked_for(
    before: list[Memory], after: list[Memory]
) -> None:
    asked = {
        page
        for first, last in large_pages._grown(before, after, PAGE)
        for page in range(first // PAGE, last // PAGE)
        if first % PAGE == 0 and last % PAGE == 0
    }
    expected = {
        page
        for page in range(101)
        if any(m.start <= page * PAGE and (page + 1) * PAGE <= m.end and m.used for m in after)
        and not any(m.start < (page + 1) * PAGE and page * PAGE < m.end for m in before)
    }
    assert asked == expected


@pytest.mark.skipif(sys.platform != "linux", reason="large pages are asked for on Linux alone")
def test_memory_that_was_written_since_lies_in_large_pages_and_keeps_its_values() -> None:
    before = private_memory()
    array = np.arange(8 << 20, dtype=np.int64)
    pages = use_large_pages(before)
    if pages.reason:
        pytest.skip(f"this kernel gives none: {pages.reason}")
    assert 32 << 20 <= pages.bytes <= 80 << 20
    assert pages.ms > 0
    assert "MB, made in" in str(pages)
    np.testing.assert_array_equal(array, np.arange(8 << 20, dtype=np.int64))
    again = use_large_pages(private_memory())
    assert again == LargePages(0, again.ms, "no region of memory that grew is large enough")


def test_a_system_without_them_is_said_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "enabled").write_text("always madvise [never]\n")
    monkeypatch.setattr(large_pages, "_SYSFS", tmp_path)
    pages = use_large_pages([])
    assert pages.bytes == 0
    assert "says never" in str(pages)
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    (tmp_path / "hpage_pmd_size").write_text(f"{512 << 20}\n")
    assert "536870912 bytes" in use_large_pages([]).reason


def test_a_pipeline_says_whether_it_asked(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mmedge.load(tiny_bundle) as pipe:
        assert pipe.large_pages == "not asked for"
    with mmedge.load(tiny_bundle, large_pages=True) as pipe:
        assert pipe.large_pages != "not asked for"
    monkeypatch.setattr("mmedge.execution.loaded_plan.LEAST_BYTES", 1)
    with mmedge.load(tiny_bundle) as pipe:
        assert pipe.large_pages != "not asked for"
    with mmedge.load(tiny_bundle, large_pages=False) as pipe:
        assert pipe.large_pages == "not asked for"
