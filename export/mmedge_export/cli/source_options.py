"""Options of ``mmedge export`` and ``mmedge init`` that say what a source cannot tell by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmedge_export.sources.example_file import read_example
from mmedge_export.sources.source import DimensionOption, SourceOptions, parse_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SourceFlags", "pairs"]


@dataclass(frozen=True)
class SourceFlags:
    """The options as they are typed; what each means, :class:`SourceOptions` says."""

    modality: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=INPUT,...", help="Inputs that form one modality; repeatable."),
    ] = None
    rate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=HZ", help="Values a second of a modality or input; repeatable."
        ),
    ] = None
    optional: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY",
            help="A modality that may be missing, zeros stand in for it; repeatable.",
        ),
    ] = None
    dim: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIM=SIZES",
            help="Sizes of a dynamic dimension: in the example alone (8), or with limits (1:8:64); "
            "without MAX (1:8:) there is no largest. Repeatable.",
        ),
    ] = None
    multiple: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIM=N", help="Sizes of a dynamic dimension are multiples of N; repeatable."
        ),
    ] = None
    example: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Example inputs: .npz, .safetensors, or a folder of NAME.npy files; default: "
            "made-up values.",
        ),
    ] = None
    samples: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Golden samples: .safetensors, .npy, picture or WAV files, one a sample; of "
            "several inputs, a folder for each.",
        ),
    ] = None
    rename: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OLD=NEW",
            help="Another name for an input, output or dimension of an ONNX file; repeatable.",
        ),
    ] = None
    state: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=OUTPUT",
            help="A state: the input takes the output of the run before; repeatable. With --token, "
            "past_* and present_* are found.",
        ),
    ] = None
    decoder: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A second ONNX file, which is run token by token on what the first one gives.",
        ),
    ] = None
    token: Annotated[
        str | None,
        typer.Option(metavar="INPUT", help="Run token by token; the input for tokens."),
    ] = None
    logits: Annotated[
        str | None,
        typer.Option(
            metavar="OUTPUT", help="With --token: the output with scores; default logits."
        ),
    ] = None
    position: Annotated[
        str | None, typer.Option(metavar="INPUT", help="With --token: the input for positions.")
    ] = None
    start: Annotated[
        str | None, typer.Option(metavar="ID,...", help="Tokens before the caller's.")
    ] = None
    stop: Annotated[str | None, typer.Option(metavar="ID,...", help="Tokens that end a row.")] = (
        None
    )
    limit: Annotated[
        int | None,
        typer.Option(
            help="Most tokens that a call chooses; default: what the source says, or 256.", min=1
        ),
    ] = None
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The tokenizer.json that makes text of tokens."),
    ] = None
    frame: Annotated[
        str | None,
        typer.Option(
            metavar="HEIGHTxWIDTH",
            help="Size of a camera's pictures: what a checkpoint's processor makes of them goes "
            "into the graph.",
        ),
    ] = None
    task: Annotated[
        str | None,
        typer.Option(
            help="What a checkpoint is to do, where its class leaves a choice, such as translate."
        ),
    ] = None
    language: Annotated[
        str | None,
        typer.Option(
            help="The language that a checkpoint hears (--task transcribe) or writes, where its "
            "class leaves a choice."
        ),
    ] = None
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run Python code that lies in a checkpoint."),
    ] = False

    def options(self) -> SourceOptions:
        """What they say.

        Raises:
            typer.BadParameter: one has another form.
            ExportError: the example cannot be read.
        """
        return SourceOptions(
            modality={
                name: text.split(",") for name, text in pairs("--modality", self.modality or ())
            },
            rates={name: _rate(text) for name, text in pairs("--rate", self.rate or ())},
            optional=tuple(self.optional or ()),
            dims=self._dims(),
            example=None if self.example is None else read_example(self.example),
            samples=self.samples,
            rename=dict(pairs("--rename", self.rename or ())),
            decoder=self.decoder,
            states=dict(pairs("--state", self.state or ())),
            token=self.token,
            logits=self.logits,
            position=self.position,
            start=_ids("--start", self.start),
            stop=_ids("--stop", self.stop),
            limit=self.limit,
            tokenizer=self.tokenizer,
            frame=_frame(self.frame),
            task=self.task,
            language=self.language,
            trust_remote_code=self.trust_remote_code,
        )

    def _dims(self) -> dict[str, DimensionOption]:
        dims = {name: _sizes(text) for name, text in pairs("--dim", self.dim or ())}
        for name, text in pairs("--multiple", self.multiple or ()):
            said = dims.get(name, DimensionOption())
            dims[name] = DimensionOption(
                said.min, said.opt, said.max, _whole("--multiple", text, least=1)
            )
        return dims


def _frame(text: str | None) -> tuple[int, int] | None:
    try:
        return None if text is None else parse_frame(text)
    except ValueError as error:
        raise typer.BadParameter(f"--frame {text!r}: {error}") from error


def pairs(option: str, words: Sequence[str]) -> list[tuple[str, str]]:
    """What stands on both sides of the first ``=`` of each word.

    Raises:
        typer.BadParameter: one has another form, or stands twice.
    """
    result: list[tuple[str, str]] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals or not value:
            raise typer.BadParameter(f"{option} {word!r}: expected NAME=VALUE")
        if key in (earlier for earlier, _ in result):
            raise typer.BadParameter(f"{option} {key!r} is given twice")
        result.append((key, value))
    return result


def _sizes(text: str) -> DimensionOption:
    try:
        return DimensionOption.parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"--dim {text!r}: {error}") from error


def _whole(option: str, text: str, *, least: int) -> int:
    if not text.isdigit() or int(text) < least:
        raise typer.BadParameter(f"{option}: expected a whole number from {least} on, got {text!r}")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < math.inf:
        raise typer.BadParameter(f"--rate: expected a number above 0, got {text!r}")
    return rate


def _ids(option: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    for word in text.split(","):
        if not word.strip().isdigit():
            raise typer.BadParameter(f"{option}: expected token ids such as 1,2, got {text!r}")
    return tuple(int(word) for word in text.split(","))
