"""Makes ``docs/pictures/draw.png``: what ``zoo:draw`` draws of each color and shape.

``python docs/drawing.py`` exports the network and lets the bundle draw, each picture with the seed
of its place. Nothing is picked: what is wrong is shown, too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import mmedge
from mmedge_export import export
from mmedge_export.zoo import factory
from mmedge_export.zoo.draw.captions import COLORS, SHAPES, Caption
from mmedge_export.zoo.draw.drawing import to_bytes

PICTURE = Path(__file__).resolve().parent / "pictures" / "draw.png"


def main() -> None:
    """Write the picture: a column for each color, a row for each shape."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        export(factory("draw"), Path(folder) / "bundle").close()
        with mmedge.load(Path(folder) / "bundle", precision="fp32") as pipe:
            for row, shape in enumerate(SHAPES):
                captions = [Caption(color, shape).text for color in COLORS]
                first = row * len(COLORS)
                images = [
                    pipe(text=text, seed=first + column)["image"][0]
                    for column, text in enumerate(captions)
                ]
                rows.append(np.concatenate(images, axis=1))
    PICTURE.parent.mkdir(exist_ok=True)
    Image.fromarray(to_bytes(np.concatenate(rows))).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
