"""``mmedge inspect``: what is in a bundle, and what this machine makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from mmedge.bundle import Bundle
from mmedge.cli.console import BundleArgument, JsonOption, emit_json, number, table
from mmedge.device import probe
from mmedge.spec import Variant

__all__ = ["inspect"]


def inspect(bundle: BundleArgument, *, as_json: JsonOption = False) -> None:
    """Show modalities, stages, sizes, and which variants can run here and why."""
    with Bundle.open(bundle) as opened:
        manifest = opened.manifest
        sizes = {name: len(opened.read(name)) for name in manifest.files}
        decisions = {decision.variant: decision for decision in opened.decisions(probe())}
    if as_json:
        emit_json(
            {
                "manifest": asdict(manifest),
                "sizes_bytes": sizes,
                "decisions": [asdict(decision) for decision in decisions.values()],
            }
        )
        return
    specs = manifest.inputs()
    table(
        f"{manifest.name}: modalities",
        ("modality", "inputs", "required", "rate Hz", "samples Hz", "max age ms", "when absent"),
        [
            (
                modality.name,
                "; ".join(str(specs[name]) for name in modality.inputs)
                + (" (takes text)" if modality.tokenizer else ""),
                "yes" if modality.required else "no",
                number(modality.rate_hz),
                modality.sample_rate_hz or "-",
                number(modality.max_age_ms),
                "-" if modality.required else modality.absent,
            )
            for modality in manifest.modalities
        ],
    )
    if manifest.dimensions:
        table(
            "dynamic dimensions",
            ("dimension", "smallest", "example", "largest"),
            [
                (name, limits.min, limits.opt, limits.max or "any")
                for name, limits in manifest.dimensions.items()
            ],
        )
    table(
        "stages",
        ("stage", "modality", "inputs", "outputs", "graph"),
        [
            (
                stage.name,
                stage.modality or "-",
                ", ".join(spec.name for spec in stage.inputs),
                "; ".join(map(str, stage.outputs)),
                stage.graph,
            )
            for stage in manifest.stages
        ],
    )
    table(
        "variants on this machine",
        ("variant", "size", "here", "why"),
        [
            (
                variant.id,
                f"{_size(variant, sizes) / 2**20:.2f} MiB",
                "runs" if decisions[variant.id].accepted else "no",
                decisions[variant.id].reason,
            )
            for variant in manifest.variants
        ],
    )
    table(
        "contents",
        ("file", "bytes"),
        list(sizes.items()),
    )
    table(
        "provenance",
        ("what", "value"),
        [("golden samples", manifest.samples), *manifest.provenance.items()],
    )


def _size(variant: Variant, sizes: Mapping[str, int]) -> int:
    """Bytes of a variant's files, with the weights that lie beside a graph."""
    return sum(
        size
        for name, size in sizes.items()
        if name in variant.files.values() or name.removesuffix(".data") in variant.files.values()
    )
