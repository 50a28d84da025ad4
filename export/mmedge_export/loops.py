"""State and loops as a user says them: which module is run step by step, and what it hands itself.

Nothing here runs anything. What can be known to be wrong without running is refused when a
:class:`Generate`, :class:`Denoise` or :class:`StateInput` is made, or by
:mod:`mmedge_export.loop_checks` when the :class:`mmedge_export.Model` around it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmedge.errors import ExportError
from mmedge.schema.names import MAX_RANK, TENSOR_NAME
from mmedge.spec import DTYPES
from mmedge_export.inputs import Limits, as_array
from mmedge_export.schedules import Schedule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from mmedge.spec import Array

__all__ = ["Denoise", "Generate", "Loop", "StateInput"]

#: Most tokens that a loop may have as its limit (docs/reference/bundle.md).
_MAX_LIMIT = 2**20


@dataclass(frozen=True)
class StateInput:
    """An input that takes what the run before gave: the network's ``output`` of that name.

    ``shape`` has a size for each axis, or the name of a dimension: one of the network's inputs or
    outputs (such as ``"batch"``), or the one that ``grows``, along which a run adds what it saw.
    ``initial`` says what the first run takes: ``"empty"`` (nothing along ``grows``; the default of
    a state that grows), ``"zeros"`` (the default of any other), an array of the state's shape, or,
    in a loop, the name of one of ``Model.outputs``, whose shape and dtype the state then has.

    Without a loop, dataflow decides whose state it is. Where the new state follows from one
    modality alone, it belongs to that modality's encoder, which runs once for each of its values;
    else it belongs to the fusion stage, which runs once for each result.
    """

    output: str
    shape: Sequence[int | str] | None = None
    dtype: str = "float32"
    grows: str | None = None
    initial: Any = None

    def __post_init__(self) -> None:
        what = f"state with output {self.output!r}"
        if self.initial is None:
            object.__setattr__(self, "initial", "zeros" if self.grows is None else "empty")
        object.__setattr__(self, "initial", as_array(self.initial))
        if not isinstance(self.output, str) or not TENSOR_NAME.fullmatch(self.output):
            raise ExportError(f"{what}: expected the name of an output")
        if self.shape is None:
            if not self.source:
                raise ExportError(
                    f"{what}: no shape; give the size or the dimension's name of each axis, such "
                    'as shape=("batch", 64)'
                )
        else:
            object.__setattr__(self, "shape", tuple(self.shape))
            self._check_shape(what, tuple(self.shape))
        if self.dtype not in DTYPES:
            raise ExportError(f"{what}: dtype {self.dtype!r}; expected one of {', '.join(DTYPES)}")
        if isinstance(self.initial, str):
            if self.initial == "empty" and self.grows is None:
                raise ExportError(
                    f'{what}: initial is "empty", but no dimension grows; name it in grows, or '
                    'say initial="zeros"'
                )
            if self.initial == "zeros" and self.grows is not None:
                raise ExportError(
                    f'{what}: it grows along {self.grows!r}, so it begins "empty", with an array, '
                    "or with an output of the network; zeros would count as what was seen"
                )
        elif not isinstance(self.initial, np.ndarray):
            raise ExportError(
                f'{what}: initial is {type(self.initial).__name__}; expected "empty", "zeros", an '
                "array or the name of an output of the network"
            )
        elif self.initial.dtype.name != self.dtype or not self._fits(self.initial.shape):
            raise ExportError(
                f"{what}: initial is {self.initial.dtype} {list(self.initial.shape)}; expected "
                f"{self.dtype} {self.shape}"
            )

    @property
    def source(self) -> str | None:
        """The network's output that it begins with, if it does."""
        is_name = isinstance(self.initial, str) and self.initial not in ("empty", "zeros")
        return self.initial if is_name else None

    def _check_shape(self, what: str, shape: tuple[int | str, ...]) -> None:
        for size in shape:
            if not (isinstance(size, str) and size.isidentifier()) and not (
                type(size) is int and size >= 1
            ):
                raise ExportError(
                    f"{what}: shape {shape}: expected sizes from 1 on or names, got {size!r}"
                )
        if len(shape) > MAX_RANK:
            raise ExportError(f"{what}: rank {len(shape)}; a bundle holds up to {MAX_RANK}")
        if self.grows is not None and shape.count(self.grows) != 1:
            raise ExportError(
                f"{what}: it grows along {self.grows!r}, which must be one axis of its shape "
                f"{shape}"
            )

    def _fits(self, sizes: tuple[int, ...]) -> bool:
        shape = tuple(self.shape or ())
        return len(sizes) == len(shape) and all(
            isinstance(b, str) or a == b for a, b in zip(sizes, shape, strict=True)
        )


