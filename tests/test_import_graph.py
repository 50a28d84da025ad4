"""What no linter checks of the layout: circles of imports, and modules that grow without end."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"mmedge": ROOT / "mmedge", "mmedge_export": ROOT / "export" / "mmedge_export"}

#: Lines of a module: most with a reason in its docstring, and most without.
LONGEST, LONG = 600, 350

#: How a docstring begins to say why its module is long.
REASON = re.compile(r"is long(er than most)?,? (since|because|by)|onger than most|one module")


def modules() -> dict[str, Path]:
    names = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            names[".".join(parts).removesuffix(".__init__")] = path
            assert parts[0] == package
    return names


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of ours that one imports: at its top, in a function, or for annotations alone."""
    wanted = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            wanted.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                wanted.add(full if full in known else str(node.module))
    return wanted & set(known)


def test_no_circle_of_imports():
    known = modules()
    assert len(known) > 200
    graph = {name: imports(path, known) - {name} for name, path in known.items()}
    assert "mmedge.spec" in graph["mmedge.pipeline"]
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_a_circle_would_be_found(tmp_path):
    known = {name: tmp_path / f"{name}.py" for name in ("one", "two")}
    known["one"].write_text("def late():\n    from two import b\n")
    known["two"].write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import one\n")
    graph = {name: imports(path, known) for name, path in known.items()}
    assert graph == {"one": {"two"}, "two": {"one"}}
    with pytest.raises(ValueError, match="cycle"):
        TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_is_short_or_says_why_not(name):
    text = modules()[name].read_text("utf-8")
    lines = text.count("\n")
    assert lines <= LONGEST
    if lines > LONG:
        doc = " ".join((ast.get_docstring(ast.parse(text)) or "").split())
        assert REASON.search(doc), f"{lines} lines, and its docstring gives no reason"
