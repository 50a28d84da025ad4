"""What a network that generates tokens consists of, and its greedy run in torch: the reference.

A :class:`Network` says in torch what a bundle's loop ``generate`` says: a module that makes what
stays constant, a step, and how the step's outputs become its next inputs. :func:`generate` runs it
by the rules of docs/reference/bundle.md ("Loop"), one row, without mmedge.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from package_files import PackageFile

__all__ = ["Network", "causal", "command_line", "generate"]

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Network:
    """A network with a loop, as torch modules.

    ``module`` takes the inputs by keyword and gives tensors by name, of which the step takes those
    that ``constants`` names; None: the network has no other input than tokens. ``step`` takes them,
    ``token`` (int64 [batch, new], or [batch] with ``one_token``), ``position`` and its states by
    keyword, and gives ``logits`` and new states by name. ``states`` says which input takes which
    output; ``first`` makes those of the first run of what the module gave.
    """

    step: nn.Module
    token: str
    states: Mapping[str, str]
    first: Callable[[Mapping[str, Tensor]], Tensors]
    stop: tuple[int, ...]
    limit: int
    start: tuple[int, ...] = ()
    module: nn.Module | None = None
    constants: tuple[str, ...] = ()
    position: str | None = None
    one_token: bool = False
    suppress: tuple[int, ...] = ()
    suppress_first: tuple[int, ...] = ()
    tokenizer: Path | None = None


@torch.no_grad()
def generate(
    network: Network,
    inputs: Mapping[str, Tensor] | None = None,
    *,
    prompt: Sequence[int] = (),
    limit: int | None = None,
) -> list[int]:
    """Tokens of a greedy run, without the stop token.

    Args:
        network: what to run.
        inputs: of its module, batch 1.
        prompt: tokens that follow the network's own first ones.
        limit: most tokens; None: the network's own.
    """
    made: Tensors = network.module(**(inputs or {})) if network.module is not None else {}
    constants = {name: made[name] for name in network.constants}
    states = network.first(made)
    todo, tokens, before = [*network.start, *prompt], list[int](), 0
    while len(tokens) < (limit or network.limit):
        size = 1 if network.one_token else len(todo)
        new, todo = todo[:size], todo[size:]
        feeds = {**constants, **states}
        feeds[network.token] = torch.tensor(new if network.one_token else [new])
        if network.position is not None:
            feeds[network.position] = torch.arange(before, before + len(new))
        outputs = network.step(**feeds)
        before += len(new)
        states = {past: outputs[present] for past, present in network.states.items()}
        if todo:
            continue
        scores = outputs["logits"][0].reshape(-1, outputs["logits"].shape[-1])[-1].clone()
        scores[
            list(network.suppress if tokens else network.suppress + network.suppress_first)
        ] = -torch.inf
        token = int(scores.argmax())
        if token in network.stop:
            break
        tokens.append(token)
        todo = [token]
    return tokens


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
