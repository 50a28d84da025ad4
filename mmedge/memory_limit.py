"""A limit to the memory that a loaded pipeline takes: measured when it is loaded, and refused.

What counts is private memory that belongs to no file, which the process has after loading and one
call and had not before. Weights that an engine maps from a file are not in it, since the system may
drop them; nor are GPUs. Nothing is enforced afterwards: no library that mmedge stands on can be
held to a limit without ending the process where it is reached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge.backends.large_pages import private_memory
from mmedge.errors import BackendError

if TYPE_CHECKING:
    from mmedge.pipeline import Pipeline

__all__ = ["check_memory", "used_bytes"]


def used_bytes() -> int:
    """Bytes of private memory of this process that belong to no file.

    Raises:
        BackendError: the system does not tell.
    """
    try:
        return sum(region.used for region in private_memory())
    except OSError as error:
        raise BackendError(
            f"memory_limit_bytes: this system does not tell what a process uses: {error}"
        ) from error


def check_memory(pipe: Pipeline, before: int, limit: int) -> None:
    """Make one call, of the first golden sample, and hold what was taken against the limit.

    Args:
        pipe: just loaded.
        before: what :func:`used_bytes` said before it was loaded.
        limit: most bytes more than that.

    Raises:
        BackendError: it took more, or the bundle has no golden sample to make a call with.
    """
    bundle = pipe.bundle
    sample = next(iter(bundle.samples()), None)
    if sample is None:
        raise BackendError(
            f"{bundle.path}: memory_limit_bytes needs a golden sample, to see what a call takes; "
            "the bundle has none"
        )
    tokens = sample.loop.get("tokens")
    options = {} if tokens is None else {"limit": tokens.shape[1]}
    pipe.run(sample.inputs, cached=False, **options)
    taken = used_bytes() - before
    if taken > limit:
        raise BackendError(
            f"{bundle.path}: variant {pipe.variant.id}, plan {pipe.plan!r}, took "
            f"{taken / 1e6:.1f} MB of memory to load and for one call, more than "
            f"memory_limit_bytes, {limit / 1e6:.1f} MB. Choose a variant of lower precision, or "
            "raise the limit"
        )
