"""What torch suggests where the sizes of a network are narrower than stated, in mmedge's words."""

from __future__ import annotations

import re

__all__ = ["suggested_fixes"]

_BLOCK = re.compile(r"Suggested fixes:\n(?P<lines>(?:[ \t]+\S[^\n]*\n?)+)")
_DIM = re.compile(r"(\w+) = Dim\('\w+'(?:, min=(\d+))?(?:, max=(\d+))?\)")
_MULTIPLE = re.compile(r"(\w+) = (\d+)\*(_\w+)")
_SAME = re.compile(r"(\w+) = ([A-Za-z_]\w*)")


def suggested_fixes(error: str) -> tuple[str, str]:
    """How to follow torch's suggestions, and these as they are; empty where there are none.

    Of a dimension that torch would fix to one number there is only the second.
    """
    block = _BLOCK.search(error)
    if block is None:
        return "", ""
    lines = [line.strip() for line in block["lines"].splitlines() if line.strip()]
    limits = {match[1]: (match[2], match[3]) for line in lines if (match := _DIM.fullmatch(line))}
    fixes: list[str] = []
    for line in lines:
        if (match := _DIM.fullmatch(line)) and not match[1].startswith("_"):
            fixes.append(f'dims={{"{match[1]}": ({match[2] or 1}, {match[3] or None})}}')
        elif match := _MULTIPLE.fullmatch(line):
            factor, (least, most) = int(match[2]), limits.get(match[3], (None, None))
            ends = f"{factor * int(least or 1)}, {factor * int(most) if most else None}"
            fixes.append(f'dims={{"{match[1]}": ({ends}, {factor})}}')
        elif match := _SAME.fullmatch(line):
            fixes.append(f"give both axes the name {match[2]!r} in Input.dynamic")
    if fixes:
        fixes[-1] += ": the network does not work for every size of the range"
    return ", ".join(fixes), "; ".join(lines)
