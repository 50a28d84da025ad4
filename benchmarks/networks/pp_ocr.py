"""What does this line say? The text recognition of PP-OCRv6 (rapidocr 3.10.0, Apache-2.0).

The package's ONNX file takes lines of text as pictures, ``x`` [batch, 3, 48, width] in [-1, 1], and
gives the probability of each character at every eighth column, ``fetch_name_0`` [batch, width / 8,
characters]. Its metadata has the characters; number 0 is the blank of CTC, the last one a space.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from package_files import PackageFile
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["FILE", "INPUT", "OUTPUT", "draw_lines", "read_characters", "read_lines"]

FILE = PackageFile(
    "rapidocr==3.10.0",
    "rapidocr/models/PP-OCRv6_rec_small.onnx",
    "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
)
INPUT, OUTPUT = "x", "fetch_name_0"
_HEIGHT, _MARGIN, _LETTERS = 48, 10, 32


def draw_lines(texts: Sequence[str]) -> NDArray[np.float32]:
    """Lines of text, black on white, [texts, 3, 48, width of the longest], from -1 to 1."""
    font = ImageFont.load_default(_LETTERS)
    width = 2 * _MARGIN + max(round(font.getlength(text)) for text in texts)
    pictures = []
    for text in texts:
        picture = Image.new("RGB", (width, _HEIGHT), "white")
        ImageDraw.Draw(picture).text((_MARGIN, 4), text, "black", font=font)
        pictures.append(np.asarray(picture, np.float32))
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2) / 127.5 - 1)


def read_characters(file: Path) -> list[str]:
    """The characters that the network knows, by number."""
    metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    return ["", *metadata["character"].split("\n"), " "]


def read_lines(probabilities: NDArray[np.float32], characters: Sequence[str]) -> list[str]:
    """The text of each row: the likeliest characters, repetitions and blanks left out."""
    texts = []
    for row in probabilities.argmax(-1):
        is_new = np.diff(row, prepend=-1) != 0
        texts.append("".join(characters[number] for number in row[is_new]))
    return texts
