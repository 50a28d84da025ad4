"""``mmedge verify``: does this machine compute what the original network did?"""

from __future__ import annotations

from typer import Exit

from mmedge.cli.console import (
    BackendOption,
    BundleArgument,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    emit_json,
    number,
    phases,
    table,
    waiting,
)
from mmedge.pipeline import load
from mmedge.verify import verify as replay

__all__ = ["verify"]


def verify(
    bundle: BundleArgument,
    *,
    backend: BackendOption = "auto",
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay the golden samples and compare every output of every stage."""
    with waiting(f"loading {bundle}"):
        pipe = load(bundle, backend, precision, device, allow_unverified=True)
    with pipe, phases() as tell:
        total = pipe.bundle.manifest.samples
        found = replay(pipe, progress=lambda done: tell("golden samples", done, total))
    if as_json:
        emit_json(found.to_dict())
    else:
        table(
            f"{found.variant}: {found.samples} golden samples, "
            f"rtol {found.tolerance.rtol:g}, atol {found.tolerance.atol:g}",
            ("stage", "output", "max abs error", "relative", "scale", "of the limit", "verdict"),
            [
                (
                    row.stage,
                    row.output,
                    number(row.max_abs),
                    number(row.max_rel),
                    f"{number(row.scale)} of {row.where}" if row.where else number(row.scale),
                    f"{100 * row.limit_used:.3g} %",
                    "ok" if row.ok else "OFF",
                )
                for row in found.rows
            ],
        )
    if not found.ok:
        raise Exit(1)
