"""``mmedge run``: one call of a bundle on files and text; with a loop, to its end."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from mmedge.bundle.load import read_manifest
from mmedge.cli.console import (
    BackendOption,
    BundleArgument,
    DeviceOption,
    JsonOption,
    PlanOption,
    PrecisionOption,
    RuntimeOption,
    ThreadsOption,
    emit_json,
    number,
    table,
    waiting,
    warn,
    write_file,
)
from mmedge.cli.generated import describe_rows, print_steps, show_rows
from mmedge.cli.output import check_file
from mmedge.cli.trust import TrustOptions
from mmedge.execution.generate import RESULTS
from mmedge.loader import load
from mmedge.media.decode import read_inputs
from mmedge.pipeline import Pipeline
from mmedge.spec import Array

__all__ = ["run"]

#: Labels shown of each row of an output that has class names.
LABELS_SHOWN = 3
#: Elements shown of an output without them; -o keeps all.
VALUES_SHOWN = 8


def run(
    bundle: BundleArgument,
    *,
    inputs: Annotated[
        list[str], typer.Option("--input", "-i", help="name=file or name=text; repeat it.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write all arrays to this .safetensors file; replaces it."
        ),
    ] = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    plan: PlanOption = None,
    threads: ThreadsOption = None,
    runtime: RuntimeOption = "python",
    allow_unverified: Annotated[
        bool, typer.Option("--allow-unverified", help="Do not replay golden samples first.")
    ] = False,
    allow_non_finite: Annotated[
        bool, typer.Option("--allow-non-finite", help="Pass NaN and infinity on to the network.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(help="Most tokens that are generated; at most the bundle's.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of sampled tokens, or of a latent's noise; 0 by default.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the best token; the bundle's by default.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Draw from the k best tokens; 0: from all.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the best tokens that have this share together.")
    ] = None,
    as_json: JsonOption = False,
    trust: TrustOptions,
) -> None:
    """Run a bundle once on the inputs given; optional modalities may be left out.

    A bundle that generates prints text, or tokens, as they come.
    """
    _check_output(output, [word.partition("=")[2] for word in inputs])
    for word in inputs:
        if not all(word.partition("=")):
            raise typer.BadParameter(
                f"expected name=value, such as image=photo.png; got {word!r}", param_hint="--input"
            )
    options: dict[str, Any] = {
        name: value
        for name, value in (
            ("limit", limit),
            ("seed", seed),
            ("temperature", temperature),
            ("top_k", top_k),
            ("top_p", top_p),
        )
        if value is not None
    }
    # Files that do not fit are told before the network is loaded.
    values = read_inputs(read_manifest(Path(bundle), trusted=trust.trusted()), inputs)
    with waiting(f"loading {bundle}"):
        pipe = load(
            bundle,
            backend=backend,
            precision=precision,
            device=device,
            plan=plan,
            threads=threads,
            allow_unverified=allow_unverified,
            allow_non_finite=allow_non_finite,
            runtime=runtime,
            **trust.keywords(),
        )
    with pipe:
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always", UserWarning)  # such as of a text that was cut
            result = _call(pipe, values, options, as_json=as_json)
        for remark in remarks:
            warn(str(remark.message))
        loop = pipe.bundle.manifest.loop
        generates = loop is not None and loop.kind == "generate"
        outputs = {name: value for name, value in result.items() if isinstance(value, np.ndarray)}
        descriptions = {
            name: _describe(_labels(pipe, name), value)
            for name, value in outputs.items()
            if not generates or name not in RESULTS
        }
        variant = pipe.variant.id
    generated = describe_rows(result) if generates else None
    if as_json:
        rows = {} if generated is None else {"generated": generated}
        if loop is not None and not generates:
            rows["finish"] = result["finish"]
        emit_json({"variant": variant, "outputs": descriptions, **rows})
    else:
        if generated is not None:
            show_rows(variant, result)
        if descriptions or generated is None:
            _show(variant, descriptions)
    if output is not None:
        from safetensors.numpy import save

        # Printed first: what was computed is not lost when the disk refuses.
        write_file(output, save({k: np.ascontiguousarray(v) for k, v in outputs.items()}))


def _call(
    pipe: Pipeline, values: dict[str, Any], options: dict[str, Any], *, as_json: bool
) -> dict[str, Any]:
    """The outputs; those of a loop that generates are printed as they come."""
    loop = pipe.bundle.manifest.loop
    if loop is None or loop.kind != "generate" or as_json:
        return pipe.run(values, **options)
    steps = pipe.iterate(values, **options)
    print_steps(steps, has_text=loop.tokenizer is not None)
    return steps.result()


def _check_output(output: Path | None, values: Sequence[str]) -> None:
    """Refuse a file of another kind, and one that is also an input: it would be replaced."""
    check_file(output)
    if output is None:
        return
    if output.suffix.lower() != ".safetensors" and not output.is_char_device():
        raise typer.BadParameter(
            f"{output}: expected a name that ends in .safetensors", param_hint="--output"
        )
    for value in values:
        if _is_same(output, value):
            raise typer.BadParameter(
                f"{output} is an input of this call; name another file", param_hint="--output"
            )


def _is_same(path: Path, value: str) -> bool:
    try:
        return path.samefile(value)
    except (OSError, ValueError):  # one of them is not there, or is a text and no path
        return False


def _show(variant: str, outputs: dict[str, Any]) -> None:
    rows: list[tuple[object, ...]] = []
    for name, data in outputs.items():
        for index, row in enumerate(data["rows"]):
            if "labels" in row:
                values = ", ".join(f"{e['label']} ({_shown(e['score'])})" for e in row["labels"])
            else:
                values = ", ".join(map(_shown, row["values"])) + (" ..." if row["more"] else "")
            rows.append((name, index, values))
    table(variant, ("output", "row", "values"), rows)


def _labels(pipe: Pipeline, name: str) -> list[str]:
    """Class names of an output of the network; of what a loop gives, none."""
    return pipe.bundle.labels(name) if name in pipe.bundle.manifest.outputs else []


def _describe(labels: Sequence[str], value: Array) -> dict[str, Any]:
    """An output as plain data: per row the best labels where it has names, else its first values.

    Scores are the network's own figures (logits stay logits), highest first.
    """
    rows = value.reshape(value.shape[0], math.prod(value.shape[1:])) if value.ndim > 1 else [value]
    described: list[dict[str, Any]] = []
    for row in rows:
        if labels and len(labels) == row.size:
            best = np.argsort(-row.astype(np.float64))[:LABELS_SHOWN]
            described.append(
                {"labels": [{"label": labels[i], "score": _plain(row[i])} for i in best]}
            )
        else:
            values = [_plain(item) for item in row.ravel()[:VALUES_SHOWN]]
            described.append({"values": values, "more": bool(row.size > VALUES_SHOWN)})
    return {"dtype": str(value.dtype), "shape": list(value.shape), "rows": described}


def _plain(value: Any) -> float | int | bool | str:  # noqa: ANN401
    """A number for JSON, which has no NaN and no infinity: those become their names."""
    plain: float | int | bool = value.item()
    return plain if math.isfinite(plain) else str(plain)


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else number(value)
