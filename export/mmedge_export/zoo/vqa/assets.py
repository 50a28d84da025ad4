"""Makes ``tokenizer.json`` and, in mmedge-zoo, ``samples/vqa/``.

``python -m mmedge_export.zoo.vqa.assets`` rewrites them; the same data give the same files.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mmedge_export.zoo import data_files
from mmedge_export.zoo.vqa import questions, sample_set, tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Write both from easy-vqa and the spoken questions of ``mmedge-train``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="that of mmedge-train")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of samples")
    options = parser.parse_args(argv)
    tokenizer.build(questions.load("train").texts).save(str(tokenizer.PATH))
    sample_set.write(data_files.samples("vqa"), options.cache, options.seed)


if __name__ == "__main__":
    main()
