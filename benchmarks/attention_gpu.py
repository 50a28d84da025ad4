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

Run: ``python benchmarks/attention_gpu.py``; the library must have been built with CUDA.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from mmedge.bench import host
from mmedge.errors import AccuracyError
from mmedge.native.capi import BF16, SegAttn, library
from mmedge.testing import CASES, FROBENIUS, Case, frobenius, make_inputs, reference

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path(__file__).parent / "results" / "attention_gpu.json"

CALLS = 40  # of one graph
REPLAYS = 60

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


class Copy:
    """One copy of a case's tensors on the GPU, for ours and for peers.

    Attributes:
        q, k, v: of each segment ``[B, L, H, D]``; ``lens`` int32 ``[B]`` or None.
        joined: keys and values of all segments in one buffer, ``[B, H, L, D]``.
        mask: additive, ``[B, 1, 1, L]``, or None where all keys count.
    """

    def __init__(self, case: Case) -> None:
        inputs = make_inputs(case)

        def put(array: Any) -> torch.Tensor:  # noqa: ANN401
            return torch.from_numpy(np.ascontiguousarray(array)).to("cuda", torch.bfloat16)

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
            self.mask = torch.zeros_like(hidden, dtype=torch.bfloat16)
            self.mask.masked_fill_(hidden, -torch.inf)
        self.out = torch.empty_like(self.q)
        self.desc = self._describe(case)
        size = library().workspace_bytes(self.desc)
        self.workspace = torch.zeros(size, dtype=torch.uint8, device="cuda")

    def _describe(self, case: Case) -> SegAttn:
        desc = SegAttn(
            struct_size=ctypes.sizeof(SegAttn),
            dtype=BF16,
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
                BF16,
                k.shape[1],
            )
            segment.k_stride[:], segment.v_stride[:] = k.stride()[:3], v.stride()[:3]
            segment.lens = None if lens is None else lens.data_ptr()
        return desc

    def bytes(self) -> int:
        """Of queries, keys and values."""
        return sum(x.numel() * x.element_size() for x in (self.q, *self.k, *self.v))

    def ours(self) -> torch.Tensor:
        """By our kernel."""
        stream = torch.cuda.current_stream().cuda_stream
        library().enqueue(self.desc, self.workspace.data_ptr(), stream)
        return self.out

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


def ways() -> dict[str, Callable[[Copy], torch.Tensor]]:
    """All ways of computing, by name."""
    found: dict[str, Callable[[Copy], torch.Tensor]] = {"mmedge": Copy.ours, "concat": Copy.concat}
    for name, kernel in KERNELS.items():
        found[f"sliced, {name}"] = lambda copy, kernel=kernel: copy.sliced(kernel)  # type: ignore[misc]
    return found


def event() -> torch.cuda.Event:
    """One that tells time."""
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def capture(way: Callable[[Copy], torch.Tensor], copies: list[Copy]) -> torch.cuda.CUDAGraph:
    """A graph of :data:`CALLS` calls over the copies in turn."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        for copy in copies[:2]:
            way(copy)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        for i in range(CALLS):
            way(copies[i % len(copies)])
    return graph


def measure(case: Case, cold: bool) -> list[dict[str, Any]]:  # noqa: FBT001
    """Medians of all ways that can compute the case.

    Raises:
        AccuracyError: an output is wrong.
    """
    first = Copy(case)
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    count = max(2, min(CALLS, 3 * cache // first.bytes() + 1)) if cold else 1
    copies = [first, *(Copy(case) for _ in range(count - 1))]
    seen = [x.float().cpu().numpy() for x in (first.q, *first.k, *first.v)]
    half = 1 + len(first.k)
    lens = [None if n is None else n.cpu().numpy() for n in first.lens]
    wanted, _ = reference(seen[0], seen[1:half], seen[half:], lens=lens)
    graphs, skipped = {}, {}
    for name, way in ways().items():
        try:
            error = frobenius(way(first).float().cpu().numpy(), wanted)
        except RuntimeError as refusal:
            skipped[name] = str(refusal).splitlines()[0]
            continue
        if not error <= 2 * FROBENIUS["bfloat16"]:
            raise AccuracyError(f"{case.name}, {name}: error {error:.1e}")
        graphs[name] = capture(way, copies)
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
    rows: list[dict[str, Any]] = [
        {
            "case": case.name,
            "cache": "cold" if cold else "hot",
            "way": name,
            "us": statistics.median(found),
            "us_quartiles": statistics.quantiles(found)[::2],
            "against_ours": statistics.median(found) / statistics.median(times["mmedge"]),
        }
        for name, found in times.items()
    ]
    return rows + [
        {"case": case.name, "way": name, "refused": why} for name, why in skipped.items()
    ]


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    for case in CASES:
        if case.name[:2] in ("A ", "B ", "C ", "D "):
            for cold in (False, True):
                rows += measure(case, cold)
                print(json.dumps(rows[-len(ways()) :], indent=1))
    result = {
        "what": "microseconds of one call of attention over segments, bfloat16, CUDA graph replay",
        "date": datetime.now(UTC).date().isoformat(),
        "device": host.state(),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "calls": CALLS,
        "replays": REPLAYS,
        "rows": rows,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
