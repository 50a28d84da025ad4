"""What the site says of mmedge holds: messages are in the code, and no page is out of reach."""

from __future__ import annotations

import ast
import importlib
import importlib.resources
import re
import tomllib
from pathlib import Path

import pytest

import mmedge

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


#: What a new reader comes for -> the page and its heading. A page is one click, a heading another.
TASKS = {
    "get the command into PATH": ("start/install.md", "## `mmedge: command not found`"),
    "export a torch network": ("howto/torch.md", "## 1. Write the factory"),
    "give an ONNX file real inputs": ("howto/onnx.md", "## Give example inputs"),
    "quantize a bundle": ("howto/quantize.md", "## Say what is good enough"),
    "find why a bundle loads slowly": ("howto/troubleshoot.md", "## A bundle loads slowly"),
    "build for another device": ("howto/tune.md", "## More variants to choose from"),
    "pair two cameras": ("howto/stream.md", "## Choose which sample is used"),
    "convert a log of another program": ("howto/record.md", "## Convert another log"),
    "compare two builds": ("howto/report.md", "## Compare two builds"),
    "know what an exit code means": ("reference/cli.md", "## Exit codes"),
}


def test_ten_tasks_are_two_clicks_away():
    first = links(DOCS / "index.md")
    for task, (page, heading) in TASKS.items():
        assert DOCS / page in first, task
        assert f"\n{heading}\n" in (DOCS / page).read_text(encoding="utf-8"), task


def test_every_page_first_says_what_it_is_for():
    for page in PAGES:
        if page.name == "security.md":  # its words are SECURITY.md's
            continue
        title, _, start = page.read_text(encoding="utf-8").partition("\n\n")
        assert title.startswith("# "), page
        assert re.match(r"[A-Z*`]|```\{include\}", start), f"{page}: no sentence under the title"


def fences(text: str) -> list[tuple[str, str]]:
    """What is behind the opening of each fenced block, and what is in it."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands() -> dict:
    """The verbs of the command line, with those of integrations that are not installed."""
    import typer

    from mmedge.cli.app import build_app

    app = build_app()
    installed = {one.name for one in app.registered_commands}
    for file in (ROOT / "integrations").glob("*/pyproject.toml"):
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        for name, place in project.get("entry-points", {}).get("mmedge.commands", {}).items():
            module, function = place.split(":")
            if name not in installed:
                app.command(name)(getattr(importlib.import_module(module), function))
    return typer.main.get_command(app).commands


def test_commands_on_the_pages_have_these_verbs_and_options():
    verbs = commands()
    pages = [*PAGES, DOCS / "index.md", ROOT / "README.md", ROOT / "SECURITY.md"]
    pages.remove(DOCS / "changelog.md")  # tells what was
    checked = 0
    for page in pages:
        text = page.read_text(encoding="utf-8")
        shell = "".join(body for head, body in fences(text) if head in {"", "sh"})
        lines = re.findall(r"^mmedge .*$", shell, re.MULTILINE)
        lines += re.findall(r"`(mmedge [^`]*)`", text)
        for line in lines:
            verb, *words = line.split("#")[0].replace("\\|", "|").split("|")[0].split()[1:] or [""]
            if not re.fullmatch(r"[a-z]+", verb):
                continue  # an option of mmedge itself, VERB, ...
            assert verb in verbs, f"{page.name}: {line}"
            options = {
                name for one in verbs[verb].params for name in (*one.opts, *one.secondary_opts)
            }
            for word in words:
                if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word):
                    assert word.split("=")[0] in options, f"{page.name}: {line}: no option {word}"
            checked += 1
    assert checked >= 100


def test_python_on_the_pages_is_python_and_imports_what_there_is():
    checked = 0
    for page in (*PAGES, ROOT / "README.md"):
        text = page.read_text(encoding="utf-8")
        for head, body in fences(text):
            if not head.endswith("python"):
                continue
            block = re.sub(r"^:caption: .*", "", body)
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mmedge"):
                    module = importlib.import_module(str(node.module))
                    for name in node.names:
                        # What a package imports on first use may need more than there is here.
                        there = name.name in getattr(module, "__all__", ())
                        assert there or hasattr(module, name.name), (
                            f"{page.name}: {ast.unparse(node)}"
                        )
                        checked += 1
    assert checked >= 10


def test_files_that_pages_name_are_there():
    names = {
        path.relative_to(ROOT).as_posix()
        for folder in (
            "mmedge",
            "export",
            "cpp_ext",
            "conformance",
            "tests",
            "benchmarks",
            "docs",
            "examples",
            "integrations",
        )
        for path in (ROOT / folder).rglob("*")
    }
    checked = 0
    for page in (*PAGES, ROOT / "README.md"):
        if page.name in {"changelog.md", "code-map.md"}:  # what was; checked by itself
            continue
        for name in re.findall(r"`([\w.-]+(?:/[\w.-]+)+/?)`", page.read_text(encoding="utf-8")):
            first = name.split("/")[0]
            if name.endswith((".py", ".md", ".h")) or first in {"mmedge", "export", "tests"}:
                wanted = name.rstrip("/")
                assert any(f"/{one}".endswith(f"/{wanted}") for one in names), (
                    f"{page.name}: {name}"
                )
                checked += 1
    assert checked >= 40


def test_the_schema_is_where_the_page_says():
    page = (DOCS / "reference" / "report.md").read_text(encoding="utf-8")
    package, name = re.search(r'files\("([\w.]+)"\)\.joinpath\("([\w.]+)"\)', page).groups()
    assert importlib.resources.files(package).joinpath(name).is_file()


def test_every_public_name_is_on_the_page_of_the_api():
    page = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    errors = {name for name in mmedge.__all__ if name.endswith("Error")}
    for name in {*mmedge.__all__} - errors - {"__version__"}:
        assert f"mmedge.{name}\n" in page


def test_what_the_safety_page_names_is_there():
    page = (DOCS / "explanation" / "safety.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 30
    for file, test in named:
        assert f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"


HEADER = """/* What it is for.
 *
 *   a_call()
 */
