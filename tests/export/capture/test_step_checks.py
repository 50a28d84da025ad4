"""Runs of a graph against runs of the network: ties are told, everything else is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmedge.errors import ExportError
from mmedge.spec import Tolerance
from mmedge_export import Generate
from mmedge_export.capture.proof_options import ProofOptions
from mmedge_export.capture.step_checks import compare_tokens
from mmedge_export.capture.token_steps import TokenRun, TokenSteps


def run(*scores: list[float]) -> TokenRun:
    """A run of one row that takes the best token of each choice."""
    arrays = tuple(np.array([row], np.float32) for row in scores)
    tokens = np.array([[int(row.argmax()) for row in arrays]], np.int64)
    return TokenRun(tokens, arrays, {}, len(arrays))


def compare(golden: TokenRun, result: TokenRun, **loop) -> list[str]:
    lines: list[str] = []
    steps = TokenSteps(Generate(torch.nn.Identity(), **loop), (), ("batch", "new"), {})
    options = ProofOptions(Tolerance(1e-4, 1e-6), 1, print, lines.append)
    compare_tokens(steps, "sample 7", golden, result, options)
    return lines


def test_equal_runs_say_nothing():
    assert not compare(run([0, 9, 1], [5, 1, 2]), run([0, 9, 1], [5, 1, 2.001]))


def test_a_tie_is_told_with_both_tokens_and_what_was_not_compared():
    golden = run([0, 9, 1], [5.0001, 5, 2], [1, 0, 0])
    (line,) = compare(golden, run([0, 9, 1], [5, 5.0001, 2], [0, 0, 1]))
    assert "sample 7, row 0, token 1: the network chooses 0 (5.0001), the graph 1" in line
    assert "a tie; tokens after it were not compared" in line


def test_another_token_is_refused_with_step_token_and_both_values():
    with pytest.raises(ExportError) as error:
        compare(run([0, 9, 1], [5, 4, 2]), run([0, 9, 1], [4, 5, 2]))
    assert "sample 7, row 0, token 1: the network chooses 0 (5), the graph 1 (4 in the" in str(
        error.value
    )
    assert "5 against 4 in the graph" in str(error.value)


def test_a_run_of_another_length_is_refused():
    with pytest.raises(ExportError, match="the network gives 2 tokens, the graph 1"):
        compare(run([0, 9, 1], [5, 4, 2]), run([0, 9, 1]))


def test_tokens_that_are_never_chosen_do_not_hide_a_difference():
    golden, result = run([9, 1, 3]), run([9, 3, 1])
    golden.tokens[0, 0], result.tokens[0, 0] = 2, 1
    with pytest.raises(ExportError, match="the network chooses 2 \\(3\\), the graph 1"):
        compare(golden, result, suppress=[0])
