"""``mmedge verify``: does this machine compute what the original network did?"""

from __future__ import annotations

from typing import Annotated, Any

from typer import Exit, Option

from mmedge.backends.registry import probe
from mmedge.bundle import Bundle
from mmedge.cli.console import (
    BackendOption,
    BundleArgument,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    RuntimeOption,
    emit_json,
    list_not_checked,
    number,
    phases,
    table,
    waiting,
)
from mmedge.cli.trust import TrustOptions, not_checked, signature_json, signature_rows
from mmedge.errors import MMEdgeError
from mmedge.execution.verify import Verification
from mmedge.execution.verify import verify as replay
from mmedge.loader import load
from mmedge.pipeline import Pipeline
from mmedge.spec import Variant

__all__ = ["verify"]

AllOption = Annotated[
    bool, Option("--all", help="Every variant that this machine can run, and why not the others.")
]


def verify(
    bundle: BundleArgument,
    *,
    backend: BackendOption = "auto",
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    every: AllOption = False,
    runtime: RuntimeOption = "python",
    as_json: JsonOption = False,
    trust: TrustOptions,
) -> None:
    """Replay the golden samples and compare every output of every stage, of each plan."""
    here = probe()
    with Bundle.open(bundle, **trust.keywords()) as open_bundle:
        signature = open_bundle.signature
        manifest = open_bundle.on(here)
        backend = backend.replace("-", "_")
        # Raises where none runs here as asked.
        best, decisions = open_bundle.select(
            here, backend=backend, precision=precision, target=device
        )
    chosen_ids = {d.variant for d in decisions if d.accepted} if every else {best.id}
    skipped = [
        f"variant {d.variant}: " + ("not asked for; --all checks it" if d.accepted else d.reason)
        for d in decisions
        if d.variant not in chosen_ids
    ]
    verifications: list[Verification] = []
    failures: dict[str, str] = {}
    ran: dict[str, Variant] = {}
    for variant in manifest.variants:
        for plan in manifest.plan_names(variant) if variant.id in chosen_ids else ():
            try:
                with waiting(f"loading {variant.id}, {plan}"):
                    pipe = load(
                        bundle, variant.id, plan=plan, allow_unverified=True, runtime=runtime,
                        **trust.keywords(),
                    )  # fmt: skip
                with pipe:
                    verifications.append(_replay(pipe))
            except MMEdgeError as error:
                if not every:
                    raise
                failures[f"{variant.id}, {plan}"] = str(error)
            else:
                ran[variant.id] = variant
    open_questions = [*manifest.open_questions(*ran.values()), *skipped, *not_checked(signature)]
    ok = not failures and all(verification.ok for verification in verifications)
    if as_json:
        rows: list[dict[str, Any]] = [verification.to_dict() for verification in verifications]
        emit_json({
            "ok": ok, "verified": rows, "failed": failures, "not_checked": open_questions,
            "signature": signature_json(signature),
        })  # fmt: skip
    else:
        for verification in verifications:
            _print(verification)
        if failures:
            table("failed", ("variant and plan", "why"), list(failures.items()))
        if signature is not None:
            table("release", ("what", "value"), signature_rows(signature))
        list_not_checked(open_questions)
    if not ok:
        raise Exit(1)


def _replay(pipe: Pipeline) -> Verification:
    with phases() as tell:
        total = pipe.bundle.manifest.samples
        what = f"{pipe.variant.id}, {pipe.plan}: golden samples"
        return replay(pipe, progress=lambda step: tell(what, step, total))


def _print(verification: Verification) -> None:
    table(
        f"{verification.variant}, {verification.plan}: {verification.samples} golden samples, "
        f"rtol {verification.tolerance.rtol:g}, atol {verification.tolerance.atol:g}",
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
            for row in verification.rows
        ],
    )
