"""What a loop that generates gives, on stdout while it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge.cli.console import stdout, table, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["describe_rows", "print_steps", "show_rows"]


def print_steps(steps: Iterable[Any], *, has_text: bool) -> None:
    """Print text, or tokens, of one row as they come; several rows are shown when they have ended.

    Args:
        steps: of one call, :class:`mmedge.execution.generate.GenerateStep`.
        has_text: whether the bundle makes text of tokens.
    """
    stream = stdout().file
    printed = False
    for step in steps:
        if len(step.tokens) > 1:
            continue
        piece = step.text[0]
        if not has_text:
            piece = f"{' ' if printed else ''}{step.tokens[0]}" if step.active[0] else ""
        if piece:
            stream.write(visible(piece))
            stream.flush()
            printed = True
    if printed:
        stream.write("\n")


def show_rows(variant: str, result: Mapping[str, Any]) -> None:
    """A table of what came: of each row how many tokens, why it ended, and the tokens or text.

    What was printed while it came is not printed again.
    """
    rows = describe_rows(result)
    columns: tuple[str, ...] = ("row", "tokens", "finish")
    if len(rows) > 1:
        columns = (*columns, "text" if "text" in rows[0] else "ids")
    table(
        variant,
        columns,
        [
            (
                index,
                len(row["tokens"]),
                row["finish"],
                row.get("text", " ".join(map(str, row["tokens"]))),
            )[: len(columns)]
            for index, row in enumerate(rows)
        ],
    )


def describe_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each row as plain data: its tokens, why it ended, and its text where there is one."""
    rows = [
        {"tokens": tokens[:length].tolist(), "finish": finish}
        for tokens, length, finish in zip(
            result["tokens"], result["lengths"], result["finish"], strict=True
        )
    ]
    for row, text in zip(rows, result.get("text", ()), strict=False):
        row["text"] = text
    return rows