@dataclass(frozen=True)
class Generate:
    """A module that is run token by token until a stop token.

    ``step`` (a torch module in evaluation mode, or the path of an ONNX file) is called by keyword
    with what its forward takes of ``Model.outputs`` (constants: the same in all steps) and
    ``Model.inputs``, with its states, with ``token``, and with ``position`` where that is named. It
    returns ``logits`` and the new states, by key, or as a tuple in the order of ``state``.

    ``token`` takes the last tokens, int64 [batch, new] (``token_shape`` and ``token_dtype`` say
    otherwise: without ``new``, or with 1 in its place, it takes one token at a time). One graph
    serves any number of new tokens. If ``token`` is one of ``Model.inputs``, the caller's tokens
    follow ``start``, one at a time where ``token_shape`` says so. ``position`` takes the number of
    tokens before each token, in ``token_shape`` unless ``position_shape`` says ``("new",)`` or
    ``()``. ``logits`` is [batch, vocabulary] or [batch, new, vocabulary].

    ``state`` maps an input of the step to a :class:`StateInput`, or to the name of the step's
    output where the state begins as the output of ``module`` that is called like the input.

    ``dims`` limits dimensions of the step, such as ``{"past": (0, 448)}``; a dimension that grows
    has room for ``start``, the caller's tokens and ``limit`` by default. The rest is what
    docs/reference/bundle.md says of a loop ``generate``. ``tokenizer`` turns tokens into text: the
    path of a file of the ``tokenizers`` library.

    ``whole_prompt`` says that tokens of a prompt see later ones of it, so that they are another
    thing one after another. They are not compared then; a runtime takes a prompt at once.
    """

    step: torch.nn.Module | Path
    token: str = "input_ids"  # noqa: S105 - the name of an input
    logits: str = "logits"
    state: Mapping[str, StateInput | str] = field(default_factory=dict)
    start: Sequence[int] = ()
    stop: Sequence[int] = ()
    limit: int = 256
    position: str | None = None
    suppress: Sequence[int] = ()
    suppress_first: Sequence[int] = ()
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    tokenizer: str | Path | None = None
    token_shape: Sequence[int | str] | None = None
    token_dtype: str = "int64"  # noqa: S105
    position_shape: Sequence[int | str] | None = None
    dims: Mapping[str, Limits] = field(default_factory=dict)
    whole_prompt: bool = False

    kind: Literal["generate"] = field(default="generate", init=False)

    def __post_init__(self) -> None:
        _check_step(self)
        for name in ("start", "stop", "suppress", "suppress_first"):
            values = getattr(self, name)
            if isinstance(values, (int, np.integer)):
                values = (values,)
            object.__setattr__(self, name, tuple(int(token) for token in values))
            for token in getattr(self, name):
                if token < 0:
                    raise ExportError(f"Generate: {name} has {token}; token ids are 0 or more")
        if not 1 <= self.limit <= _MAX_LIMIT:
            raise ExportError(f"Generate: limit is {self.limit}; expected 1 to {_MAX_LIMIT} tokens")
        if not 0 <= self.temperature <= 100 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ExportError(
                f"Generate: temperature {self.temperature}, top_k {self.top_k}, top_p "
                f"{self.top_p}; expected 0 to 100, 0 or more, and above 0 to 1"
            )
        if overlap := set(self.stop) & set(self.suppress):
            raise ExportError(
                f"Generate: token {min(overlap)} is in stop and in suppress: it is never chosen, "
                "so it never stops"
            )
        if self.token_dtype not in ("int32", "int64"):
            raise ExportError(f"Generate: token_dtype is {self.token_dtype!r}; int32 or int64")
        shape = self.token_shape
        if shape is not None and (len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] == 0)):
            raise ExportError(
                f'Generate: token_shape is {tuple(shape)}; expected ("batch", "new"), ("batch", 1) '
                'or ("batch",)'
            )
        if self.tokenizer is not None and not Path(self.tokenizer).is_file():
            raise ExportError(f"Generate: no tokenizer at {self.tokenizer}")

    @property
    def given(self) -> tuple[str, ...]:
        """Inputs of the step that the loop gives."""
        return (self.token,) if self.position is None else (self.token, self.position)

    @property
    def result(self) -> str:
        """The step's output that the loop takes."""
        return self.logits


