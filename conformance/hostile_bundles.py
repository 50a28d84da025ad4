"""Bundles that a reader must refuse, made by the attacks of ``tests/bundles_bad``."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bundles_bad import (
    cache_attacks,
    file_attacks,
    graph_attacks,
    loop_attacks,
    manifest_attacks,
    zip_attacks,
)
from bundles_bad.attack import Attack
from case_bundles import write_tiny
from case_files import write

from mmedge.bundle import Bundle
from mmedge.errors import BundleError

__all__ = ["ATTACKS", "write_hostile"]

ATTACKS = (
    *manifest_attacks.ATTACKS,
    *loop_attacks.ATTACKS,
    *cache_attacks.ATTACKS,
    *file_attacks.ATTACKS,
    *graph_attacks.ATTACKS,
    *zip_attacks.ATTACKS,
)


def write_hostile(folder: Path, attacks: Sequence[Attack] = ATTACKS) -> list[dict[str, Any]]:
    """Make hostile bundles in ``folder``, each in a folder of its own, and ``hostile.json``.

    Raises:
        AssertionError: this runtime takes one.
    """
    folder.mkdir(parents=True)
    rows = []
    with tempfile.TemporaryDirectory() as base:
        good = Path(base) / "tiny"
        write_tiny(good)
        for number, attack in enumerate(attacks):
            place = folder / f"{number:03}"
            place.mkdir()
            path = attack.make(good, place)
            rows.append({
                "name": attack.name,
                "path": str(path.relative_to(folder)),
                "late": attack.late,
                "message": _refusal(path, late=attack.late).replace(str(folder), ""),
            })  # fmt: skip
    write(folder / "hostile.json", {"cases": rows})
    return rows


def _refusal(path: Path, *, late: bool) -> str:
    """What this runtime says of a hostile bundle."""
    try:
        with Bundle.open(path) as bundle:
            assert late, path
            bundle.verify()
    except BundleError as error:
        return str(error)
    raise AssertionError(f"{path} was taken")