#ifndef X_H_
#define X_H_

/* ---- Things ------------------------------------------------ */

/* About all of them. */

/* A thing. */
typedef struct mmedge_thing mmedge_thing;

/* Real-time. Makes *many* of `these`. */
MMEDGE_API int mmedge_make(mmedge_thing* thing,
                           void (*back)(int));
MMEDGE_API int mmedge_make_more(void);

typedef struct mmedge_options {
  /* before
   * it */
  int32_t first;
  int64_t a, b; /* behind [both]
                   of a_b */
  const char* (*ask)(void* context, int32_t); /* function */
  int32_t shape[4];
} mmedge_options;

#define MMEDGE_OPTIONS \\
  {1, 2}

typedef enum mmedge_kind { MMEDGE_A = 0, MMEDGE_B = -1 /* last */ } mmedge_kind;

#endif
"""


def test_a_header_is_read_with_all_it_declares(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    c_reference = importlib.import_module("c_reference")
    path = tmp_path / "thing.h"
    path.write_text(HEADER)
    header = c_reference.read_header(path)
    assert header.words == "What it is for.\n\n  a_call()"
    assert list(header.functions()) == [("mmedge_make", True), ("mmedge_make_more", True)]
    things = header.sections[1]
    assert (things.title, things.words) == ("Things", "About all of them.")
    handle, functions, options, kind = things.items
    assert (handle.kind, handle.words) == ("handle", "A thing.")
    assert functions.code == [
        "int mmedge_make(mmedge_thing* thing, void (*back)(int));",
        "int mmedge_make_more(void);",
    ]
    assert options.members == [
        ("first", "int32_t", "before it"),
        ("a, b", "int64_t", "behind [both] of a_b"),
        ("ask", "const char* (*)(void* context, int32_t)", "function"),
        ("shape", "int32_t[4]", ""),
    ]
    assert options.code == ["#define MMEDGE_OPTIONS {1, 2}"]
    assert kind.members == [("MMEDGE_A", "0", ""), ("MMEDGE_B", "-1", "last")]
    shown = c_reference.show(options)
    assert "| `a, b` | `int64_t` | behind \\[both\\] of `a_b` |" in shown
    assert "Makes *many* of `these`." in c_reference.show(functions)
    path.write_text("/* What. */\n}{\n")
    with pytest.raises(SystemExit, match=r"thing.h:2: "):
        c_reference.read_header(path)


def test_the_page_of_the_c_api_has_every_name_of_the_headers():
    page = (DOCS / "reference" / "c.md").read_text(encoding="utf-8")
    names = set()
    for path in (ROOT / "cpp_ext" / "include" / "mmedge").glob("*.h"):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        names |= set(re.findall(r"\b(?:mmedge|MMEDGE)_\w+", text)) - {"MMEDGE_API", "MMEDGE_BUILD"}
    names = {name for name in names if not name.endswith("_H_")}
    assert len(names) > 100
    assert [name for name in sorted(names) if name not in page] == []


def test_real_time_calls_are_told_from_those_that_make_and_free(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    c_reference = importlib.import_module("c_reference")
    told = dict(call for header in c_reference.headers() for call in header.functions())
    for name in ("pipeline_run", "loop_step", "stream_push", "stream_poll", "stream_take"):
        assert told[f"mmedge_{name}"], name
    for name in ("bundle_open", "pipeline_load", "pipeline_warm_up", "stream_open", "stream_close"):
        assert not told[f"mmedge_{name}"], name