@dataclass(frozen=True)
class Denoise:
    """A module that is run over a fixed schedule, from noise to a latent.

    ``step`` is called by keyword with what its forward takes of ``Model.outputs`` and
    ``Model.inputs``, with ``latent`` (float32, of ``shape``: sizes, or names of dimensions) and
    ``time`` (of ``time_shape``: [], [1] or [batch]; int64 where all times of the schedule are whole
    numbers, else float32, unless ``time_dtype`` says otherwise). It returns ``prediction``, of the
    latent's shape.

    ``schedule`` holds a row of coefficients for each step; :mod:`mmedge_export.schedules` makes
    those of published solvers. ``clip`` limits every estimate of the sample. With ``guidance`` the
    step runs twice: ``unconditional`` gives what stands for some of ``Model.inputs`` in the second
    run, such as the ids of an empty text (the network is then run on it once, at export), or for
    some of ``Model.outputs``. ``decoder`` is a module that takes the last latent, by the name
    ``latent``, and returns ``outputs``.
    """

    step: torch.nn.Module | Path
    schedule: Schedule
    shape: Sequence[int | str]
    latent: str = "latent"
    time: str = "timestep"
    prediction: str = "prediction"
    guidance: float | None = None
    unconditional: Mapping[str, Array] = field(default_factory=dict)
    decoder: torch.nn.Module | Path | None = None
    outputs: Sequence[str] = ("output",)
    clip: float | None = None
    time_shape: Sequence[int | str] = ()
    time_dtype: str | None = None
    dims: Mapping[str, Limits] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)

    kind: Literal["denoise"] = field(default="denoise", init=False)
    state: Mapping[str, StateInput | str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        _check_step(self)
        if not isinstance(self.schedule, Schedule):
            raise ExportError(
                f"Denoise: schedule is {type(self.schedule).__name__}; expected a Schedule, such "
                "as mmedge_export.schedules.ddim(...) gives"
            )
        object.__setattr__(self, "shape", tuple(self.shape))
        object.__setattr__(
            self, "unconditional", {n: as_array(v) for n, v in self.unconditional.items()}
        )
        if (self.guidance is None) != (not self.unconditional):
            raise ExportError(
                "Denoise: guidance and unconditional belong together: give both, or neither"
            )
        if self.clip is not None and not self.clip > 0:
            raise ExportError(f"Denoise: clip is {self.clip}; expected a number above 0")
        if self.clip is not None and not any(row[4] or row[7] for row in self.schedule.rows):
            raise ExportError(
                "Denoise: clip limits estimates, but no step of this schedule uses one; leave it "
                "out"
            )
        decoder: Any = self.decoder
        if isinstance(decoder, str):
            object.__setattr__(self, "decoder", Path(decoder))
        if self.time_dtype is None:
            kind = "int64" if self.schedule.has_whole_times else "float32"
            object.__setattr__(self, "time_dtype", kind)
        if self.time_dtype not in ("int32", "int64", "float32"):
            raise ExportError(f"Denoise: time_dtype is {self.time_dtype!r}; int64 or float32")
        if self.time_dtype != "float32" and not self.schedule.has_whole_times:
            raise ExportError(
                "Denoise: the schedule has times that are no whole numbers; time_dtype must be "
                "float32"
            )
        if len(self.time_shape) > 1:
            raise ExportError(
                f'Denoise: time_shape is {tuple(self.time_shape)}; expected (), (1,) or ("batch",)'
            )

    @property
    def given(self) -> tuple[str, ...]:
        """Inputs of the step that the loop gives."""
        return (self.latent, self.time)

    @property
    def result(self) -> str:
        """The step's output that the loop takes."""
        return self.prediction


Loop = Generate | Denoise


def _check_step(loop: Any) -> None:  # noqa: ANN401 - one of two classes
    what = type(loop).__name__
    if isinstance(loop.step, str):
        object.__setattr__(loop, "step", Path(loop.step))
    if isinstance(loop.step, Path):
        if not loop.step.is_file():
            raise ExportError(f"{what}: step: no ONNX file at {loop.step}")
    elif not (hasattr(loop.step, "named_modules") and hasattr(loop.step, "forward")):
        raise ExportError(
            f"{what}: step is {type(loop.step).__name__}; expected a torch.nn.Module or the path "
            "of an ONNX file"
        )
    names = [*loop.given, loop.result, *loop.state]
    names += [
        value.output if isinstance(value, StateInput) else value for value in loop.state.values()
    ]
    for name in names:
        if not isinstance(name, str) or not TENSOR_NAME.fullmatch(name):
            raise ExportError(
                f"{what}: tensors need a name of the form {TENSOR_NAME.pattern}, got {name!r}"
            )
        if names.count(name) > 1:
            raise ExportError(
                f"{what}: {name!r} names two tensors of the step; a state's input and output have "
                "different names, such as past_k and present_k"
            )
