"""The loop ``generate``: a stage is run token by token until a stop, a limit or a deadline.

docs/reference/bundle.md ("Loop", "Choosing a token") specifies what it computes. A run keeps its
states in a stepper of its own (:class:`mmedge.backends.Stepper`), so that any number may run at the
same time. What a call begins with is most often what an earlier one began with: the state after the
first tokens is kept, and the tokens that are the same are not run again.

It is long, since a loop and one run of it are read as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmedge.errors import BundleError, InputError
from mmedge.execution.generate_options import GenerateOptions, read_options
from mmedge.execution.sampling import choose
from mmedge.execution.state import FirstStates, call_sizes
from mmedge.execution.steppers import make_stepper
from mmedge.spec import DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mmedge.backends import Session
    from mmedge.bundle import Bundle
    from mmedge.execution.call_options import CallOptions, StartRun
    from mmedge.execution.detokenize import TextStream
    from mmedge.execution.feature_cache import FeatureCache
    from mmedge.execution.state import State
    from mmedge.spec import Array

__all__ = ["RESULTS", "Finish", "GenerateRun", "GenerateStep", "TokenLoop"]

#: Why a row has no more tokens.
Finish = Literal["stop", "limit", "deadline", "cancel"]

#: Most scores that a run gives for first tokens: 64 MiB in float32. More are taken in several runs.
MAX_SCORES = 2**24

#: Names of what a loop gives.
RESULTS = ("tokens", "lengths", "finish", "text")


@dataclass(frozen=True, slots=True, eq=False)
class GenerateStep:
    """One token for each row.

    Attributes:
        index: which choice it is, from 0.
        tokens: int64 [batch].
        active: bool [batch], whether the token counts: it is no stop token, and of no row that
            ended before.
        text: what the text of each row grows by; empty strings where the bundle has no tokenizer.
        scores: [batch, vocabulary], what the stage gave for the choice. Not to be written to. Who
            keeps a step keeps them: of 256 steps with 50,000 words 50 MB. Take what you need.
    """

    index: int
    tokens: Array
    active: Array
    text: tuple[str, ...]
    scores: Array


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """What the first tokens of a call left: the states, and the scores of what follows them."""

    constants: object
    tokens: Array
    states: Mapping[str, Array]
    scores: Array

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        states = sum(array.nbytes for array in self.states.values())
        return states + self.scores.nbytes + self.tokens.nbytes


class TokenLoop:
    """The loop of a loaded plan: what does not change from call to call.

    Args:
        bundle: its loop is of the kind ``generate``.
        sessions: by stage; that of the loop is among them.
        cache: keeps the states after first tokens; None: they are not kept.
        prefix_name: under which it does.

    Raises:
        BundleError: the stage cannot take one token at a time, or the tokenizer cannot be read.
    """

    def __init__(
        self,
        bundle: Bundle,
        sessions: Mapping[str, Session],
        cache: FeatureCache | None,
        prefix_name: str,
    ) -> None:
        manifest = bundle.manifest
        loop = manifest.loop
        if loop is None or loop.kind != "generate":
            raise ValueError("this bundle has no loop 'generate'")
        self.loop, self.session = loop, sessions[loop.stage]
        self.cache = None if loop.whole_prompt else cache
        self.prefix_name = prefix_name
        (stage,) = manifest.loop_stages()
        self.stage = stage
        self.first = FirstStates(bundle, stage)
        specs = {spec.name: spec for spec in stage.inputs}
        self.token = specs[loop.token]
        self.position = None if loop.position is None else specs[loop.position]
        states = {state.input for state in self.first.states}
        self.constants = tuple(
            name for name in specs if name not in states | {loop.token, loop.position}
        )
        self.specs = (*stage.inputs, *manifest.inputs().values())
        self.dimensions = manifest.dimensions
        #: By state that grows: its axis, and most elements along it before and after a run.
        outputs = {spec.name: spec for spec in stage.outputs}
        self.growth = {
            state.input: (
                state.axis,
                self._most(specs[state.input].shape[state.axis]),
                self._most(outputs[state.output].shape[state.axis]),
            )
            for state in self.first.states
            if state.axis is not None
        }
        logits = outputs[loop.logits].shape
        words = logits[-1]
        self._most_new = self._most_tokens(bundle)
        #: Scores that a run gives for each token that it takes; 0 where that is not known.
        self._scores_each = words if len(logits) == 3 and isinstance(words, int) else 0
        #: The largest token that can be chosen.
        self.most = words - 1 if isinstance(words, int) else 2**31
        self.suppress = np.array(loop.suppress, np.intp)
        self.suppress_first = np.array((*loop.suppress, *loop.suppress_first), np.intp)
        self.can_cut = len(self.growth) == len(self.first.states)
        for name in manifest.outputs:
            if name in RESULTS and name not in specs:
                raise BundleError(
                    f"{bundle.path}: output {name!r} has the name of what a loop gives "
                    f"({', '.join(RESULTS)}); export the bundle again with another name"
                )
        self.decode: Callable[[Sequence[int]], str] | None = None
        if loop.tokenizer is not None:
            # A bundle without text need not load what makes it.
            from mmedge.execution.detokenize import detokenizer

            self.decode = detokenizer(bundle, loop.tokenizer)

    def starter(self, options: CallOptions, deadline: float) -> StartRun:
        """Begins a run with the options of a call; None: what the bundle says.

        Args:
            options: of the call.
            deadline: time of ``monotonic`` after which no run of the stage begins.

        Raises:
            InputError: an option is not within its limits.
        """
        checked = read_options(self.loop, self.most, options, deadline)
        return partial(self._start, checked, options.get("state"))

    def _start(
        self,
        options: GenerateOptions,
        state: State | None,
        tensors: Mapping[str, Any],
        key: object,
    ) -> GenerateRun:
        return GenerateRun(self, tensors, options, state=state, key=key)

    def batch(self, sizes: Mapping[str, int], prompt: Array | None) -> int:
        """Rows of a call, by the sizes of its tensors and by its tokens."""
        size = self.token.shape[0]
        if isinstance(size, int):
            return size
        if prompt is not None:
            sizes = {size: len(prompt), **sizes}
        return sizes.get(size, self.dimensions[size].opt)

    def stream(self) -> TextStream:
        """The text of one row as its tokens come."""
        from mmedge.execution.detokenize import TextStream

        if self.decode is None:
            raise ValueError("this loop gives no text")
        return TextStream(self.decode)

    def most_new(self, batch: int) -> int | None:
        """Most tokens of a row that one run takes; None: any number."""
        if not self._scores_each:
            return self._most_new
        bound = max(1, MAX_SCORES // (batch * self._scores_each))
        return bound if self._most_new is None else min(self._most_new, bound)

    def _most_tokens(self, bundle: Bundle) -> int | None:
        """Most tokens of a row that the stage takes; None: any number."""
        if len(self.token.shape) == 1:
            return 1
        size = self.token.shape[1]
        least = most = size if isinstance(size, int) else 1
        if isinstance(size, str):
            limits = self.dimensions[size]
            least, most = max(limits.min, limits.multiple), limits.max or 0
        if least > 1:
            raise BundleError(
                f"{bundle.path}: stage {self.stage.name!r} takes {self.token}, at least {least} "
                "tokens at a time; expected 1 or more, since a loop has one; export it again"
            )
        return most or None

    def _most(self, size: int | str) -> float:
        limit = size if isinstance(size, int) else self.dimensions[size].max
        return inf if limit is None else limit


class GenerateRun:
    """One run of the loop ``generate``, token by token. For one thread.

    Args:
        loop: of the plan that is loaded.
        tensors: the network's inputs and outputs of this call, by name.
        options: of this call.
        state: what it begins with and leaves its state in; None: anew.
        key: stands for all ``tensors`` but the caller's tokens; None: prefixes are not kept.

    Attributes:
        index: tokens chosen so far.
        finish: why it ended; None while there are tokens to come.

    Raises:
        InputError: there is no first token, or they are more than the states take.
    """

    def __init__(
        self,
        loop: TokenLoop,
        tensors: Mapping[str, Any],
        options: GenerateOptions,
        *,
        state: State | None = None,
        key: object = None,
    ) -> None:
        self._loop, self._options, self._state = loop, options, state
        prompt: Array | None = tensors.get(loop.token.name)
        sizes = call_sizes((spec for spec in loop.specs if spec.name != loop.token.name), tensors)
        self._batch = batch = loop.batch(sizes, prompt)
        rows = loop.token.shape[0]
        if isinstance(rows, str):
            sizes[rows] = batch
        self._taken = 0 if state is None else state.position
        self._first_choice = 0 if state is None else state.choices
        self._tokens = self._first_tokens(prompt)
        if state is None or state.is_new:
            first: Mapping[str, Array] = loop.first.make(sizes, tensors)
        else:
            # What an earlier call left may be anything: nothing else begins so.
            first, key = state.arrays, None
            loop.first.check(first, sizes)
        if options.forced is not None and len(options.forced) != batch:
            raise InputError(f"forced: expected tokens for {batch} rows, got {len(options.forced)}")
        self._key = key
        self._most_new = loop.most_new(batch) or self._tokens.shape[1]
        if loop.loop.whole_prompt and self._tokens.shape[1] > self._most_new:
            raise InputError(
                f"the call begins with {self._tokens.shape[1]} tokens; this network's see each "
                f"other, so one run takes all, up to {self._most_new}; give fewer"
            )
        self._limit = self._room(first)
        self._stepper = make_stepper(loop.session, loop.first.states)
        self._stepper.begin(first)
        self._stepper.hold({name: tensors[name] for name in loop.constants})
        # Of every run but the first: written to between two.
        self._token = self._shaped(np.zeros((batch, 1), DTYPES[loop.token.dtype]))
        self._position = self._positions(0, 1)
        self._chosen: list[list[int]] = []
        self._last_scores: Array = np.empty((batch, 0), np.float32)
        self._lengths: list[int | None] = [None] * batch  # of rows that stopped
        self._stops = frozenset(options.stop)
        self._fill = options.stop[0] if options.stop else 0
        self.index = 0
        self.finish: Finish | None = None
        self._has_begun = False
        self._streams = None if loop.decode is None else [loop.stream() for _ in range(batch)]

    def __iter__(self) -> Iterator[GenerateStep]:
        """Take the steps that are left. Leaving the iteration takes none; it may be begun again."""
        while self.advance():
            yield self._last()

    def advance(self) -> bool:
        """Choose the next token of each row; say whether there was one.

        Raises:
            BackendError: the stage failed.
        """
        if self.finish is not None:
            return False
        scores = self._next_run() if self._has_begun else self._first_run()
        if scores is None:
            self.finish = "deadline"
            return False
        index, options = self.index, self._options
        choice = self._first_choice + index
        if options.forced is not None and index < options.forced.shape[1]:
            tokens = options.forced[:, index].tolist()
        else:
            suppress = self._loop.suppress if choice else self._loop.suppress_first
            tokens = choose(scores, options.sampling, choice, suppress)
        self._last_scores = scores
        lengths = self._lengths
        if self._batch == 1:
            if tokens[0] in self._stops:
                lengths[0], self.finish = index, "stop"
        else:
            for row, length in enumerate(lengths):
                if length is not None:
                    tokens[row] = self._fill
                elif tokens[row] in self._stops:
                    lengths[row] = index
            if None not in lengths:
                self.finish = "stop"
        self._chosen.append(tokens)
        self.index = index = index + 1
        if self.finish is None:
            if index == self._limit:
                self.finish = "limit"
            elif monotonic() >= options.deadline:
                self.finish = "deadline"
        return True

    def cancel(self) -> None:
        """Choose no more tokens; what there is so far stays."""
        self.finish = self.finish or "cancel"

    def result(self) -> dict[str, Any]:
        """What the loop gives (docs/reference/bundle.md, "Loop"), so far if it has not ended."""
        end = self.finish or "cancel"
        lengths = [self.index if length is None else length for length in self._lengths]
        tokens = np.array(self._chosen, np.int64).reshape(self.index, self._batch).T
        rows = [tokens[row, :length].tolist() for row, length in enumerate(lengths)]
        given: dict[str, Any] = {
            "tokens": np.full((self._batch, max(lengths)), self._fill, np.int64),
            "lengths": np.array(lengths, np.int64),
            "finish": [end if length is None else "stop" for length in self._lengths],
        }
        for row, length in enumerate(lengths):
            given["tokens"][row, :length] = rows[row]
        if self._loop.decode is not None:
            given["text"] = [self._loop.decode(row) for row in rows]
        return given

    def leave_state(self, others: Mapping[str, Array]) -> None:
        """Put what there is so far into the State that the run was given, if any.

        Args:
            others: states of stages that are not of the loop.
        """
        if self._state is None:
            return
        pending = self._tokens if not self._chosen else np.array(self._chosen[-1:]).T
        states = {**others, **self._stepper.states()}
        self._state.replace(states, self._taken, self._first_choice + self.index, pending)

    def _last(self) -> GenerateStep:
        """The step that was taken last."""
        index, tokens = self.index - 1, self._chosen[-1]
        active = [length is None or length > index for length in self._lengths]
        text = [""] * self._batch
        if self._streams is not None:
            for row, stream in enumerate(self._streams):
                if active[row]:
                    text[row] = stream.add(tokens[row], last=self.finish is not None)
                elif self._lengths[row] == index:
                    text[row] = stream.end()
        return GenerateStep(
            index, np.array(tokens, np.int64), np.array(active), tuple(text), self._last_scores
        )

    def _first_tokens(self, prompt: Array | None) -> Array:
        """What the first run takes, [batch, n]."""
        loop, state = self._loop, self._state
        if state is not None and state.pending is not None:
            first = state.pending
            if len(first) != self._batch:
                raise InputError(
                    f"the State given has {len(first)} rows, this call has {self._batch}; call "
                    "with as many, or with a new State"
                )
        else:
            first = np.tile(np.array(loop.loop.start, np.int64), (self._batch, 1))
        tokens = first
        if prompt is not None:
            prompt = prompt.reshape(len(prompt), -1)
            if prompt.size and prompt.min() < 0:
                # A graph may take it for one that is counted from the end.
                raise InputError(
                    f"input {loop.token.name!r} holds {prompt.min()}; tokens are numbers from 0, "
                    "and padding is left out"
                )
            if len(prompt) != self._batch:
                raise InputError(
                    f"input {loop.token.name!r} has {len(prompt)} rows, the other inputs of this "
                    f"call have {self._batch}; give each row its own tokens"
                )
            tokens = np.concatenate((first, prompt), axis=1)
        if not tokens.shape[1]:
            raise InputError(
                f"input {loop.token.name!r} holds no token, and the loop has none to start with; "
                "give one at least"
            )
        return tokens.astype(DTYPES[loop.token.dtype])

    def _room(self, first: Mapping[str, Array]) -> int:
        """How many tokens may be chosen before a state is larger than it may be."""
        taken, limit = self._tokens.shape[1], self._options.limit
        for name, (axis, most_before, most_after) in self._loop.growth.items():
            size = first[name].shape[axis]
            # Of the last run of the first tokens, whose size is what one run takes at most.
            last = taken - (taken - 1) % self._most_new - 1
            room = min(most_after - size - taken, most_before - size - last)
            if room < 0:
                raise InputError(
                    f"the call begins with {taken} tokens, {-room:g} more than state {name!r} of "
                    f"stage {self._loop.stage.name!r} takes beside the {size} that it holds; "
                    "give fewer"
                )
            limit = int(min(limit, 1 + most_after - size - taken, 2 + most_before - size - taken))
        return max(limit, 1)

    def _first_run(self) -> Array | None:
        """Take the first tokens; the scores of what follows, or None past the deadline."""
        loop, tokens, stepper = self._loop, self._tokens, self._stepper
        total = tokens.shape[1]
        scores, start = self._reuse_prefix()
        is_whole = scores is not None
        while start < total:
            if monotonic() >= self._options.deadline:
                self._taken, self._tokens = self._taken + start, tokens[:, start:]
                return None
            end = min(total, start + self._most_new)
            stepper.hold({loop.token.name: self._shaped(tokens[:, start:end])})
            if loop.position is not None:
                positions = self._positions(self._taken + start, end - start)
                stepper.hold({loop.position.name: positions})
            scores, start = self._scores(), end
        self._taken += total
        if scores is not None and not is_whole:
            self._keep_prefix(scores)
        stepper.hold({loop.token.name: self._token})
        if loop.position is not None:
            stepper.hold({loop.position.name: self._position})
        self._has_begun = True
        return scores

    def _next_run(self) -> Array:
        """Take the tokens that were chosen last; the scores of what follows."""
        tokens = self._chosen[-1]
        if self._batch == 1:
            self._token.fill(tokens[0])
        else:
            self._token.reshape(-1)[:] = tokens
        self._position.fill(self._taken)
        self._taken += 1
        return self._scores()

    def _scores(self) -> Array:
        scores = self._stepper.run()[self._loop.loop.logits]
        if scores.ndim == 2:
            return scores
        last = scores[:, -1]
        # Else who keeps a step would keep the scores of all first tokens.
        return last if scores.shape[1] == 1 else last.copy()

    def _shaped(self, tokens: Array) -> Array:
        """Tokens [batch, new] as the stage takes them."""
        is_row = len(self._loop.token.shape) == 1
        return np.ascontiguousarray(tokens[:, 0] if is_row else tokens)

    def _positions(self, start: int, count: int) -> Array:
        """How many tokens there are before each of ``count``, as the stage takes them."""
        spec, token = self._loop.position, self._loop.token
        if spec is None:
            return np.zeros(())
        places = np.arange(start, start + count, dtype=DTYPES[spec.dtype])
        if len(spec.shape) == len(token.shape):
            return self._shaped(np.tile(places, (self._batch, 1)))
        return places if spec.shape else places[:1].reshape(())

    def _reuse_prefix(self) -> tuple[Array | None, int]:
        """Begin with what an earlier call left; the scores if it is all, and its tokens."""
        loop, total = self._loop, self._tokens.shape[1]
        if loop.cache is None or self._key is None:
            return None, 0
        prefix = loop.cache.best(loop.prefix_name, self._common)
        if prefix is None:
            return None, 0
        common, length = self._common(prefix), prefix.tokens.shape[1]
        states = prefix.states
        if common < length:
            states = {
                name: _beginning(array, axis, array.shape[axis] - length + common)
                for name, array in states.items()
                for axis in [loop.growth[name][0]]
            }
        self._stepper.begin(states)
        return (prefix.scores if common == total else None), common

    def _common(self, prefix: Prefix) -> int:
        """How many of the first tokens need not be run again, where a call left ``prefix``."""
        loop, tokens = self._loop, self._tokens
        total, length = tokens.shape[1], prefix.tokens.shape[1]
        if prefix.constants != self._key or len(prefix.tokens) != self._batch:
            return 0
        least = min(total, length)
        is_same = (tokens[:, :least] == prefix.tokens[:, :least]).all(axis=0)
        common = least if is_same.all() else int(is_same.argmin())
        if common == total == length:
            return common
        if common < length:
            # The scores of what follows are not there: the last token is run.
            common = min(common, total - 1) if loop.can_cut else 0
        # What every call starts with is not worth it.
        return common if common > len(loop.loop.start) else 0

    def _keep_prefix(self, scores: Array) -> None:
        """Keep the states after the first tokens for calls that begin with the same."""
        loop, tokens = self._loop, self._tokens
        if loop.cache is None or self._key is None:
            return
        prefix = Prefix(self._key, tokens, self._stepper.states(), scores.copy())
        key = ((tokens.dtype.str, tokens.shape, tokens.tobytes()), self._key)
        loop.cache.put(loop.prefix_name, key, prefix, prefix.nbytes)


def _beginning(array: Array, axis: int, size: int) -> Array:
    """The first ``size`` along ``axis``."""
    return np.ascontiguousarray(array[(slice(None),) * axis + (slice(size),)])
