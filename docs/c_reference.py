"""Makes the reference of the C API from the headers: declarations, and the comments beside them.

It reads the C of ``cpp_ext/include/mmedge/*.h`` alone, by the form that all of it has: a comment
stands before what it describes, or behind it on its line and the lines that continue it.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADERS = Path(__file__).resolve().parent.parent / "cpp_ext" / "include" / "mmedge"
#: In the order of the page; others follow by name.
ORDER = ("base.h", "mmedge.h", "text.h", "stream.h", "kernels.h")

#: What a comment of a real-time function begins with.
REAL_TIME = "Real-time. "
#: What the first comment of a header says where all of its functions are, but for those that make
#: and free.
ALL_REAL_TIME = "the rest of this header is real-time"
MAKES = re.compile(r"_(open|create|close|load)$")

_TOKEN = re.compile(
    r"(?P<comment>/\*.*?\*/)"
    r"|(?P<macro>\#define[ ](?:\\\n|[^\n])*)"
    r"|(?P<skip>\#(?:\\\n|[^\n])*|extern\ "
    r'"C"\ \{|^\}$|\s+)'
    r"|(?P<declaration>[^;{]+(?:\{.*?\}[^;{]*)?;)",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)
_SECTION = re.compile(r"/\* -{4} (.+?) -{4,}\s*(.*)\*/", re.DOTALL)


@dataclass
class Item:
    """What is declared together under one comment.

    Attributes:
        kind: ``function``, ``struct``, ``enum``, ``handle``, ``type`` or ``macro``.
        names: of it, or of several functions.
        code: the declarations as they stand, without comments.
        words: the comment.
        members: name, type or value, and comment of each field or value.
    """

    kind: str
    names: list[str]
    code: list[str]
    words: str
    members: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass
class Section:
    """Items under one heading; ``words`` of the heading's own."""

    title: str
    words: str
    items: list[Item] = field(default_factory=list)


@dataclass
class Header:
    """One file; the first section holds what stands before any heading."""

    name: str
    words: str
    sections: list[Section]

    def functions(self) -> Iterator[tuple[str, bool]]:
        """Each function, and whether it is real-time."""
        everywhere = ALL_REAL_TIME in " ".join(self.words.split())
        for section in self.sections:
            for item in section.items:
                for name in item.names if item.kind == "function" else ():
                    marked = item.words.startswith(REAL_TIME)
                    yield name, marked or (everywhere and MAKES.search(name) is None)


def read_header(path: Path) -> Header:
    """A header's items.

    Raises:
        SystemExit: something in it has another form.
    """
    text = path.read_text(encoding="utf-8")
    header = Header(path.name, "", [Section("", "")])
    words, used, at = "", True, 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            line = text.count("\n", 0, at) + 1
            raise SystemExit(f"{path}:{line}: neither a comment nor a declaration of known form")
        at = token.end()
        if token["comment"] is not None:
            if (title := _SECTION.match(token["comment"])) is not None:
                header.sections.append(Section(title[1], prose(title[2])))
                words = ""
            elif header.words == "":
                header.words = prose(token["comment"])
            else:
                words, used = prose(token["comment"]), False
        elif token["skip"] is not None:
            # An empty line ends what a comment is about; declarations without one share it.
            if token["skip"].isspace() and token["skip"].count("\n") > 1:
                if not used:  # it is about the section
                    section = header.sections[-1]
                    section.words = f"{section.words}\n\n{words}".strip()
                words, used = "", True
        else:
            add(header.sections[-1], token[0], words)
            used = True
    return header


def add(section: Section, code: str, words: str) -> None:
    """Add a declaration to a section, or to the item whose comment it shares."""
    item = describe(code, words)
    if item is None:
        return
    last = section.items[-1] if section.items else None
    shares = last and item.kind == last.kind and item.kind in ("function", "macro")
    if last and shares and item.words == last.words:
        last.names += item.names
        last.code += item.code
    elif last and item.kind == "macro" and last.kind == "struct" and item.words == "":
        last.code += item.code  # what a structure of it begins as
    elif last and item.kind == "struct" and last.kind == "handle" and item.names == last.names:
        section.items[-1] = item
    else:
        section.items.append(item)


