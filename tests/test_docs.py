"""What the site says of mmedge holds: messages are in the code, and no page is out of reach."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
#: What two clicks must reach from the first page.
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.name != "index.md")


def source() -> str:
    """All code of both packages, with strings that follow one another joined."""
    files = [*(ROOT / "mmedge").rglob("*.py"), *(ROOT / "export").rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return re.sub(r"\"\s*\n\s*f?\"", "", text)


def test_messages_of_the_troubleshooting_page_are_in_the_code():
    page = (DOCS / "howto" / "troubleshoot.md").read_text(encoding="utf-8")
    code, messages = source(), 0
    tables = re.findall(r"^\| message.*?\n\n", page, re.DOTALL | re.MULTILINE)
    for row in re.findall(r"^\| (`[^|]*) \|", "".join(tables), re.MULTILINE):
        for message in re.findall(r"`([^`]+)`", row):
            for part in message.split("..."):
                if part.strip(" .:,") and "command not found" not in part:
                    assert part.strip() in code, f"no message of mmedge has {part.strip()!r}"
                    messages += 1
    assert messages >= 30


def links(path: Path) -> set[Path]:
    """Pages that a page links to, also by a table of contents."""
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"\]\(([^)#]+\.md)", text)
    for block in re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL):
        named += [f"{line}.md" for line in block.splitlines() if re.fullmatch(r"[\w/-]+", line)]
    return {(path.parent / name).resolve() for name in named}


def test_every_page_is_two_clicks_from_the_first():
    first = links(DOCS / "index.md")
    second = {page for path in first for page in links(path)}
    assert not set(PAGES) - first - second


def test_every_page_first_says_what_it_is_for():
    for page in PAGES:
        if page.name == "security.md":  # its words are SECURITY.md's
            continue
        title, _, start = page.read_text(encoding="utf-8").partition("\n\n")
        assert title.startswith("# "), page
        assert re.match(r"[A-Z*`]|```\{include\}", start), f"{page}: no sentence under the title"
