"""Segmented attention on a GPU beside what one would use without it.

The four shapes of ``mmedge.testing.CASES`` that are named A to D, in bfloat16. Peers:

- ``concat``: segments are put together, with a mask where lengths are known on the device alone,
  and torch's attention chooses its kernel.
- ``sliced, X``: keys and values lie in one buffer already, as projections that write into its
  slices would leave them, and torch's kernel X runs on it: the toughest baseline. Where lengths are
  known on the device alone it needs the mask as well.

Each way is captured in a CUDA graph of many calls over copies of the inputs that are used in turn:
few of them, that stay in the second-level cache (hot), or so many that they do not (cold). Outputs
are held against a float64 reference before anything is timed. Graphs of all ways are replayed in
random order; what is written are medians of microseconds a call, by CUDA events.

For the dispatch of torch's operator (:mod:`mmedge_export.capture.attention`) a grid of shapes, 8
heads of 64 elements, is timed as well, all keys valid and with a third of the segments lost: the
operator with our kernel beside the standard operators that it takes else, captured as above (hot)
and called from Python one after the other, where mostly the calls themselves cost time.

Run: ``python benchmarks/attention_gpu.py``; the library must have been built with CUDA. With
``--splits`` the named shapes are also computed with so many parts of the keys, for tuning.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from mmedge.bench.machine import host
from mmedge.bench.machine.gpu_state import Gpus
from mmedge.errors import AccuracyError, BackendError
from mmedge.native.capi import BF16, F16, SegAttn, library
from mmedge.testing import CASES, FROBENIUS, AttentionCase, frobenius, make_inputs, reference
from mmedge_export.capture import attention

RESULTS = Path(__file__).parent / "results" / "attention_gpu.json"

CALLS = 40  # of one graph
REPLAYS = 60
BLOCKS = 15  # of calls from Python

CODES = {torch.float16: F16, torch.bfloat16: BF16}
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


@dataclass
class Forced:
    """Stands in for the operator's choice, which follows what is measured here."""

    kernel: bool = False

    def __call__(self, *_: object) -> bool:
        """As chosen by force."""
        return self.kernel


FORCED = Forced()


class Copy:
    """One copy of a case's tensors on the GPU, for ours and for peers.

    Attributes:
        q, k, v: of each segment ``[B, L, H, D]``; ``lens`` int32 ``[B]`` or None.
        joined: keys and values of all segments in one buffer, ``[B, H, L, D]``.
        mask: additive, ``[B, 1, 1, L]``, or None where all keys count.
    """

    def __init__(self, case: AttentionCase, dtype: torch.dtype = torch.bfloat16) -> None:
        inputs = make_inputs(case)

        def put(array: Any) -> torch.Tensor:  # noqa: ANN401
            return torch.from_numpy(np.ascontiguousarray(array)).to("cuda", dtype)

        self.q = put(inputs.q)
        self.k = [put(k) for k in inputs.k]
        self.v = [put(v) for v in inputs.v]
        given = inputs.options.get("lens") or [None] * len(self.k)
        self.lens = [None if n is None else torch.from_numpy(n).to("cuda") for n in given]
        self.joined = tuple(torch.cat(x, 1).transpose(1, 2).contiguous() for x in (self.k, self.v))
        self.mask = None
        if any(n is not None for n in given):
            parts = [
                np.zeros((case.batch, length), bool)
                if n is None
                else np.arange(length) >= n[:, None]
                for n, length in zip(given, case.lengths, strict=True)
            ]
            hidden = torch.from_numpy(np.concatenate(parts, 1))[:, None, None].to("cuda")
            self.mask = torch.zeros_like(hidden, dtype=dtype)
            self.mask.masked_fill_(hidden, -torch.inf)
        self.out = torch.empty_like(self.q)
        self.case = case
        self.plans: dict[int, tuple[SegAttn, torch.Tensor]] = {}

    def _plan(self, splits: int) -> tuple[SegAttn, torch.Tensor]:
        """A call and its workspace, made once."""
        if splits not in self.plans:
            desc = self._describe(self.case)
            desc.num_splits = splits
            size = library().workspace_bytes(desc)
            if size is None:
                raise BackendError(f"{self.case.name}: the kernel does not take it on this GPU")
            self.plans[splits] = desc, torch.zeros(size, dtype=torch.uint8, device="cuda")
        return self.plans[splits]

    def _describe(self, case: AttentionCase) -> SegAttn:
        desc = SegAttn(
            struct_size=ctypes.sizeof(SegAttn),
            dtype=CODES[self.q.dtype],
            batch=case.batch,
            heads=case.heads,
            kv_heads=case.kv_heads or case.heads,
            rows=case.rows,
            dim=case.dim,
            dim_v=case.dim,
            segments=len(self.k),
            scale=case.dim**-0.5,
            q=self.q.data_ptr(),
            out=self.out.data_ptr(),
        )
        desc.q_stride[:] = desc.out_stride[:] = self.q.stride()[:3]
        for s, (k, v, lens) in enumerate(zip(self.k, self.v, self.lens, strict=True)):
            segment = desc.segment[s]
            segment.k, segment.v, segment.dtype, segment.length = (
                k.data_ptr(),
                v.data_ptr(),
                CODES[k.dtype],
                k.shape[1],
            )
            segment.k_stride[:], segment.v_stride[:] = k.stride()[:3], v.stride()[:3]
            segment.lens = None if lens is None else lens.data_ptr()
        return desc

    def bytes(self) -> int:
        """Of queries, keys and values."""
        return sum(x.numel() * x.element_size() for x in (self.q, *self.k, *self.v))

    def ours(self, splits: int = 0) -> torch.Tensor:
        """By our kernel, with so many parts of the keys; 0: as it chooses."""
        desc, workspace = self._plan(splits)
        library().enqueue(desc, workspace.data_ptr(), torch.cuda.current_stream().cuda_stream)
        return self.out

    def operator(self, *, kernel: bool) -> torch.Tensor:
        """By torch's operator, with our kernel or the standard operators, whatever is measured."""
        FORCED.kernel = kernel
        out = attention.segmented_attention(self.q, self.k, self.v, lens=self.lens)
        return cast("torch.Tensor", out)

    def concat(self) -> torch.Tensor:
        """Put together, then torch's choice."""
        k, v = (torch.cat(x, 1).transpose(1, 2) for x in (self.k, self.v))
        mixed = scaled_dot_product_attention(self.q.transpose(1, 2), k, v, attn_mask=self.mask)
        return mixed.transpose(1, 2)

    def sliced(self, kernel: SDPBackend) -> torch.Tensor:
        """From one buffer, by one kernel of torch."""
        with sdpa_kernel(kernel):
            mixed = scaled_dot_product_attention(
                self.q.transpose(1, 2), self.joined[0], self.joined[1], attn_mask=self.mask
            )
        return mixed.transpose(1, 2)


