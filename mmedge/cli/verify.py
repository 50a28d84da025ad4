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
    emit_json,
    list_not_checked,
    number,
    phases,
    table,
    waiting,
)
from mmedge.errors import MMEdgeError, NoVariantError
from mmedge.execution.verify import Verification
from mmedge.execution.verify import verify as replay
from mmedge.pipeline import Pipeline, load, restrict
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
    as_json: JsonOption = False,
) -> None:
    """Replay the golden samples and compare every output of every stage."""
    if every:
        _verify_all(bundle, backend, precision, device, as_json=as_json)
        return
    with waiting(f"loading {bundle}"):
        pipe = load(
            bundle, backend=backend, precision=precision, device=device, allow_unverified=True
        )
    with pipe:
        manifest, variant = pipe.bundle.manifest, pipe.variant
        verification = _replay(pipe)
    skipped = [
        f"variant {other.id}: " + (other.reject_reason(probe()) or "not asked for; --all checks it")
        for other in manifest.variants
        if other.id != variant.id
    ]
    open_questions = [*manifest.open_questions(variant), *skipped]
    if as_json:
        emit_json(verification.to_dict() | {"not_checked": open_questions})
    else:
        _print(verification)
        list_not_checked(open_questions)
    if not verification.ok:
        raise Exit(1)


def _verify_all(
    path: str, backend: str, precision: str | None, device: str | None, *, as_json: bool
) -> None:
    """Every variant that runs here, one after another; a failure stops none of the others."""
    with Bundle.open(path) as opened:
        manifest = opened.manifest
    here = restrict(probe(), device)
    verified: list[Verification] = []
    failures: dict[str, str] = {}
    open_questions: list[str] = []
    ran: list[Variant] = []
    for variant in manifest.variants:
        name = backend.replace("-", "_")
        if (name not in ("auto", variant.backend)) or precision not in (None, variant.precision):
            open_questions.append(f"variant {variant.id}: not asked for")
            continue
        reason = variant.reject_reason(here)
        if reason is not None:
            open_questions.append(f"variant {variant.id}: {reason}")
            continue
        try:
            with waiting(f"loading {variant.id}"):
                pipe = load(path, variant.id, allow_unverified=True)
            with pipe:
                verified.append(_replay(pipe))
        except MMEdgeError as error:
            failures[variant.id] = str(error)
            continue
        ran.append(variant)
    if not verified and not failures:
        raise NoVariantError(
            f"{path}: no variant of it runs here as asked; " + "; ".join(open_questions)
        )
    open_questions = [*manifest.open_questions(*ran), *open_questions]
    ok = not failures and all(verification.ok for verification in verified)
    if as_json:
        rows: list[dict[str, Any]] = [verification.to_dict() for verification in verified]
        emit_json({"ok": ok, "variants": rows, "failed": failures, "not_checked": open_questions})
    else:
        for verification in verified:
            _print(verification)
        if failures:
            table("failed", ("variant", "why"), list(failures.items()))
        list_not_checked(open_questions)
    if not ok:
        raise Exit(1)


def _replay(pipe: Pipeline) -> Verification:
    with phases() as tell:
        total = pipe.bundle.manifest.samples
        what = f"{pipe.variant.id}: golden samples"
        return replay(pipe, progress=lambda step: tell(what, step, total))


def _print(verification: Verification) -> None:
    table(
        f"{verification.variant}: {verification.samples} golden samples, "
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
