"""A greedy run of a model's loop in torch alone: what a bundle's tokens are held against.

It follows the rules of docs/reference/bundle.md ("Loop"), for one row, without mmedge's own ways of
running a model.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmedge_export import Generate, Model, StateInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from package_files import PackageFile

__all__ = ["Run", "causal", "command_line", "generate"]

Tensors = dict[str, Tensor]


class Run:
    """The steps of a loop on one row: what stays the same in all of them, and the states.

    Args:
        model: of torch modules that give tensors by name, with a loop of
            :class:`mmedge_export.Generate` whose step takes all that its module gives, except for
            what a state begins with.
        inputs: of the module, batch 1.
    """

    def __init__(self, model: Model, inputs: Mapping[str, Tensor]) -> None:
        if not isinstance(model.loop, Generate) or not isinstance(model.loop.step, nn.Module):
            raise TypeError("expected a model of torch modules with a loop of Generate")
        self.loop, self._step = model.loop, model.loop.step
        made: Tensors = {}
        if isinstance(model.module, nn.Module):
            with torch.no_grad():
                names = [name for name in model.inputs if name != model.loop.token]
                made = model.module(**{name: inputs[name] for name in names})
        self._states = {name: _first(state, made) for name, state in _states(self.loop)}
        sources = {state.source for _, state in _states(self.loop)}
        self._constants = {name: value for name, value in made.items() if name not in sources}
        self._before = 0

    @torch.no_grad()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Scores of the token that follows ``tokens``, [vocabulary]."""
        loop, new = self.loop, len(tokens)
        feeds = {**self._constants, **self._states}
        feeds[loop.token] = torch.tensor(tokens if _takes_one(loop) else [list(tokens)])
        if loop.position is not None:
            feeds[loop.position] = torch.arange(self._before, self._before + new)
        outputs = self._step(**feeds)
        self._states = {name: outputs[state.output] for name, state in _states(loop)}
        self._before += new
        scores: Tensor = outputs[loop.logits][0]
        return scores


def generate(model: Model, inputs: Mapping[str, Tensor], *, limit: int | None = None) -> list[int]:
    """Tokens of a greedy run, without the stop token.

    Args:
        model: see :class:`Run`.
        inputs: of the model, batch 1; a prompt is the input that the loop's token is.
        limit: most tokens; None: the loop's own.
    """
    run = Run(model, inputs)
    loop = run.loop
    prompt = inputs[loop.token][0].tolist() if loop.token in model.inputs else []
    new, tokens = [*loop.start, *prompt], list[int]()
    while len(tokens) < (limit or loop.limit):
        for piece in [[token] for token in new] if _takes_one(loop) else [new]:
            scores = run.step(piece)
        scores = scores.clone()
        scores[[*loop.suppress, *(() if tokens else loop.suppress_first)]] = -torch.inf
        token = int(scores.argmax())
        if token in loop.stop:
            break
        tokens.append(token)
        new = [token]
    return tokens


def _states(loop: Generate) -> list[tuple[str, StateInput]]:
    return [(name, state) for name, state in loop.state.items() if isinstance(state, StateInput)]


def _takes_one(loop: Generate) -> bool:
    return tuple(loop.token_shape or ()) == ("batch",)


def _first(state: StateInput, made: Tensors) -> Tensor:
    """What the first run takes."""
    if state.source is not None:
        return made[state.source]
    # One row, and nothing along the axis that grows.
    shape = [
        (0 if size == state.grows else 1) if isinstance(size, str) else size
        for size in state.shape or ()
    ]
    return torch.zeros(shape)


def causal(position: Tensor, past: Tensor) -> Tensor:
    """Which places each new token may look at: those before it, and its own.

    Args:
        position: of the new tokens, [new].
        past: keys of the tokens before them, [batch, heads, past, width].
    """
    places = torch.arange(past.shape[2] + position.shape[0], device=position.device)
    return places <= position[:, None]


def command_line(what: str, files: Sequence[PackageFile]) -> Path:
    """The cache folder that the command line names; prints which files are read.

    Args:
        what: description of the script.
        files: what it reads.
    """
    from package_files import cache_folder

    parser = argparse.ArgumentParser(description=what)
    parser.add_argument(
        "--cache", type=Path, default=cache_folder(), help="folder for the packages' files"
    )
    cache: Path = parser.parse_args().cache
    for file in files:
        print(f"reads {file}")
    # One thread: the same tokens each time.
    torch.set_num_threads(1)
    return cache
