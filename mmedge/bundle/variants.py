"""What becomes of a bundle's manifest and files where a variant comes or goes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mmedge.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from mmedge.spec import Manifest, Variant

    #: Files by their names, and those of the weights that graphs among them use.
    WithWeights = Callable[[Collection[str]], set[str]]

__all__ = ["add_variant", "remove_variant", "set_metrics"]


def add_variant(
    old: Manifest, variant: Variant, files: Collection[str], with_weights: WithWeights
) -> tuple[Manifest, set[str]]:
    """The manifest with ``variant``, and files that nothing in it uses (see ``with_variant``)."""
    variants = {entry.id: entry for entry in old.variants}
    dropped = [variants[variant.id]] if variant.id in variants else []
    in_place = variants.get(replace(variant, cache="in_place").id)
    if in_place is not None and variant.cache == "growing":
        weights = with_weights(in_place.files.values())
        if weights & (set(files) & old.files.keys()):
            # It would read what another graph has there.
            dropped.append(variants.pop(in_place.id))
    manifest = replace(old, variants=tuple({**variants, variant.id: variant}.values()))
    return manifest, set().union(*(_unused(entry, manifest, with_weights) for entry in dropped))


def remove_variant(
    old: Manifest, name: str, with_weights: WithWeights, *, source: Path
) -> tuple[Manifest, set[str]]:
    """The manifest without the variant of that id, and files that nothing in it uses.

    Raises:
        BundleError: there is no such variant, or no other one.
    """
    variants = old.variants
    remaining_variants = tuple(variant for variant in variants if variant.id != name)
    ids = ", ".join(variant.id for variant in variants)
    if len(remaining_variants) == len(variants):
        raise BundleError(f"{source}: no variant {name!r} in this bundle; it has {ids}")
    if not remaining_variants:
        raise BundleError(f"{source}: {name} is its only variant, and a bundle needs one to run")
    removed_variant = next(variant for variant in variants if variant.id == name)
    manifest = replace(old, variants=remaining_variants)
    return manifest, _unused(removed_variant, manifest, with_weights)


def set_metrics(
    old: Manifest, metrics: Mapping[str, Mapping[str, float | None]], *, source: Path
) -> Manifest:
    """The manifest with metrics of its variants set, by their ids, or removed where None.

    Raises:
        BundleError: there is no such variant.
    """
    if unknown_ids := metrics.keys() - {variant.id for variant in old.variants}:
        raise BundleError(f"{source}: no variant {min(unknown_ids)!r} in this bundle")
    variants = []
    for entry in old.variants:
        all_metrics = {**entry.metrics, **metrics.get(entry.id, {})}
        new_metrics = {name: value for name, value in all_metrics.items() if value is not None}
        variants.append(replace(entry, metrics=new_metrics))
    return replace(old, variants=tuple(variants))


def _unused(removed_variant: Variant, manifest: Manifest, with_weights: WithWeights) -> set[str]:
    """Files of a variant that ``manifest`` has no use for."""
    return with_weights(removed_variant.files.values()) - with_weights(
        [stage.graph for stage in manifest.stages]
        + [file for variant in manifest.variants for file in variant.files.values()]
        + list(manifest.labels.values())
        + [m.tokenizer.file for m in manifest.modalities if m.tokenizer]
    )