Way = Callable[[Copy], torch.Tensor]


def ways(splits: list[int]) -> dict[str, Way]:
    """All ways of computing, by name."""
    found: dict[str, Way] = {"mmedge": Copy.ours, "concat": Copy.concat}
    for name, kernel in KERNELS.items():
        found[f"sliced, {name}"] = partial(Copy.sliced, kernel=kernel)
    for count in splits:
        found[f"mmedge, {count} splits"] = partial(Copy.ours, splits=count)
    return found


OPERATOR: dict[str, Way] = {
    "mmedge": partial(Copy.operator, kernel=True),
    "standard": partial(Copy.operator, kernel=False),
}


def event() -> torch.cuda.Event:
    """One that tells time."""
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def capture(way: Way, copies: list[Copy]) -> torch.cuda.CUDAGraph:
    """A graph of :data:`CALLS` calls over the copies in turn."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        for copy in copies:  # workspaces are made and kernels are loaded outside of a capture
            way(copy)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        for i in range(CALLS):
            way(copies[i % len(copies)])
    return graph


def checked(first: Copy, found: dict[str, Way]) -> tuple[dict[str, Way], dict[str, str]]:
    """The ways whose output of the case is right, and why others refuse.

    Raises:
        AccuracyError: an output is wrong.
    """
    seen = [x.float().cpu().numpy() for x in (first.q, *first.k, *first.v)]
    half = 1 + len(first.k)
    lens = [None if n is None else n.cpu().numpy() for n in first.lens]
    wanted, _ = reference(seen[0], seen[1:half], seen[half:], lens=lens)
    right, refused = {}, {}
    for name, way in found.items():
        try:
            error = frobenius(way(first).float().cpu().numpy(), wanted)
        except RuntimeError as refusal:
            refused[name] = str(refusal).splitlines()[0]
            continue
        if not error <= 2 * FROBENIUS[str(first.q.dtype).removeprefix("torch.")]:
            raise AccuracyError(f"{first.case.name}, {name}: error {error:.1e}")
        right[name] = way
    return right, refused


def replayed(found: dict[str, Way], copies: list[Copy]) -> dict[str, list[float]]:
    """Microseconds of a call in graphs that are replayed in random order."""
    graphs = {name: capture(way, copies) for name, way in found.items()}
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(REPLAYS):
        for name in random.sample(sorted(graphs), len(graphs)):
            start, end = (event() for _ in range(2))
            graphs[name].replay()
            start.record()
            graphs[name].replay()
            end.record()
            end.synchronize()
            times[name].append(1000.0 * start.elapsed_time(end) / CALLS)
    return times


def called(found: dict[str, Way], copy: Copy) -> dict[str, list[float]]:
    """Microseconds of a call from Python, many one after the other, in random order."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for way in found.values():
        way(copy)
    for _ in range(BLOCKS):
        for name in random.sample(sorted(found), len(found)):
            torch.cuda.synchronize()
            start = time.perf_counter_ns()
            for _ in range(CALLS):
                found[name](copy)
            torch.cuda.synchronize()
            times[name].append((time.perf_counter_ns() - start) / 1000.0 / CALLS)
    return times


