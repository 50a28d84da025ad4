"""Every file, command and output of the tutorials holds, in order, in a folder of its own."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from kinds import kinds

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = ("tutorial", "tutorial-generate")


class Block(NamedTuple):
    language: str
    caption: str
    text: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, as plain ones or as directives ``code-block``."""
    pattern = r"^```(?:\{code-block\} )?(\w*)\n(?::caption: (\S+)\n\n)?(.*?)^```$"
    return [
        Block(*found.groups("")) for found in re.finditer(pattern, page, re.DOTALL | re.MULTILINE)
    ]


def matches(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed; ``...`` stands for anything, frames do not count."""

    def plain(text: str) -> str:
        return " ".join(re.sub(r"[│┃┏┓┗┛━─├└┡┩╇┳┻┼┴┬┌┐┘╰╯╭╮]", " ", text).split())

    wanted = ".*".join(re.escape(part.strip()) for part in plain(shown).split("..."))
    return re.search(wanted, plain(printed), re.DOTALL) is not None


def run(line: str, folder: Path) -> str:
    """What a command prints, as a terminal shows it."""
    program, *words = shlex.split(line)
    module = {"python": (), "mmedge": ("-m", "mmedge")}[program]
    done = subprocess.run(
        [sys.executable, "-u", *module, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{line}: {done.stdout}"
    return done.stdout


@pytest.mark.parametrize("page", kinds(PAGES, first=PAGES[:1]))
def test_a_tutorial(page, tmp_path):
    printed, commands = "", 0
    for block in blocks((DOCS / f"{page}.md").read_text(encoding="utf-8")):
        if block.language == "python":
            assert block.caption, f"a file without a name: {block.text[:80]}"
            (tmp_path / block.caption).write_text(block.text, encoding="utf-8")
        elif block.language == "sh":
            printed = "".join(run(line, tmp_path) for line in block.text.splitlines())
            commands += 1
        else:
            assert block.language == "text", block
            assert matches(block.text, printed), f"shown:\n{block.text}\nprinted:\n{printed}"
    assert commands >= 5


def test_what_a_page_shows_is_compared():
    assert matches("a ... c", "a b\nc")
    assert matches("turn ... ok", "│ turn │ 0.1 │ ok │")
    assert not matches("a ... d", "a b c")


@pytest.mark.parametrize("page", PAGES)
def test_every_fenced_block_of_the_page_is_read(page):
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert len(blocks(text)) * 2 == len(re.findall(r"^```", text, re.MULTILINE))
