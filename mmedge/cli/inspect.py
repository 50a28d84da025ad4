"""``mmedge inspect``: what is in a bundle, and what this machine makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mmedge import native
from mmedge.backends.registry import probe
from mmedge.bundle import Bundle
from mmedge.cli.console import (
    BundleArgument,
    JsonOption,
    emit_json,
    list_not_checked,
    number,
    stdout,
    table,
    write_file,
)
from mmedge.cli.draw import draw_text, size
from mmedge.cli.flow import flow_of
from mmedge.cli.loops import loop_rows
from mmedge.cli.output import check_file
from mmedge.cli.svg import draw_svg
from mmedge.cli.trust import TrustOptions, signature_json, signature_rows
from mmedge.native.dispatch import choose
from mmedge.spec import Decision, Manifest, Stage

__all__ = ["inspect"]


SvgOption = Annotated[Path | None, typer.Option(help="Also draw the cut into this SVG file.")]

#: The tree's characters for a terminal that has ASCII alone.
_ASCII = str.maketrans({"├": "|", "└": "`", "│": "|", "─": "-"})


def inspect(
    bundle: BundleArgument,
    *,
    as_json: JsonOption = False,
    svg: SvgOption = None,
    trust: TrustOptions,
) -> None:
    """Show modalities, how the network is cut, sizes, and which variants can run here and why."""
    check_file(svg, "--svg")
    with Bundle.open(bundle, **trust.keywords()) as open_bundle:
        signature = open_bundle.signature
        manifest = open_bundle.on(probe())
        sizes = {name: len(open_bundle.read(name)) for name in manifest.files}
        weights = {name: open_bundle.weights(name) for name in manifest.files}
        variant_sizes = {variant.id: open_bundle.size(variant) for variant in manifest.variants}
        decisions = {decision.variant: decision for decision in open_bundle.decisions(probe())}
        attention = {
            stage.name: functions
            for stage in manifest.stages
            if (functions := open_bundle.functions(stage.graph))
        }
    flow = flow_of(manifest, sizes, weights)
    if as_json:
        emit_json(
            {
                "manifest": asdict(manifest),
                "flow": flow.as_json(),
                "sizes_bytes": sizes,
                "variant_sizes_bytes": variant_sizes,
                "decisions": [asdict(decision) for decision in decisions.values()],
                "attention": {"functions": attention, "on_cpu": _kernel()},
                "signature": signature_json(signature),
            }
        )
    else:
        _print(manifest, draw_text(flow), sizes, variant_sizes, decisions)
        if attention:
            _print_attention(attention)
        table("release", ("what", "value"), signature_rows(signature))
    # Last: what was found is shown even where the file cannot be written.
    if svg is not None:
        write_file(svg, draw_svg(flow).encode(), "--svg")


def _print(
    manifest: Manifest,
    drawing: str,
    sizes: Mapping[str, int],
    variant_sizes: Mapping[str, int],
    decisions: Mapping[str, Decision],
) -> None:
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
            ("dimension", "smallest", "example", "largest", "multiple of"),
            [
                (name, limits.min, limits.opt, limits.max or "any", limits.multiple)
                for name, limits in manifest.dimensions.items()
            ],
        )
    if manifest.constraints:
        table(
            "takes only sizes with",
            ("relation", "because of"),
            [(limit.expression, limit.source) for limit in manifest.constraints],
        )
    _print_text(drawing)
    if rows := loop_rows(manifest):
        table("loop and state", ("what", "how"), rows)
    table(
        "stages",
        ("stage", "plan", "modality", "inputs", "outputs", "graph"),
        [
            (
                stage.name,
                _plan_of(manifest, stage),
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
        ("variant", "size", "plans", "here", "why"),
        [
            (
                variant.id,
                size(variant_sizes[variant.id]),
                ", ".join(manifest.plan_names(variant)),
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
    list_not_checked(manifest.open_questions(*manifest.variants))


def _plan_of(manifest: Manifest, stage: Stage) -> str:
    if stage in manifest.loop_stages():
        return "loop"
    return "whole" if manifest.is_whole(stage) else "cut"


def _print_attention(attention: Mapping[str, Mapping[str, int]]) -> None:
    table(
        "attention over segments",
        ("stage", "nodes", "in ONNX Runtime on this CPU"),
        [
            (
                stage,
                ", ".join(f"{count} {name}" for name, count in functions.items()),
                _kernel(),
            )
            for stage, functions in attention.items()
        ],
    )


def _kernel() -> str:
    """What runs attention over segments in ONNX Runtime on this machine's CPU."""
    library, reason = native.ort_kernels()
    if library is not None:
        choice = choose("onnxruntime", f"cpu-{native.cpu_isa()}")
        if choice.kernel:
            return f"kernel ({native.cpu_isa()})"
        reason = choice.reason
    return f"standard operators: {reason}"


def _print_text(text: str) -> None:
    console = stdout()
    if console.options.ascii_only:
        text = text.translate(_ASCII).encode("ascii", "backslashreplace").decode()
    console.print(text, markup=False, emoji=False, soft_wrap=True)
