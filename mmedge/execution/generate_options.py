"""Options of a call that generates: the caller's, checked, and else those of the bundle."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import InputError
from mmedge.execution.random_numbers import check_seed
from mmedge.execution.sampling import Sampling

if TYPE_CHECKING:
    from mmedge.execution.call_options import CallOptions
    from mmedge.loop_spec import GenerateLoop
    from mmedge.spec import Array

__all__ = ["GenerateOptions", "read_options"]


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """How one call generates.

    Attributes:
        limit: most tokens.
        stop: tokens that end a row.
        sampling: how tokens are chosen.
        deadline: time of ``monotonic`` after which no run begins.
        forced: [batch, n], what the first n choices are whatever the scores; None: none is.
    """

    limit: int
    stop: tuple[int, ...]
    sampling: Sampling
    deadline: float = inf
    forced: Array | None = None


def read_options(
    loop: GenerateLoop, most: int, options: CallOptions, deadline: float
) -> GenerateOptions:
    """The options of a call; None: what the bundle says.

    Args:
        loop: of the bundle.
        most: the largest token that can be chosen.
        options: of the call.
        deadline: time of ``monotonic`` after which no run of the stage begins.

    Raises:
        InputError: an option is not within its limits.
    """
    limit, stop = options.get("limit"), options.get("stop")
    temperature, top_k, top_p = (options.get(n) for n in ("temperature", "top_k", "top_p"))
    return GenerateOptions(
        loop.limit if limit is None else _number("limit", limit, 1, loop.limit),
        loop.stop if stop is None else tuple(_number("stop", t, 0, most) for t in stop),
        Sampling(
            loop.temperature
            if temperature is None
            else _number("temperature", temperature, 0.0, 100.0),
            loop.top_k if top_k is None else _number("top_k", top_k, 0, 2**31),
            loop.top_p if top_p is None else _share(top_p),
            check_seed(options.get("seed", 0)),
        ),
        deadline,
        _forced(options.get("forced"), most),
    )


def _forced(tokens: Any, most: int) -> Array | None:  # noqa: ANN401
    if tokens is None:
        return None
    array = np.asarray(tokens)
    if array.ndim != 2 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(
            f"forced: expected whole numbers [batch, n], got {array.dtype}{list(array.shape)}"
        )
    if array.size and not 0 <= array.min() <= array.max() <= most:
        raise InputError(
            f"forced: expected tokens from 0 to {most}, got {array.min()} to {array.max()}"
        )
    return array.astype(np.int64)


def _number(name: str, value: Any, least: float, most: float) -> Any:  # noqa: ANN401
    """An option as a plain number; whole where its limits are."""
    kinds = (int, np.integer) if isinstance(least, int) else (int, float, np.integer, np.floating)
    what = "a whole number" if isinstance(least, int) else "a number"
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        raise InputError(f"{name}: expected {what} from {least:g} to {most:g}, got {value!r:.80}")
    return type(least)(value)


def _share(value: Any) -> float:  # noqa: ANN401
    share: float = _number("top_p", value, 0.0, 1.0)
    if not share:
        raise InputError("top_p: expected a number above 0, to 1, got 0")
    return share
