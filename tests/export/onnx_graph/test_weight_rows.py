"""Which weights are rows of which."""

import numpy as np
import onnx_ir as ir

from mmedge_export.onnx_graph.weight_rows import find_rows


def test_rows_of_the_largest_are_pieces_of_it():
    table = np.arange(64, dtype=np.float32).reshape(16, 4)
    arrays = [
        table[4:6],
        table[2:8],
        table,
        table[2:8] + 1,
        np.zeros(8),
        np.zeros(16),
        np.zeros(32),
    ]
    tensors = {index: ir.tensor(array) for index, array in enumerate(arrays)}
    # A piece of a piece is one of the whole, whichever comes first.
    assert find_rows(tensors) == {0: (2, 64), 1: (2, 32), 4: (6, 0), 5: (6, 0)}


def test_a_weight_of_one_row_or_behind_axes_of_one_is_found():
    table = np.arange(60, dtype=np.float32).reshape(1, 12, 5)
    tensors = {0: ir.tensor(table[:, 7:8]), 1: ir.tensor(table), 2: ir.tensor(table[:, :4, :3])}
    assert find_rows(tensors) == {0: (1, 7 * 20)}
