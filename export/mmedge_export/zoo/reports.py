"""Gathers the reports of ``mmedge-train`` into the results files that the docs are made from."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmedge_export.zoo import FOLDERS

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = {
    "vqa": "zoo_accuracy.json",
    "label_translate": "zoo_label_translate.json",
    "hear": "zoo_hear.json",
    "draw": "zoo_draw.json",
    "speak": "zoo_speak.json",
}
"""The results file of each task, by its folder."""


def collect(directory: Path, task: str) -> list[dict[str, Any]]:
    """The reports of a task's networks trained into a directory, in the order of the names."""
    paths = (directory / f"{name}.json" for name, folder in FOLDERS.items() if folder == task)
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the results file of each task that has a report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the --out directory of mmedge-train")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(argv)
    for task, file in RESULTS.items():
        if networks := collect(options.out, task):
            text = json.dumps({"networks": networks}, indent=2) + "\n"
            (options.results / file).write_text(text)


if __name__ == "__main__":
    main()
