"""``mmedge tune``: find the variant and the threads that are fastest on this device."""

from __future__ import annotations

from mmedge.bench.tune import tune as find
from mmedge.bundle import Bundle
from mmedge.cli.console import (
    BundleArgument,
    JsonOption,
    ThreadsOption,
    emit_json,
    number,
    say,
    table,
    warn,
)
from mmedge.cli.output import BundleOutputOption, OverwriteOption, rewriting
from mmedge.errors import BundleError, NoVariantError

__all__ = ["tune"]


def tune(
    bundle: BundleArgument,
    *,
    output: BundleOutputOption = None,
    overwrite: OverwriteOption = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time every variant that this CPU runs, with few and many threads; loading goes by it."""
    with rewriting(bundle, output, overwrite=overwrite) as target:
        opened = Bundle.open(target.path)
        if not opened.manifest.samples:
            opened.close()
            raise BundleError(f"{bundle}: no golden samples to call it with; export it again")
        left_out: list[str] = []
        made, found = find(opened, threads=threads, tell=say, leave=left_out.append, warn=warn)
        made.close()
        if not found:
            why = "; ".join(left_out)
            raise NoVariantError(
                f"{bundle}: no variant of it runs and verifies on this CPU" + (why and f": {why}")
            )
    if as_json:
        emit_json(
            {
                "bundle": target.shown,
                "variants": {
                    name: {"latency_ms": ms, "threads": count}
                    for name, (ms, count) in found.items()
                },
                "left_out": left_out,
            }
        )
        return
    rows = [
        (name, number(ms), str(count))
        for name, (ms, count) in sorted(found.items(), key=lambda item: item[1])
    ]
    table(f"{target.shown}: fastest first", ("variant", "ms a call here", "threads"), rows)
    if left_out:
        table(
            "left out: computes something else here, or does not load",
            ("what",),
            [(line,) for line in left_out],
        )
