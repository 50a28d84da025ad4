"""A step that makes tokens, run by hand: with tokens that are given, or with its own best ones.

Network and graph are run by the same few lines, so that a difference is theirs. Rules are those of
docs/reference/bundle.md ("Loop", "Choosing a token") for a greedy run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmedge.spec import DTYPES
from mmedge_export.capture.carried_state import check_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mmedge.spec import Array
    from mmedge_export.capture.golden import Run
    from mmedge_export.loops import Generate

__all__ = ["StepState", "TokenRun", "TokenStep", "TokenSteps"]


@dataclass(frozen=True)
class StepState:
    """What a step hands to itself: names of input and output, and the axis along which it grows."""

    input: str
    output: str
    axis: int | None


@dataclass(frozen=True)
class TokenStep:
    """One run of a step: what it took and gave, and how many tokens came before."""

    position: int
    feeds: Mapping[str, Array]
    outputs: Mapping[str, Array]


@dataclass(frozen=True)
class TokenRun:
    """A whole greedy run.

    Attributes:
        tokens: int64 [batch, n], a shorter row filled with the first stop token.
        scores: of each choice, float [batch, vocabulary]: n of them, and the one that ended it.
        steps: what steps took and gave, by their numbers; of a long run, not of all.
        count: how many steps there were.
    """

    tokens: Array
    scores: tuple[Array, ...]
    steps: Mapping[int, TokenStep]
    count: int


class _Steps:
    """Steps of a run: all, or every second, fourth and so on, as far as there is room.

    Args:
        states: names of the states, which are another array in each step.
        limit: bytes of states that steps took. What a step gives, the next one takes.
        first: so many steps from the beginning stay.
    """

    def __init__(self, states: Sequence[str], limit: int, first: int) -> None:
        self.kept: dict[int, TokenStep] = {}
        self.count = 0
        self._states, self._limit, self._first = tuple(states), limit, first
        self._bytes, self._stride = 0, 1

    def add(self, step: TokenStep) -> None:
        """Note the next step."""
        number = self.count
        self.count += 1
        if number >= self._first and number % self._stride:
            return
        self.kept[number] = step
        self._bytes += self._size(step)
        while self._bytes > self._limit and self._stride <= self.count:
            self._stride *= 2
            for other in list(self.kept):
                if other >= self._first and other % self._stride:
                    self._bytes -= self._size(self.kept.pop(other))

    def _size(self, step: TokenStep) -> int:
        return sum(step.feeds[name].nbytes for name in self._states)


class TokenSteps:
    """How a step is called.

    Args:
        loop: names what it takes.
        states: what it hands to itself.
        token_shape: of its token input: names of dimensions, or sizes.
        most: the largest size of each state along the axis in which it grows; None: no limit.
    """

    def __init__(
        self,
        loop: Generate,
        states: Sequence[StepState],
        token_shape: Sequence[int | str],
        most: Mapping[str, int | None],
    ) -> None:
        self.loop = loop
        self.states = tuple(states)
        self.token_shape = tuple(token_shape)
        self._most = most

    @property
    def takes_many(self) -> bool:
        """Whether one run takes any number of tokens."""
        return len(self.token_shape) == 2 and isinstance(self.token_shape[1], str)

    def feeds(
        self,
        constants: Mapping[str, Array],
        states: Mapping[str, Array],
        tokens: Array,
        position: int,
    ) -> dict[str, Array]:
        """What a run takes: ``tokens`` is [batch, new], with ``position`` tokens before them."""
        kind = DTYPES[self.loop.token_dtype]
        taken = tokens.astype(kind)
        feeds = {**constants, **states}
        feeds[self.loop.token] = taken if len(self.token_shape) == 2 else taken[:, 0]
        if self.loop.position is not None:
            feeds[self.loop.position] = self._positions(feeds[self.loop.token], position, kind)
        return feeds

    def _positions(self, token: Array, position: int, kind: np.dtype[np.generic]) -> Array:
        shape = self.loop.position_shape
        rank = token.ndim if shape is None else len(shape)
        if rank == 0:
            return np.array(position, kind)
        count = token.shape[1] if token.ndim == 2 else 1
        line = np.arange(position, position + count, dtype=kind)
        if rank == token.ndim:
            line = np.array(np.broadcast_to(line if rank == 2 else line[0], token.shape))
        return line

    def scores(self, outputs: Mapping[str, Array]) -> Array:
        """Of the next token, [batch, vocabulary]."""
        logits = outputs[self.loop.logits]
        return logits[:, -1] if logits.ndim == 3 else logits

    def advance(
        self, before: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> dict[str, Array]:
        """The states that the next run takes.

        Raises:
            ExportError: one is not what the next run takes.
        """
        after = {state.input: outputs[state.output] for state in self.states}
        for state in self.states:
            check_state(
                state.input, state.output, before[state.input], after[state.input], state.axis
            )
        return after

    def choose(self, scores: Array, *, first: bool) -> Array:
        """The best token of each row, int64 [batch]; of equal ones the first."""
        numbers = scores.astype(np.float64)
        for token in (*self.loop.suppress, *(self.loop.suppress_first if first else ())):
            numbers[:, token] = -np.inf
        return np.asarray(numbers.argmax(-1), np.int64)

    def force(
        self,
        run: Run,
        constants: Mapping[str, Array],
        states: Mapping[str, Array],
        pieces: Sequence[Array],
    ) -> Iterator[TokenStep]:
        """Runs that take ``pieces``, each [batch, new], one after another."""
        position = 0
        for piece in pieces:
            feeds = self.feeds(constants, states, piece, position)
            outputs = run(feeds)
            yield TokenStep(position, feeds, outputs)
            states = self.advance(states, outputs)
            position += piece.shape[1]

    def pieces(self, tokens: Array) -> list[Array]:
        """Tokens as a loop takes them at first: all at once where a run takes many."""
        if self.takes_many:
            return [tokens]
        return [tokens[:, at : at + 1] for at in range(tokens.shape[1])]

    def run(
        self,
        run: Run,
        constants: Mapping[str, Array],
        states: Mapping[str, Array],
        begin: Array,
        *,
        limit: int,
        stops: bool = True,
        keep_bytes: int = 0,
        keep_first: int = 0,
    ) -> TokenRun:
        """A greedy run.

        Args:
            run: the step.
            constants: what stays the same.
            states: what the first run takes.
            begin: the first tokens, [batch, at least 1].
            limit: most tokens to choose.
            stops: whether rows end at a stop token.
            keep_bytes: of states, for steps.
            keep_first: steps from the beginning that are among them in any case.
        """
        batch = begin.shape[0]
        filler = self.loop.stop[0] if self.loop.stop else 0
        ended = np.zeros(batch, bool)
        lengths = np.zeros(batch, np.int64)
        kept = _Steps([state.input for state in self.states], keep_bytes, keep_first)
        chosen: list[Array] = []
        scores: list[Array] = []
        pieces, position = self.pieces(begin), 0
        while True:
            for piece in pieces:
                feeds = self.feeds(constants, states, piece, position)
                outputs = run(feeds)
                kept.add(TokenStep(position, feeds, outputs))
                states = self.advance(states, outputs)
                position += piece.shape[1]
            scores.append(self.scores(outputs))
            token = self.choose(scores[-1], first=not chosen)
            if stops:
                ended |= np.isin(token, self.loop.stop)
                token[ended] = filler
            chosen.append(token)
            lengths[~ended] += 1
            if ended.all() or len(chosen) >= limit or not self._has_room(states):
                break
            pieces = [token[:, None]]
        count = int(lengths.max())
        tokens = np.stack(chosen, 1)[:, :count]
        return TokenRun(tokens, tuple(scores), kept.kept, kept.count)

    def _has_room(self, states: Mapping[str, Array]) -> bool:
        return all(
            state.axis is None
            or (most := self._most.get(state.input)) is None
            or states[state.input].shape[state.axis] < most
            for state in self.states
        )
