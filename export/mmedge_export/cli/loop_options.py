"""Options of ``mmedge export`` that say what an ONNX file cannot: its states and its loop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmedge_export.sources.onnx_loop import OnnxLoop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "LimitOption",
    "LogitsOption",
    "PositionOption",
    "StartOption",
    "StateOption",
    "StopOption",
    "TokenOption",
    "TokenizerOption",
    "onnx_loop",
]

StateOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="INPUT=OUTPUT",
        help="A state of an ONNX file: the input takes the output of the run before; repeatable. "
        "With --token, past_* and present_* are found.",
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(metavar="INPUT", help="Run an ONNX file token by token; the input for tokens."),
]
LogitsOption = Annotated[
    str, typer.Option(metavar="OUTPUT", help="With --token: the output with scores.")
]
PositionOption = Annotated[
    str | None, typer.Option(metavar="INPUT", help="With --token: the input for positions.")
]
StartOption = Annotated[
    str | None, typer.Option(metavar="ID,...", help="With --token: tokens before the caller's.")
]
StopOption = Annotated[
    str | None, typer.Option(metavar="ID,...", help="With --token: tokens that end a row.")
]
LimitOption = Annotated[
    int, typer.Option(help="With --token: most tokens that a call chooses.", min=1)
]
TokenizerOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="With --token: the tokenizer.json that makes text of them."),
]


def onnx_loop(
    states: Mapping[str, str],
    *,
    token: str | None,
    logits: str,
    position: str | None,
    start: str | None,
    stop: str | None,
    limit: int,
    tokenizer: Path | None,
) -> OnnxLoop | None:
    """What the options say; None where they say nothing.

    Raises:
        typer.BadParameter: an option needs --token, or holds no token ids.
    """
    if token is None:
        for name, value in (
            ("--position", position),
            ("--start", start),
            ("--stop", stop),
            ("--tokenizer", tokenizer),
        ):
            if value is not None:
                raise typer.BadParameter(f"{name}: needs --token, the input for tokens")
        return OnnxLoop(states) if states else None
    return OnnxLoop(
        states,
        token=token,
        logits=logits,
        position=position,
        start=_ids("--start", start),
        stop=_ids("--stop", stop),
        limit=limit,
        tokenizer=tokenizer,
    )


def _ids(option: str, text: str | None) -> tuple[int, ...]:
    words: Sequence[str] = [] if text is None else text.split(",")
    for word in words:
        if not word.strip().isdigit():
            raise typer.BadParameter(f"{option}: expected token ids such as 1,2, got {text!r}")
    return tuple(int(word) for word in words)
