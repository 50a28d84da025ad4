"""What a tensor of a sensor or an encoder is, as far as drift statistics care, and their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from dataclasses import dataclass

    from mmedge.spec import Array
else:
    from mmedge.records import dataclass

__all__ = [
    "BANDS",
    "CELLS",
    "QUANTILES",
    "SECTORS",
    "Layout",
    "Statistic",
    "layout_of",
    "statistics_of",
]

Kind = Literal["image", "waveform", "scan", "vector", "rows"]

#: Quantiles of values that are looked at: enough for Wasserstein's distance to a shape.
QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
#: Bands of a waveform's spectrum, of equal width on a logarithmic axis.
BANDS = 10
#: A picture is looked at in so many cells down and across.
CELLS = (4, 4)
#: A scan is looked at in so many sectors.
SECTORS = 16
#: Elements of a vector that are looked at one by one, and channels of rows; more are projected.
MOST_ELEMENTS, MOST_CHANNELS = 48, 24
#: Numbers that more channels are projected to.
PROJECTIONS = 16
#: Samples of one spectrum, most and least.
MOST_BLOCK, LEAST_BLOCK = 512, 64
#: Least height and width of a picture, and beams of a scan.
LEAST_SIDE, LEAST_BEAMS = 24, 128

#: What a value of an integer dtype is divided by.
FULL_SCALE = {"uint8": 255.0, "int8": 128.0, "uint16": 65535.0, "int16": 32768.0}


@dataclass(frozen=True, slots=True)
class Layout:
    """How statistics of one tensor are taken.

    Attributes:
        tensor: its name.
        kind: ``image``: [batch, height, width, channels] or channels first. ``waveform``: sound,
            [batch, samples]. ``scan``: another long row, such as a lidar's, [batch, beams].
            ``vector``: [batch, elements]. ``rows``: anything else: many rows of channels.
        axis: the axis of the channels, from the end (-1 or -3); of ``vector`` and ``waveform`` -1.
        channels: how many; elements of a vector or scan; 1 of a waveform.
        block: samples of a spectrum; 0 of other kinds.
        full_scale: what values are divided by.
        unit: a typical spread of its values after that: what is small beside it says nothing.
    """

    tensor: str
    kind: Kind
    axis: int
    channels: int
    block: int
    full_scale: float
    unit: float

    @property
    def is_projected(self) -> bool:
        """Whether there are so many channels that they are mixed before they are looked at."""
        return self.kind == "rows" and self.channels > MOST_CHANNELS

    def fits(self, other: Layout) -> bool:
        """Whether values of the one could be values of the other."""
        mine = self.kind, self.axis, self.channels, self.block, self.full_scale
        return mine == (other.kind, other.axis, other.channels, other.block, other.full_scale)


class Statistic(NamedTuple):
    """One number of a look.

    Attributes:
        name: in words, for messages.
        resolution: a change that is never worth an alarm.
        is_log: whether a window has the natural logarithm of the mean. ``resolution`` is of that.
        is_floor: whether a window has the least value in place of the mean.
        group: statistics of one group are quantiles of one distribution; empty: none.
    """

    name: str
    resolution: float
    is_log: bool = False
    is_floor: bool = False
    group: str = ""


def layout_of(
    tensor: str, values: Sequence[Array], *, is_sound: bool, is_feature: bool = False
) -> Layout | str:
    """The layout of a tensor of which some values are known, or why it is not watched.

    Args:
        tensor: its name.
        values: some values, in the order in which they came; at least one.
        is_sound: whether the manifest states its sample rate.
        is_feature: whether it is what an encoder gave. That has no picture's or sound's layout.
    """
    first = values[0]
    dtype = first.dtype.name
    if dtype not in FULL_SCALE and first.dtype.kind != "f":
        return f"{dtype}: names of things, or flags, whose values have no order"
    if any(value.ndim != first.ndim or not value.size for value in values):
        return "its rank changes, or it is empty"
    shape = first.shape
    kind, axis, channels = _kind(shape, is_sound=is_sound, is_feature=is_feature)
    if any(value.shape[axis] != channels for value in values if kind != "waveform"):
        return "the number of its channels changes"
    block = 0
    if kind == "waveform":
        shortest = min(value.shape[-1] for value in values)
        block = 1 << min(shortest.bit_length() - 1, MOST_BLOCK.bit_length() - 1)
        if block < LEAST_BLOCK:
            return f"{shortest} samples a value are too few for a spectrum, {LEAST_BLOCK} are not"
        channels = 1
    full_scale = FULL_SCALE.get(dtype, 1.0)
    some = []
    for value in values:
        # Whole pixels or rows, so that the order of channels does not matter.
        content = np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis])
        step = max(1, value.size // 4096)
        some.append(content[::step] if len(content) > step else content)
    sample = np.concatenate([part.ravel() for part in some]).astype(np.float64) / full_scale
    sample = sample[np.isfinite(sample)]
    spread = float(np.quantile(sample, 0.95) - np.quantile(sample, 0.05)) if sample.size else 0.0
    if spread <= 0.0:
        spread = float(np.abs(sample).max(initial=0.0)) or 1.0
    return Layout(tensor, kind, axis, channels, block, full_scale, spread / 2.0)


def _kind(shape: tuple[int, ...], *, is_sound: bool, is_feature: bool) -> tuple[Kind, int, int]:
    """The kind, the axis of channels, and how many there are."""
    if not is_feature and len(shape) in (3, 4):
        sides = shape[-3:]
        if sides[2] in (1, 3, 4) and min(sides[:2]) >= LEAST_SIDE:
            return "image", -1, sides[2]
        # Of rank 3 it may as well be [batch, rows, channels].
        if len(shape) == 4 and sides[0] in (1, 3, 4) and min(sides[1:]) >= LEAST_SIDE:
            return "image", -3, sides[0]
    if len(shape) <= 2:
        length = shape[-1] if shape else 1
        if not is_feature and is_sound:
            return "waveform", -1, length
        if not is_feature and length >= LEAST_BEAMS:
            return "scan", -1, length
        return ("vector" if length <= MOST_ELEMENTS else "rows"), -1, length
    if len(shape) == 4 and shape[2] == shape[3] and shape[1] != shape[3]:
        return "rows", -3, shape[1]
    return "rows", -1, shape[-1]


def statistics_of(layout: Layout) -> tuple[Statistic, ...]:
    """The statistics of one look at a tensor, in order."""
    of = {
        "image": _of_image, "waveform": _of_waveform, "scan": _of_scan, "vector": _of_vector,
        "rows": _of_rows,
    }  # fmt: skip
    return tuple(of[layout.kind](layout))


def _of_channels(layout: Layout, small: float) -> list[Statistic]:
    many = layout.channels > 1
    names = [f" of channel {index}" if many else "" for index in range(layout.channels)]
    mean = "brightness" if layout.kind == "image" else "mean"
    spread = "contrast" if layout.kind == "image" else "standard deviation"
    listed = [Statistic(f"{mean}{name}", small) for name in names]
    listed += [Statistic(f"{spread}{name}", 0.05, is_log=True) for name in names]
    for index, name in enumerate(names):
        listed += [
            Statistic(f"{q:.0%} quantile{name}", 2.0 * small, group=str(index)) for q in QUANTILES
        ]
    return listed


def _of_image(layout: Layout) -> list[Statistic]:
    listed = _of_channels(layout, 0.02 * layout.unit)
    log = 0.05
    listed += [
        Statistic("difference of neighboring pixels", log, is_log=True),
        Statistic("difference of pixels four apart", log, is_log=True),
        Statistic("second difference of neighboring pixels (noise)", log, is_log=True),
        Statistic("second difference, median", log, is_log=True),
        Statistic("second difference, 99% quantile", 2.0 * log, is_log=True),
        Statistic("second difference where the picture is flattest (noise)", log, is_log=True),
        Statistic("sharpness: second difference against difference four apart", log, is_log=True),
        Statistic("steepness of edges: one pixel against four", log, is_log=True),
        Statistic("share of isolated pixels (dead pixels)", 0.0005),
    ]
    places = [f"row {row + 1}, column {column + 1} of {CELLS[0]} x {CELLS[1]}"
              for row in range(CELLS[0]) for column in range(CELLS[1])]  # fmt: skip
    # A cell has few pixels, and one thing may fill it: only what is plain counts.
    listed += [Statistic(f"brightness in {place}", 0.08 * layout.unit) for place in places]
    listed += [Statistic(f"detail in {place}", 0.5, is_log=True) for place in places]
    return listed


def _of_scan(layout: Layout) -> list[Statistic]:
    small = 0.02 * layout.unit
    listed = [Statistic("mean", small), Statistic("standard deviation", 0.05, is_log=True)]
    listed += [Statistic(f"{q:.0%} quantile", 2.0 * small, group="all") for q in QUANTILES]
    listed += [
        Statistic("difference of neighbors", 0.1, is_log=True),
        Statistic("second difference, median (noise)", 0.1, is_log=True),
    ]
    sectors = [f"sector {index + 1} of {SECTORS}" for index in range(SECTORS)]
    listed += [Statistic(f"mean of {sector}", 2.0 * small) for sector in sectors]
    return [*listed, *(Statistic(f"detail in {sector}", 0.5, is_log=True) for sector in sectors)]


def _of_waveform(layout: Layout) -> list[Statistic]:
    log = 0.1
    listed = [
        Statistic("offset", 0.01 * layout.unit),
        Statistic("level (root mean square)", log, is_log=True),
        Statistic("peak", log, is_log=True),
        Statistic("crest factor: peak against level", 0.05, is_log=True),
        Statistic("share of samples at the peak (clipping)", 0.005),
    ]
    bands = [f"band {index + 1} of {BANDS}" for index in range(BANDS)]
    listed += [Statistic(f"power in {band}", 2.0 * log, is_log=True) for band in bands]
    listed += [Statistic(f"share of power in {band}", 2.0 * log, is_log=True) for band in bands]
    listed += [
        Statistic(f"least power in {band} (noise floor)", 2.0 * log, is_log=True, is_floor=True)
        for band in bands
    ]
    return listed


def _of_vector(layout: Layout) -> list[Statistic]:
    small = 0.01 * layout.unit
    indices = range(layout.channels)
    listed = [Statistic(f"element {index}", small) for index in indices]
    listed += [
        Statistic(f"change of element {index} from sample to sample", 0.1, is_log=True)
        for index in indices
    ]
    return listed


def _of_rows(layout: Layout) -> list[Statistic]:
    small = 0.01 * layout.unit
    if not layout.is_projected:
        listed = _of_channels(layout, small)
        listed += [
            Statistic(f"difference of neighboring rows in channel {index}", 0.1, is_log=True)
            for index in range(layout.channels)
        ]
        return [*listed, Statistic("number of rows", 0.02, is_log=True)]
    listed = [Statistic("mean", small), Statistic("standard deviation", 0.05, is_log=True)]
    listed += [Statistic(f"{q:.0%} quantile", 2.0 * small, group="all") for q in QUANTILES]
    listed += [Statistic(f"projection {index + 1}", small) for index in range(PROJECTIONS)]
    listed += [
        Statistic(f"spread of projection {index + 1}", small) for index in range(PROJECTIONS)
    ]
    return [*listed, Statistic("number of rows", 0.02, is_log=True)]
