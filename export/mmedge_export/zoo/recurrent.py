"""A GRU layer that also exports with a dynamic time axis.

``torch.onnx.export(dynamo=True)`` unrolls ``nn.GRU`` over the traced length. This layer runs
``nn.GRU`` in eager mode and emits the ONNX ``GRU`` operator while exporting.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _to_onnx(weight: Tensor) -> Tensor:
    """From PyTorch's order of gates r, z, n to ONNX's z, r, h, with an axis of directions."""
    reset, update, new = weight.chunk(3, dim=0)
    return torch.cat([update, reset, new], dim=0).unsqueeze(0)


class GRU(nn.Module):
    """One forward GRU layer over ``[B, T, d]`` from a zero state.

    Forward only, so that what follows the last valid step (padding) cannot change an earlier one.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.gru = nn.GRU(d, d, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Hidden state at every step: ``[B, T, d]`` to ``[B, T, d]``."""
        if not torch.onnx.is_in_onnx_export():
            states: Tensor = self.gru(x)[0]
            return states
        batch, steps, d = x.shape
        w, r, w_bias, r_bias = (_to_onnx(p) for p in self.gru.parameters())
        # linear_before_reset=1 is PyTorch's form: the reset gate scales W h + b, not h.
        states, _ = torch.onnx.ops.symbolic_multi_out(
            "GRU",
            [x.transpose(0, 1), w, r, torch.cat([w_bias, r_bias], dim=1)],
            attrs={"hidden_size": d, "linear_before_reset": 1},
            dtypes=[x.dtype, x.dtype],
            shapes=[[steps, 1, batch, d], [1, batch, d]],
            version=14,
        )
        return states.squeeze(1).transpose(0, 1)
