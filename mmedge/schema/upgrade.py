"""A manifest of an older version of the schema as one of this version, before it is read."""

from __future__ import annotations

from typing import Any

from mmedge.schema.read import Misfit, show
from mmedge.spec import SCHEMA_VERSION

__all__ = ["OLDEST", "upgraded"]

#: The oldest version that is still read.
OLDEST = 3

# Lists of the manifest that version 3 had not.
_ADDED = ("constraints", "not_checked", "plans", "states", "loops")


def upgraded(tree: dict[str, Any]) -> dict[str, Any]:
    """``tree`` with what version 3 did not say; as it is where it is of this version.

    What is not of the form that version 3 has is left for the reader to refuse.

    Raises:
        Misfit: a stage is a loop, which version 3 could name and nothing could run; or a field is
            there that only later versions have.
    """
    if tree.get("schema_version") != OLDEST:
        return tree
    for field in _ADDED:
        if field in tree:
            raise Misfit("$", f"no field {field!r} in version {OLDEST}", show(tree[field]))
    tree = tree | {field: [] for field in _ADDED} | {"schema_version": SCHEMA_VERSION}
    stages = _items(tree, "stages")
    for index, stage in enumerate(stages):
        loop = stage.pop("loop", None)
        if loop is not None:
            raise Misfit(
                f"$.stages[{index}].loop",
                "null: this version of mmedge runs each stage once",
                show(loop),
            )
    for variant in _items(tree, "variants"):
        variant.setdefault("not_checked", [])
        variant.setdefault("plan", None)
    dimensions = tree.get("dimensions")
    if isinstance(dimensions, dict):
        for dimension in dimensions.values():
            if isinstance(dimension, dict):
                dimension.setdefault("multiple", 1)
    return tree


def _items(tree: dict[str, Any], field: str) -> list[dict[str, Any]]:
    """The objects in a list of the tree."""
    items = tree.get(field)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
