"""Large pages for the memory of loaded weights, on Linux.

A network reads all its weights in every call. In pages of 4 KiB a hundred megabytes need some
25,000 translations of addresses, far more than a processor holds; in pages of 2 MiB they need 50.
Where the kernel gives large pages only on request (mode ``madvise`` of
Documentation/admin-guide/mm/transhuge.rst), no engine asks. This module asks after a load, with
``MADV_COLLAPSE`` (madvise(2), Linux 6.1): the kernel copies what lies there into large pages, at
once. Values do not change.
"""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "LEAST_BYTES",
    "NOT_ASKED",
    "LargePages",
    "Memory",
    "private_memory",
    "use_large_pages",
]

#: Bytes of a variant's files from which large pages are asked for unless the caller decides.
#: Smaller ones gain little: a processor's caches hold a good part of them.
LEAST_BYTES: Final = 64 << 20

#: In words, of a load that did not ask.
NOT_ASKED: Final = "not asked for"

#: Bytes of the largest large page that is asked for: beyond, most of one would lie idle.
_MOST_PAGE_BYTES: Final = 32 << 20

#: MADV_COLLAPSE in the kernel's include/uapi/asm-generic/mman-common.h.
_COLLAPSE: Final = 25

#: Share of a region that must be in use: pages that nothing was written to would become memory.
_LEAST_SHARE: Final = 0.9

_SYSFS: Final = Path("/sys/kernel/mm/transparent_hugepage")

_REGION = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw-p [0-9a-f]+ 00:00 0 *(\[heap\]|\[anon:.*\])?$")


class LargePages(NamedTuple):
    """What of the memory that a load took lies in large pages.

    Attributes:
        bytes: in large pages, of what the load added.
        ms: milliseconds that it took.
        reason: why it was not asked for, or why nothing was gained; empty where there are some.
    """

    bytes: int = 0
    ms: float = 0.0
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"none: {self.reason}"
        return f"{self.bytes / 1e6:.0f} MB, made in {self.ms:.0f} ms while loading"


class Memory(NamedTuple):
    """A region of this process's own memory, in bytes.

    Attributes:
        start: first address.
        end: address behind the last.
        used: bytes that are resident.
        large: of those, in large pages.
    """

    start: int
    end: int
    used: int
    large: int


def private_memory(smaps: Path = Path("/proc/self/smaps")) -> list[Memory]:
    """Every region of writable memory that belongs to no file.

    Args:
        smaps: the kernel's account of a process (Documentation/filesystems/proc.rst).

    Raises:
        OSError: it cannot be read.
    """
    regions: list[Memory] = []
    bounds: tuple[int, int] | None = None
    used = 0
    for line in smaps.read_text(errors="replace").splitlines():
        if line.startswith("Rss:"):
            used = int(line.split()[1]) << 10
        elif line.startswith("AnonHugePages:"):
            if bounds is not None:
                regions.append(Memory(*bounds, used, int(line.split()[1]) << 10))
                bounds = None
        elif match := _REGION.match(line):
            bounds = int(match[1], 16), int(match[2], 16)
    return regions


def use_large_pages(before: Iterable[Memory]) -> LargePages:
    """Ask for large pages where this process's memory grew since ``before``.

    Args:
        before: what :func:`private_memory` gave before the load. The caller's own arrays of that
            time stay as they are.
    """
    start = perf_counter_ns()
    try:
        size = _page_bytes()
        madvise = ctypes.CDLL(None, use_errno=True).madvise
        grown = list(_grown(before, private_memory(), size))
    except (OSError, AttributeError, ValueError) as error:
        return LargePages(reason=f"this system has none to ask for: {error}")
    error_number = 0
    for first, last in grown:
        if madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _COLLAPSE):
            error_number = ctypes.get_errno()
    # What was gained is read back: a call may fail half way.
    gained = _large_bytes(private_memory()) - _large_bytes(before)
    ms = (perf_counter_ns() - start) / 1e6
    if gained > 0:
        return LargePages(gained, ms)
    if not grown:
        return LargePages(0, ms, "no region of memory that grew is large enough")
    return LargePages(0, ms, f"the kernel refused (errno {error_number})")


def _page_bytes() -> int:
    """Bytes of a large page.

    Raises:
        OSError: there are none, they are switched off, or their size is beyond use.
    """
    if sys.platform != "linux":
        raise OSError("not Linux")
    if "[never]" in (_SYSFS / "enabled").read_text():
        raise OSError(f"{_SYSFS / 'enabled'} says never")
    size = int((_SYSFS / "hpage_pmd_size").read_text())
    if not 0 < size <= _MOST_PAGE_BYTES:
        raise OSError(f"a large page has {size} bytes")
    return size


def _large_bytes(regions: Iterable[Memory]) -> int:
    return sum(region.large for region in regions)


def _grown(
    before: Iterable[Memory], after: Iterable[Memory], size: int
) -> Iterator[tuple[int, int]]:
    """Runs of whole large pages in what is in ``after`` and was not in ``before``."""
    old = sorted((region.start, region.end) for region in before)
    for region in after:
        if region.used < _LEAST_SHARE * (region.end - region.start):
            continue
        start = region.start
        for old_start, old_end in [*old, (region.end, region.end)]:
            if old_end <= start:
                continue
            end = min(old_start, region.end)
            first, last = -(-start // size) * size, end // size * size
            if first < last:
                yield first, last
            start = old_end
            if start >= region.end:
                break
