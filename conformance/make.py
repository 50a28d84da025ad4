"""Writes the cases that every runtime is held to; see README.md.

``python conformance/make.py`` writes ``conformance/cases`` anew. ``--check`` writes nothing, and
fails where a file would change. ``--hostile FOLDER`` makes the bundles that must be refused, and
``--schedules N --output FILE`` random schedules of streams with their results.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
for folder in ("tests", "conformance"):
    if str(ROOT / folder) not in sys.path:
        sys.path.insert(0, str(ROOT / folder))

import numpy as np
from case_bundles import write_bundles
from case_calls import write_calls
from case_choices import write_choices
from case_files import CASES, read, read_tensors, versions, write, write_lines
from case_loops import write_loops
from case_rules import write_rules
from case_signatures import write_signatures
from case_streams import random_schedules, write_schedules
from case_texts import write_texts
from hostile_bundles import write_hostile

from mmedge.bundle import Bundle

__all__ = ["changed_files", "write_cases"]


def write_cases(folder: Path) -> None:
    """Write all cases to an empty or new folder."""
    bundles = folder / "bundles"
    write_bundles(bundles)
    write_calls(folder / "calls", bundles)
    write_loops(folder / "loops", bundles)
    write_texts(folder / "texts", bundles)
    write_choices(folder / "choices", bundles)
    write_rules(folder / "rules", bundles)
    write_signatures(folder / "signatures", bundles)
    write_schedules(folder / "streams", bundles)
    write(folder / "versions.json", versions())


def changed_files(old: Path, new: Path) -> list[str]:
    """Files that are in one folder alone, or differ.

    Bytes are compared where both were made with the same libraries on the same kind of processor.
    Else content is: bundles without digests of their files, numbers within a tolerance.
    """
    names = {str(path.relative_to(old)) for path in old.rglob("*") if path.is_file()}
    new_names = {str(path.relative_to(new)) for path in new.rglob("*") if path.is_file()}
    changed = sorted(names ^ new_names)
    is_alike = read(old / "versions.json") == read(new / "versions.json")
    for name in sorted(names & new_names):
        if is_alike:
            same = (old / name).read_bytes() == (new / name).read_bytes()
        else:
            same = _has_same_content(old / name, new / name)
        if not same:
            changed.append(name)
    return changed


def _has_same_content(old: Path, new: Path) -> bool:
    if old.name == "versions.json" or "bundles" in old.parts[:-1]:
        return old.suffix != ".mmedge" or _manifest(old) == _manifest(new)
    if "signatures" in old.parts:
        return True  # digests of a bundle's bytes; decided again by run_python
    if old.suffix == ".safetensors":
        one, other = read_tensors(old), read_tensors(new)
        return one.keys() == other.keys() and all(
            np.allclose(one[name], other[name], rtol=1e-3, atol=1e-4, equal_nan=True)
            for name in one
        )
    if old.suffix == ".jsonl":
        return True  # played again by run_python
    return bool(read(old) == read(new))


def _manifest(path: Path) -> dict:
    with Bundle.open(path) as bundle:
        tree = json.loads(bytes(bundle.read("manifest.json")))
    tree["files"] = sorted(tree["files"])
    return tree


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail where a file would change")
    parser.add_argument("--hostile", type=Path, help="make hostile bundles in this new folder")
    parser.add_argument("--schedules", type=int, help="how many random schedules")
    parser.add_argument("--seed", type=int, default=0, help="of the schedules")
    parser.add_argument("--output", type=Path, help="file for the schedules")
    options = parser.parse_args()
    if options.hostile is not None:
        rows = write_hostile(options.hostile.absolute())
        print(f"{len(rows)} hostile bundles in {options.hostile}")
    elif options.schedules is not None:
        if options.output is None:
            parser.error("--schedules needs --output")
        numbers = range(options.schedules)
        write_lines(options.output, random_schedules(CASES / "bundles", options.seed, numbers))
        print(f"{options.schedules} schedules in {options.output}")
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_cases(Path(folder))
            changed = changed_files(CASES, Path(folder)) if CASES.exists() else ["all"]
            if not options.check:
                shutil.rmtree(CASES, ignore_errors=True)
                shutil.copytree(folder, CASES)
        print("\n".join(changed) or "nothing changed")
        sys.exit(1 if changed and options.check else 0)


if __name__ == "__main__":
    main()