def measure(case: AttentionCase, cold: bool, splits: list[int]) -> list[dict[str, Any]]:  # noqa: FBT001
    """Medians of all ways that can compute a named case."""
    first = Copy(case)
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    count = max(2, min(CALLS, 3 * cache // first.bytes() + 1)) if cold else 1
    copies = [first, *(Copy(case) for _ in range(count - 1))]
    right, refused = checked(first, ways(splits))
    times = replayed(right, copies)
    rows: list[dict[str, Any]] = [
        {
            "case": case.name,
            "cache": "cold" if cold else "hot",
            "way": name,
            "us": statistics.median(taken),
            "us_quartiles": statistics.quantiles(taken)[::2],
            "against_ours": statistics.median(taken) / statistics.median(times["mmedge"]),
        }
        for name, taken in times.items()
    ]
    return rows + [
        {"case": case.name, "way": name, "refused": why} for name, why in refused.items()
    ]


def compare(case: AttentionCase, kind: str, dtype: str) -> dict[str, Any]:
    """A row of the grid: torch's operator with the kernel and without."""
    first = Copy(case, getattr(torch, dtype))
    with mock.patch.object(attention, "_pays", FORCED):
        right, _ = checked(first, OPERATOR)
        times = {"captured": replayed(right, [first]), "called": called(right, first)}
    return {
        "dtype": dtype,
        "rows": case.rows,
        "keys": case.keys,
        "dim": case.dim,
        "kind": kind,
        **{
            how: {
                **{f"{name}_us": statistics.median(taken) for name, taken in found.items()},
                "over_standard": statistics.median(found["standard"])
                / statistics.median(found["mmedge"]),
            }
            for how, found in times.items()
        },
    }


def grid() -> Iterator[tuple[AttentionCase, str]]:
    """Shapes of which the dispatch knows."""
    for rows in (1, 4, 16, 64, 256, 1024):
        for keys in (64, 256, 1024, 4096):
            name = f"{rows} x {keys}"
            yield AttentionCase(name, (keys - keys // 2, keys // 2), rows=rows), "all valid"
            third = keys // 3
            lost = AttentionCase(
                name, (third, third, keys - 2 * third), rows=rows, counted=(1.0, 0.0, 1.0)
            )
            yield lost, "a third lost"


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--splits", type=int, nargs="*", default=[])
    parser.add_argument("--no-grid", dest="grid", action="store_false")
    options = parser.parse_args()
    gpus = Gpus.open(host.ROOT)
    result: dict[str, Any] = {
        "what": "microseconds of one call of attention over segments: named shapes in bfloat16 by "
        "replay of CUDA graphs, and a grid by torch's operator",
        "date": datetime.now(UTC).date().isoformat(),
        "device": host.state(),
        "gpus": {"before": gpus.state()},
        "gpu": torch.cuda.get_device_name(),
        "architecture": "sm_{}{}".format(*torch.cuda.get_device_capability()),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "calls": CALLS,
        "replays": REPLAYS,
        "named": [],
        "grid": [],
    }

    def write() -> None:  # after each row: a run that is cut short loses nothing
        result["gpus"]["after"] = gpus.state()
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    for case in CASES:
        if case.name[:2] in ("A ", "B ", "C ", "D "):
            for cold in (False, True):
                found = measure(case, cold, options.splits)
                result["named"] += found
                write()
                for row in found:
                    print(
                        f"{case.name} {row.get('cache')} {row['way']}: {row.get('us')}", flush=True
                    )
    for dtype in ("bfloat16", "float16") if options.grid else ():
        for case, kind in grid():
            result["grid"].append(compare(case, kind, dtype))
            write()
            print(json.dumps(result["grid"][-1]), flush=True)


if __name__ == "__main__":
    main()
