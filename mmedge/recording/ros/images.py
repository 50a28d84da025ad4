"""Pictures: sensor_msgs/Image of plain encodings, and CompressedImage by Pillow.

A picture whose rows lie close together and whose colors stand in the network's order is not copied.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mmedge.errors import InputError
from mmedge.recording.ros.fit import number_cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmedge.recording.ros.fit import Target
    from mmedge.spec import Array

__all__ = ["compressed_converter", "image_converter", "read_image"]

#: Encodings of colors (sensor_msgs/image_encodings.hpp): dtype, and the channels in their order.
COLORS = {
    "mono8": ("u1", "y"),
    "mono16": ("u2", "y"),
    "rgb8": ("u1", "rgb"),
    "bgr8": ("u1", "bgr"),
    "rgba8": ("u1", "rgba"),
    "bgra8": ("u1", "bgra"),
    "rgb16": ("u2", "rgb"),
    "bgr16": ("u2", "bgr"),
    "rgba16": ("u2", "rgba"),
    "bgra16": ("u2", "bgra"),
}
#: Encodings as OpenCV names them, such as 16UC1; their channels have no colors.
_PLAIN = re.compile(r"(8|16|32|64)(U|S|F)C([1-4]?)")
_BITS = {"8U", "8S", "16U", "16S", "32S", "32F", "64F"}
#: What a CompressedImage may be, whatever its format says, and most pixels of one.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
MAX_PIXELS = 1 << 27


class Picture(NamedTuple):
    """Pixels [height, width, channels], a view where it can be, and the channels' names.

    ``channels`` is such as ``bgr``, or empty where the encoding names no colors.
    """

    pixels: Array
    channels: str
    encoding: str


def read_image(message: Any) -> Picture:  # noqa: ANN401
    """A sensor_msgs/Image as a view of its data.

    Raises:
        InputError: an encoding that is no plain array, or data of another length than it says.
    """
    encoding = str(message.encoding)
    kind, channels, count = _read_encoding(encoding)
    order = ">" if message.is_bigendian and kind[1] != "1" else "<"
    dtype = np.dtype(order + kind)
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = np.asarray(message.data, np.uint8)
    row = width * count * dtype.itemsize
    if step < row or data.size != step * height:
        raise InputError(
            f"{encoding} of {width} x {height} pixels in rows of {step} bytes: expected rows of at "
            f"least {row} bytes and {step * height} bytes in all, got {data.size}"
        )
    strides = (step, count * dtype.itemsize, dtype.itemsize)
    pixels: Array = np.ndarray((height, width, count), dtype, data, 0, strides)
    return Picture(pixels, channels, encoding)


def _read_encoding(encoding: str) -> tuple[str, str, int]:
    """Dtype, names of channels, and their number."""
    if encoding in COLORS:
        kind, channels = COLORS[encoding]
        return kind, channels, len(channels)
    match = _PLAIN.fullmatch(encoding)
    if match is None or match[1] + match[2] not in _BITS:
        raise InputError(
            f"encoding {encoding!r} is not read; publish one of {', '.join(COLORS)}, or such as "
            "16UC1 or 32FC1 (image_proc converts Bayer and YUV)"
        )
    kind = {"U": "u", "S": "i", "F": "f"}[match[2]] + str(int(match[1]) // 8)
    return kind, "", int(match[3] or 1)


class _Frame:
    """The picture that an input takes: its axes, its channels, and how it is made of a message's.

    Raises:
        InputError: the input takes no picture.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        shape, layout = target.spec.shape, target.topic.layout
        if not layout:
            if len(shape) >= 3 and shape[-1] in (1, 3, 4):
                layout = "hwc"
            elif len(shape) >= 3 and shape[-3] in (1, 3, 4):
                layout = "chw"
            else:
                layout = "hw"
        if layout not in ("hwc", "chw", "hw") or len(shape) < len(layout):
            raise target.error("a picture", "set layout to hwc, chw or hw")
        axis = layout.find("c")
        channels: int | str = shape[len(shape) - len(layout) + axis] if axis >= 0 else 1
        if not isinstance(channels, int):
            raise target.error("a picture", "its axis of colors has no fixed size: set layout")
        self._layout, self._channels = layout, channels
        self._sizes = [shape[len(shape) - len(layout) + layout.find(each)] for each in "hw"]
        #: How each encoding that came is converted.
        self._known: dict[tuple[str, str], Callable[[Array], Array]] = {}
        self.notes: dict[str, str] = {}

    def convert(self, picture: Picture) -> Array:
        """The picture as the input takes it."""
        pixels = picture.pixels
        for size, got in zip(self._sizes, pixels.shape, strict=False):
            if isinstance(size, int) and size != got:
                height, width = self._sizes
                raise self._target.error(
                    f"a picture of {pixels.shape[1]} x {pixels.shape[0]} pixels (width x height), "
                    f"expected {width} x {height}",
                    "resize it as the network was trained (image_proc does), or export with "
                    "dynamic sizes and the resizing in the network",
                )
        key = picture.encoding, pixels.dtype.str
        convert = self._known.get(key)
        if convert is None:
            convert = self._known[key] = self._converter(picture)
        return self._target.fit(convert(pixels), "a picture")

    def _converter(self, picture: Picture) -> Callable[[Array], Array]:
        """How pictures of this encoding are converted; what is changed goes to the notes."""
        places, changes = self._places(picture)
        kind = picture.pixels.dtype
        cast, change = number_cast(self._target, kind.name, picture.encoding)
        changes += [change] * bool(change)
        if changes:
            self.notes[picture.encoding] = f"{picture.encoding}: {', '.join(changes)}"
        same = places == list(range(picture.pixels.shape[2]))
        layout = self._layout
        if same and layout == "hwc":
            return cast
        if len(places) == 1:
            # An axis of size 1 may stand anywhere.
            at = places[0]
            if layout == "hwc":
                return lambda pixels: cast(pixels[:, :, at : at + 1])
            if layout == "hw":
                return lambda pixels: cast(pixels[:, :, at])
            return lambda pixels: cast(pixels[:, :, at])[np.newaxis]

        def convert(pixels: Array) -> Array:
            height, width, _ = pixels.shape
            last = layout == "hwc"
            shape = (height, width, len(places)) if last else (len(places), height, width)
            array = np.empty(shape, pixels.dtype)
            # One channel after another is several times faster than the axis turned round.
            for to, at in enumerate(places):
                array[(..., to) if last else to] = pixels[:, :, at]
            return cast(array)

        return convert

    def _places(self, picture: Picture) -> tuple[list[int], list[str]]:
        """Which channel of the message becomes each of the input, and what is changed by it."""
        count, got, wanted = picture.pixels.shape[2], picture.channels, self._channels
        order = {1: "y", 3: self._target.topic.color, 4: f"{self._target.topic.color}a"}
        names = order.get(wanted, "")
        if not got:
            if count != wanted:
                raise self._unfit(picture)
            colors = count in (3, 4) and f"channels are taken as {names}"
            return list(range(count)), [colors] if colors else []
        if not set(names) <= set(got) or not names:
            raise self._unfit(picture)
        places = [got.index(name) for name in names]
        changes = []
        if "a" in got and "a" not in names:
            changes.append("alpha is left out")
        if [name for name in got if name in names] != list(names):
            changes.append(f"colors are put in the order {names}")
        return places, changes

    def _unfit(self, picture: Picture) -> InputError:
        return self._target.error(
            f"a picture of encoding {picture.encoding} with {picture.pixels.shape[2]} channels, "
            f"expected {self._channels}",
            "convert it before (image_proc), or in the network",
        )