def describe(code: str, words: str) -> Item | None:
    """What a declaration declares; None for what is of the header's own."""
    bare = " ".join(re.sub(r"/\*.*?\*/", "", code, flags=re.DOTALL).split())
    if (found := re.match(r"#define (\w+) ?(.*)", bare)) is not None:
        name, value = found.groups()
        if name.endswith("_H_") or name == "MMEDGE_API":
            return None
        value = value.replace("\\ ", "")
        return Item("macro", [name], [f"#define {name} {value}"], words)
    if (found := re.match(r"typedef (struct|enum) (?:\w+ )?\{.*\} (\w+);", bare)) is not None:
        body = code[code.index("{") + 1 : code.rindex("}")]
        members = [
            (value_of if found[1] == "enum" else field_of)(declaration, comment)
            for declaration, comment in with_comments(body, "," if found[1] == "enum" else ";")
        ]
        return Item(found[1], [found[2]], [], words, members)
    if (found := re.match(r"typedef struct (\w+) \1;", bare)) is not None:
        return Item("handle", [found[1]], [bare], words)
    if re.fullmatch(r"(struct|enum) \w+;", bare) is not None:  # of another header
        return None
    bare = bare.removeprefix("MMEDGE_API ")
    name = re.search(r"\b(mmedge_\w+)\)?\(", bare)
    if name is None:
        raise SystemExit(f"{bare}: a declaration of unknown form, for docs/c_reference.py")
    kind = "type" if bare.startswith("typedef") else "function"
    return Item(kind, [name[1]], [bare], words)


def field_of(declaration: str, words: str) -> tuple[str, str, str]:
    """Name, type and comment of a field of a struct; of several on one line, all names."""
    if (found := re.fullmatch(r"(.+?) ?\(\*(\w+)\)(\(.*\))", declaration)) is not None:
        return found[2], f"{found[1]} (*){found[3]}", words
    names, _, count = declaration.partition("[")
    first, *others = names.split(", ")
    found = re.fullmatch(r"(.+?[ *])(\w+)", first)
    if found is None:
        raise SystemExit(f"{declaration}: a field of unknown form, for docs/c_reference.py")
    return ", ".join((found[2], *others)), found[1].strip() + (count and f"[{count}"), words


def value_of(declaration: str, words: str) -> tuple[str, str, str]:
    """Name, value and comment of a constant of an enum."""
    name, _, value = declaration.partition(" = ")
    return name, value, words


def with_comments(body: str, end: str) -> Iterator[tuple[str, str]]:
    """Members of a body, each with the comment behind it on its line, or else before it."""
    before, member, behind = "", "", ""
    for token in re.finditer(rf"/\*.*?\*/|\n|{end}|[^\n/{end}]+", f"{body}{end}", re.DOTALL):
        text = token[0]
        if text.startswith("/*"):
            words = " ".join(prose(text).split())
            if behind:
                yield behind, words
                behind = ""
            else:
                before = words
        elif text == "\n":
            if behind:
                yield behind, before
                before = behind = ""
            member += " "
        elif text == end:
            behind, member = " ".join(member.split()), ""
        else:
            if behind and text.strip():
                yield behind, before
                before = behind = ""
            member += text
    if behind:
        yield behind, before


def prose(comment: str) -> str:
    """The words of a comment: lines without its marks; indentation is kept."""
    body = comment.strip().removeprefix("/*").removesuffix("*/")
    lines = [re.sub(r"^\s*\* ?", "", line) for line in body.splitlines()]
    if lines:
        lines[0] = lines[0].strip()
    return "\n".join(line.rstrip() for line in lines).strip()


