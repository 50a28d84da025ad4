"""The README's example runs as it stands, and the generated parts of the docs are not stale."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def example(name: str) -> str:
    """The code block after ``<!-- example: name -->`` in the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- example: {re.escape(name)} -->\n```\w*\n(.*?)```", text, re.DOTALL)
    assert found, f"the README has no example {name!r}"
    return found[1]


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def test_the_60_second_example(tmp_path):
    for name in ("fusion.py", "app.py"):
        (tmp_path / name).write_text(example(name), encoding="utf-8")
    for line in example("commands").splitlines():
        words = line.split()
        assert words[0] == "mmedge"
        run([sys.executable, "-m", *words], tmp_path)
    assert (tmp_path / "report.json").is_file()
    out = run([sys.executable, "app.py"], tmp_path)
    # The weights are random, and NumPy pads what it prints to the widest.
    assert re.fullmatch(r"\[\[.*\]\]\n", out), out
    assert len([float(vote) for vote in out.strip("[]\n").split()]) == 3


def test_generated_docs_are_fresh():
    run([sys.executable, "docs/generate.py", "--check"], ROOT)


def test_every_source_file_stands_in_the_code_map():
    page = (ROOT / "docs" / "code-map.md").read_text(encoding="utf-8")
    code_map = page.split("<!-- code map: begin -->")[1]
    kinds = (".py", ".h", ".cuh", ".cpp", ".cu")
    for folder in ("mmedge", "export/mmedge_export", "zoo", "cpp_ext"):
        section = code_map.split(f"`{folder}/`\n")[1]
        for path in (path for path in (ROOT / folder).rglob("*") if path.suffix in kinds):
            assert f"- `{path.relative_to(ROOT / folder)}` " in section


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_documents_link_to_files_that_exist():
    for page in (ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