def image_converter(target: Target) -> tuple[Callable[[Any], Array], dict[str, str]]:
    """How sensor_msgs/Image is converted, and notes of what is changed, as messages come."""
    frame = _Frame(target)

    def convert(message: Any) -> Array:  # noqa: ANN401
        return frame.convert(read_image(message))

    return convert, frame.notes


def compressed_converter(target: Target) -> tuple[Callable[[Any], Array], dict[str, str]]:
    """How sensor_msgs/CompressedImage is converted: JPEG, PNG, BMP or WebP of 8 bits."""
    from PIL import Image

    frame = _Frame(target)

    def decode(message: Any) -> Array:  # noqa: ANN401
        data = bytes(message.data)
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise InputError(f"{image.width} x {image.height} pixels are too many")
                if image.mode not in ("L", "RGB", "RGBA"):
                    raise InputError(
                        f"pixels of mode {image.mode}; expected grey or colors of 8 bits"
                    )
                pixels = np.asarray(image)
                channels = {"L": "y", "RGB": "rgb", "RGBA": "rgba"}[image.mode]
        except InputError as error:
            raise target.error(f"a compressed picture ({message.format}): {error}") from error
        except Exception as error:  # what damaged bytes make of Pillow's parsing
            raise target.error(
                f"a compressed picture ({message.format}) that cannot be decoded: {error}"
            ) from error
        if pixels.ndim == 2:
            pixels = pixels[:, :, np.newaxis]
        return frame.convert(Picture(pixels, channels, f"compressed {channels}"))

    return decode, frame.notes
