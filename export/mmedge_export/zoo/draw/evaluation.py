"""How well pictures follow their captions, and how much they differ from noise to noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge_export.zoo.draw.captions import COLORS, HELD_OUT, PLACES, SHAPES, SIZES, Caption
from mmedge_export.zoo.draw.drawing import SHAPE
from mmedge_export.zoo.draw.judge import judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmedge_export.zoo.draw.drawing import Artist
    from mmedge_export.zoo.draw.judge import Verdict

__all__ = ["TESTS", "Test", "figures", "noises", "real", "shares", "spread"]


def _all(*, held_out: bool, parts: bool) -> list[Caption]:
    """Captions of all combinations, the held-out ones or the others."""
    pairs = [(c, s) for c in COLORS for s in SHAPES if ((c, s) in HELD_OUT) == held_out]
    if not parts:
        return [Caption(color, shape) for color, shape in pairs]
    return [
        Caption(color, shape, size, place)
        for color, shape in pairs
        for size in SIZES
        for place in PLACES
    ]


@dataclass(frozen=True)
class Test:
    """Captions that are drawn.

    Attributes:
        name: in the results.
        captions: each is drawn ``times`` times, from other noise.
        times: how often.
    """

    name: str
    captions: tuple[Caption, ...]
    times: int


TESTS: tuple[Test, ...] = (
    Test("known, all parts", tuple(_all(held_out=False, parts=True)), 1),
    Test("held out, all parts", tuple(_all(held_out=True, parts=True)), 5),
    Test("known, color and shape", tuple(_all(held_out=False, parts=False)), 18),
    Test("held out, color and shape", tuple(_all(held_out=True, parts=False)), 90),
)
"""What is drawn: captions that say everything, and such as leave size and place open."""

_SEED = 7


def noises(count: int, seed: int = _SEED) -> NDArray[np.float32]:
    """First noise of pictures, float32 ``[count, 3, 64, 64]``."""
    return np.random.default_rng(seed).standard_normal((count, *SHAPE), dtype=np.float32)


def shares(verdicts: Sequence[Verdict], captions: Sequence[Caption]) -> dict[str, float]:
    """Shares of pictures that are right: in each part, in color and shape, in all parts."""
    rows = [verdict.right(c) for verdict, c in zip(verdicts, captions, strict=True)]
    kinds = sorted({kind for row in rows for kind in row})
    result = {kind: float(np.mean([row[kind] for row in rows if kind in row])) for kind in kinds}
    both = [row["color"] and row["shape"] for row in rows if {"color", "shape"} <= {*row}]
    if both:
        result["color and shape"] = float(np.mean(both))
    result["all"] = float(np.mean([all(row.values()) for row in rows]))
    return {**result, "pictures": float(len(rows))}


def spread(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """How pictures of like captions differ.

    Returns:
        Standard deviations in pixels of the middle of the shape, ``x`` and ``y``, and of its
        longest side, ``side``; ``boxes`` is how many different boxes each picture has, 1 where no
        two are alike.
    """
    boxes = [verdict.box for verdict in verdicts if verdict.box is not None]
    if not boxes:
        return {"x": 0.0, "y": 0.0, "side": 0.0, "boxes": 0.0}
    return {
        "x": float(np.std([(box.left + box.right) / 2 for box in boxes])),
        "y": float(np.std([(box.top + box.bottom) / 2 for box in boxes])),
        "side": float(np.std([box.longest for box in boxes])),
        "boxes": len({*boxes}) / len(verdicts),
    }


def figures(artist: Artist) -> dict[str, dict[str, Any]]:
    """Every figure of the docs.

    Args:
        artist: what is judged; it gets the same captions and noise each time.
    """
    results: dict[str, dict[str, Any]] = {}
    for number, test in enumerate(TESTS):
        captions = [caption for caption in test.captions for _ in range(test.times)]
        noise = noises(len(captions), _SEED + number)
        verdicts = judge(artist([caption.text for caption in captions], noise))
        results[test.name] = shares(verdicts, captions)
        if test.name == "known, color and shape":
            results["spread"] = _mean_spread(verdicts, test.times)
    count = len(COLORS) * len(SHAPES) * 4
    verdicts = judge(artist(["a shape"] * count, noises(count, _SEED + len(TESTS))))
    results["nothing said"] = {
        "pictures": count,
        "combinations": len({(verdict.color, verdict.shape) for verdict in verdicts}),
        **spread(verdicts),
    }
    return results


def _mean_spread(verdicts: Sequence[Verdict], times: int) -> dict[str, float]:
    """:func:`spread` of the pictures of one caption, the mean over all captions."""
    parts = [spread(verdicts[at : at + times]) for at in range(0, len(verdicts), times)]
    return {key: float(np.mean([part[key] for part in parts])) for key in parts[0]}


def real() -> dict[str, dict[str, float]]:
    """The same of the test pictures of easy-vqa: how far judge and ruler can be trusted.

    Raises:
        ExportError: easy-vqa is not installed.
    """
    from mmedge_export.zoo.draw.pictures import facts
    from mmedge_export.zoo.vqa import questions

    data = questions.load("test")
    verdicts, captions = judge(data.images), facts(data)
    return {"test pictures": {**shares(verdicts, captions), **spread(verdicts)}}
