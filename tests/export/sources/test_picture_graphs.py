"""Graphs of one picture run on several, and positions of a picture's tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmedge.errors import ExportError
from mmedge_export.sources.huggingface.places import read_positions
from mmedge_export.sources.huggingface.row_graph import RowGraph, trace_row


class Packed(nn.Module):
    """Patches of a grid in one sequence, with most kinds of operators that such encoders have."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 2, stride=2)
        self.table = nn.Parameter(torch.randn(6, 8))
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(32, 5)
        self.register_buffer("grid", torch.tensor([[2, 4], [2, 2]]), persistent=False)

    def forward(self, patches: Tensor) -> tuple[Tensor, ...]:
        sizes = self.grid.prod(-1).tolist()
        x = self.embed(patches.view(-1, 3, 2, 2)).flatten(1)
        x = x + self.table[torch.arange(sum(sizes)) % 6]
        order = torch.arange(sum(sizes)).flip(0)
        q, k, v = self.qkv(self.norm(x[order])).chunk(3, dim=-1)
        parts = []
        for each in zip(*(t.split(sizes) for t in (q, k, v)), strict=True):
            a, b, c = (t.unflatten(-1, (2, 4)).transpose(0, 1)[None] for t in each)
            parts.append(F.scaled_dot_product_attention(a, b, c)[0].transpose(0, 1).flatten(1))
        y = torch.cat(parts) + x.mean(0) + torch.einsum("tc,uc->tu", x, self.table).sum(-1, True)
        y[:2] = y[:2] * 2
        whole = torch.zeros(13, 8)
        whole[order + 1] = y  # behind a first one that is none of the picture's
        y = whole[1:].flip(0)
        whole = y.T.reshape(1, 8, 2, 6)
        pooled = F.avg_pool2d(F.interpolate(whole, scale_factor=2.0), 2)
        mixed = torch.bmm(pooled[0].transpose(0, 1), torch.ones(2, 6, 3))
        return self.out(y.reshape(-1, 32)), mixed, self.table.sum(0)


def test_a_graph_of_one_row_runs_on_several():
    torch.manual_seed(0)
    network = Packed().eval()
    rows = torch.randn(3, 12, 12)
    graph = RowGraph(trace_row(network, rows[0]))
    with torch.no_grad():
        results = graph(rows)
        for at, row in enumerate(rows):
            for result, expected in zip(results, network(row), strict=True):
                torch.testing.assert_close(result[at], expected)
    batch = {0: torch.export.Dim("batch", min=1, max=8)}
    program = torch.export.export(graph, (rows,), dynamic_shapes=(batch,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(rows[:2]), tuple(r[:2] for r in results))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: (x[: int(x.sum() > 0)],), "depends on values"),
        (lambda x: (torch.zeros(2, 3).index_add(0, torch.tensor([1]), x[:1]),), "another argument"),
        (lambda x: (torch.nonzero(x > 0),), "no rule for several rows|argument"),
    ],
)
def test_what_does_not_run_on_several_rows_is_refused(function, message):
    row = torch.randn(2, 3)
    with pytest.raises(ExportError, match=message):
        RowGraph(trace_row(function, row))(torch.stack([row, row]))


def test_positions_of_a_picture_are_a_table():
    # Text, a picture of 2 x 3 from position 3 on (1-based), text that goes on 3 after it began.
    rows, columns = torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij")
    after = torch.arange(4) + 6
    axes = [
        torch.cat([torch.tensor([1, 2]), offset.flatten() + 3, after])
        for offset in (rows * 0, rows, columns)
    ]
    positions = torch.stack(axes)[:, None]
    table = read_positions(positions, 2, 6)
    assert table is not None
    # The same tokens in two runs, the first of which ends inside the picture.
    stands = torch.tensor([[False] * 2 + [True] * 6 + [False] * 4])
    order = stands.long().cumsum(1) - 1
    start = torch.zeros(1, dtype=torch.int64)
    first, start = table(stands[:, :5], order[:, :5], start)
    second, _ = table(stands[:, 5:], order[:, 5:], start)
    assert torch.equal(torch.cat([first, second], -1), positions)
    positions[1, 0, -1] += 1
    assert read_positions(positions, 2, 6) is None
