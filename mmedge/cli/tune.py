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
    stderr,
    table,
)
from mmedge.errors import BundleError, NoVariantError

__all__ = ["tune"]


def tune(
    bundle: BundleArgument,
    *,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time every variant that this CPU runs, with few and many threads; loading goes by it."""
    opened = Bundle.open(bundle)
    if not opened.manifest.samples:
        opened.close()
        raise BundleError(f"{bundle}: no golden samples to call it with; export it again")
    say = stderr().print
    made, found = find(opened, threads=threads, tell=lambda line: say(line, markup=False))
    made.close()
    if not found:
        raise NoVariantError(f"{bundle}: no variant of it runs and verifies on this CPU")
    if as_json:
        emit_json(
            {
                "bundle": str(bundle),
                "variants": {
                    name: {"latency_ms": ms, "threads": count}
                    for name, (ms, count) in found.items()
                },
            }
        )
        return
    rows = [
        (name, number(ms), str(count))
        for name, (ms, count) in sorted(found.items(), key=lambda item: item[1])
    ]
    table(f"{bundle}: fastest first", ("variant", "ms a call here", "threads"), rows)
