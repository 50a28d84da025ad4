"""``mmedge remove``: take a variant out of a bundle."""

from __future__ import annotations

from typing import Annotated

import typer

from mmedge.bundle import Bundle
from mmedge.cli.console import BundleArgument, JsonOption, emit_json, table
from mmedge.cli.draw import size
from mmedge.cli.output import (
    BundleOutputOption,
    OverwriteOption,
    RemoveSignatureOption,
    rewriting,
)

__all__ = ["remove"]


def remove(
    bundle: BundleArgument,
    variant: Annotated[
        str, typer.Argument(help="Its id, such as ort-int8-cpu (mmedge inspect lists them).")
    ],
    *,
    output: BundleOutputOption = None,
    overwrite: OverwriteOption = False,
    remove_signature: RemoveSignatureOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take a variant out of a bundle, with the files that nothing else uses."""
    with rewriting(
        bundle, output, overwrite=overwrite, remove_signature=remove_signature
    ) as target:
        opened = Bundle.open(target.path)
        before = _sizes(opened)
        try:
            smaller = opened.without_variant(variant)
        except BaseException:
            opened.close()
            raise
        with smaller:
            after = _sizes(smaller)
            others = [other.id for other in smaller.manifest.variants]
    dropped = {name: size for name, size in before.items() if name not in after}
    if as_json:
        emit_json(
            {
                "bundle": target.shown_path,
                "removed": variant,
                "variants": others,
                "dropped_files_bytes": dropped,
                "bytes": sum(after.values()),
            }
        )
        return
    table(
        f"{target.shown_path}: {variant} removed",
        ("what", "value"),
        [
            ("variants left", ", ".join(others)),
            ("files dropped", ", ".join(dropped) or "none: others use them"),
            (
                "size",
                f"{size(sum(before.values()))} -> {size(sum(after.values()))}",
            ),
        ],
    )


def _sizes(bundle: Bundle) -> dict[str, int]:
    return {name: len(bundle.read(name)) for name in bundle.manifest.files}