def markdown(words: str) -> str:
    """Prose of a comment for the page; indented lines are code, or items that begin with a dash."""
    parts: list[str] = []
    for block in re.split(r"\n\s*\n", words):
        lines = block.splitlines()
        if all(re.match(r"\d+( to \d+)?\s", line) for line in lines):  # a list of numbers
            parts.append("\n".join(f"- {inline(' '.join(line.split()))}" for line in lines))
            continue
        while lines:
            is_code = lines[0].startswith("  ")
            count = next(
                (i for i, line in enumerate(lines) if line.startswith("  ") != is_code), len(lines)
            )
            part, lines = lines[:count], lines[count:]
            if is_code and part[0].startswith("  - "):  # items, each of one line or more
                points = re.split(r"\n\s*- ", "\n" + "\n".join(part))[1:]
                parts.append("\n".join(f"- {inline(' '.join(each.split()))}" for each in points))
            elif is_code:
                parts.append("\n".join(("```c", *(line[2:] for line in part), "```")))
            else:
                parts.append(inline(" ".join(part)))
    return "\n\n".join(parts)


def inline(words: str) -> str:
    """One paragraph or cell: names of the API are code, and nothing else is markup."""
    pieces = re.split(r"(`[^`]*`)", words)
    for i, piece in enumerate(pieces[::2]):
        escaped = re.sub(r"([\\*_\[\]<>|$])", r"\\\1", piece)
        escaped = re.sub(r"\\\*([\w-]+)\\\*", r"*\1*", escaped)
        escaped = re.sub(r"docs/reference/(\w+)\.md", r"[\1.md](\1.md)", escaped)
        pieces[2 * i] = re.sub(
            r"([A-Za-z]\w*?(?:\\_\w+)+(?:\(\))?)",
            lambda found: f"`{found[1]}`".replace("\\_", "_"),
            escaped,
        )
    return "".join(pieces).replace("``", "")


def show(item: Item) -> str:
    """One item of the page."""
    lines = [f"**{' '.join(f'`{name}`' for name in item.names)}**"]
    if item.kind == "handle":
        lines[0] += " (opaque handle)"
    elif item.members == []:
        lines.append(code_block(item))
    if item.words:
        lines.append(markdown(item.words))
    if item.members:
        second = "value" if item.kind == "enum" else "type"
        first = "constant" if item.kind == "enum" else "field"
        rows = [f"| `{name}` | `{kind}` | {inline(words)} |" for name, kind, words in item.members]
        lines.append("\n".join((f"| {first} | {second} | |", "|---|---|---|", *rows)))
        lines += [code_block(item)] if item.code else []
    return "\n\n".join(lines)


def code_block(item: Item) -> str:
    """The declarations of an item, in lines of the width of the headers."""
    lines = [textwrap.fill(code, 92, subsequent_indent="    ") for code in item.code]
    return "\n".join(("```c", *lines, "```"))


def headers() -> list[Header]:
    """All of them, in the order of the page."""
    paths = sorted(
        HEADERS.glob("*.h"),
        key=lambda path: (ORDER.index(path.name) if path.name in ORDER else len(ORDER), path.name),
    )
    return [read_header(path) for path in paths]


def real_time_calls() -> str:
    """The block of the page that lists them, by header."""
    rows = ["| header | real-time calls |", "|---|---|"]
    for header in headers():
        names = ", ".join(f"`{name}`" for name, real_time in header.functions() if real_time)
        if names:
            rows.append(f"| `mmedge/{header.name}` | {names} |")
    return "\n".join(rows)


def c_reference() -> str:
    """The block of the page with everything that the headers declare."""
    lines = []
    for header in headers():
        lines += [f"## mmedge/{header.name}", markdown(header.words)]
        for section in header.sections:
            lines += [f"### {section.title}"] if section.title else []
            lines += [markdown(section.words)] if section.words else []
            lines += [show(item) for item in section.items]
    return "\n\n".join(lines)
