"""Guided by coverage: python tests/fuzz/with_atheris.py TARGET [libFuzzer's options] [CORPUS].

For example ``manifest -runs=1000000 found/``, where the folder takes what is new. Needs
``pip install atheris`` beside mmedge. What is a fault belongs into tests/fuzz/corpus/TARGET, under
a name that begins with ``fault-``.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from random import Random

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

with atheris.instrument_imports(include=["mmedge", "mcap"]):
    from fuzz.targets import CORPUS, TARGETS


def main() -> None:
    """The command."""
    name, *options = sys.argv[1:]
    target = TARGETS[name]
    seeds = target.seeds()

    def run(data: bytes) -> None:
        with contextlib.suppress(target.errors):
            target.run(data)

    def change(data: bytes, most: int, seed: int) -> bytes:
        return target.mutate(bytes(data), Random(seed), seeds)[:most]

    limits = ["-timeout=5", "-rss_limit_mb=2048", "-max_len=262144"]
    atheris.Setup([sys.argv[0], *limits, *options, str(CORPUS / name)], run, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
