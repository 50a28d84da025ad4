"""Gathers the reports of ``mmedge-train`` into the one results file that the docs are made from."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmedge_export.zoo.vqa import FUSION

if TYPE_CHECKING:
    from collections.abc import Sequence


def collect(directory: Path) -> list[dict[str, Any]]:
    """The report of each fusion trained into a directory, in the order of the fusions' names."""
    paths = (directory / f"vqa-{fusion}.json" for fusion in FUSION)
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the --out directory of mmedge-train")
    parser.add_argument(
        "--results", type=Path, default=Path("benchmarks/results/zoo_accuracy.json")
    )
    options = parser.parse_args(argv)
    results = {"networks": collect(options.out)}
    options.results.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
