"""A manifest of an older version of the schema as one of this version, before it is read."""

from __future__ import annotations

from typing import Any

from mmedge.schema.read import Misfit, show
from mmedge.spec import SCHEMA_VERSION

__all__ = ["OLDEST", "upgraded"]

#: The oldest version that is still read.
OLDEST = 3

# Lists of the manifest that version 3 had not, and fields of items of lists by the version that
# first had them; each means what older versions did.
_ADDED = ("constraints", "not_checked", "plans", "states", "loops")
_ADDED_TO_ITEMS: dict[int, tuple[str, str, object]] = {
    5: ("variants", "cache", "growing"),
    6: ("loops", "whole_prompt", False),
}


def upgraded(tree: dict[str, Any]) -> dict[str, Any]:
    """``tree`` with what older versions did not say; as it is where it is of this version.

    What is not of the form that its version has is left for the reader to refuse.

    Raises:
        Misfit: a stage is a loop, which version 3 could name and nothing could run; or a field is
            there that only later versions have.
    """
    version = tree.get("schema_version")
    if type(version) is not int or not OLDEST <= version < SCHEMA_VERSION:
        return tree
    if version == OLDEST:
        tree = _from_oldest(tree)
    for first, (items, field, value) in _ADDED_TO_ITEMS.items():
        if version >= first:
            continue
        for index, item in enumerate(_items(tree, items)):
            if field in item:
                at = f"$.{items}[{index}]"
                raise Misfit(at, f"no field {field!r} in version {version}", show(item[field]))
            if items != "loops" or item.get("kind") == "generate":
                item[field] = value
    return tree | {"schema_version": SCHEMA_VERSION}


def _from_oldest(tree: dict[str, Any]) -> dict[str, Any]:
    """A tree of version 3 with what version 4 says beside it."""
    for field in _ADDED:
        if field in tree:
            raise Misfit("$", f"no field {field!r} in version {OLDEST}", show(tree[field]))
    tree = tree | {field: [] for field in _ADDED}
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
