"""Where the C and C++ SDK of this installation lies: ``python -m mmedge.sdk --help``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mmedge.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["folder", "main"]

#: What each option prints, relative to :func:`folder`.
PARTS = {
    "include-dir": "include",
    "library-dir": "lib",
    "cmake-dir": "lib/cmake/mmedge",
    "pkgconfig-dir": "lib/pkgconfig",
}


def folder() -> Path:
    """The folder that holds ``include`` and ``lib``.

    Raises:
        BackendError: this installation has none.
    """
    # Of an editable install, what was compiled lies beside other packages, not beside this file.
    places = (Path(__file__).parent, *(Path(part) / "mmedge" for part in sys.path))
    for place in places:
        if (place / "sdk" / "include").is_dir():
            return place / "sdk"
    raise BackendError(
        "this installation of mmedge has no C++ SDK: it was built with -C wheel.cmake=false; "
        "install it again without that option, or run cmake -S cpp_ext"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print one folder of the SDK."""
    parser = argparse.ArgumentParser(prog="python -m mmedge.sdk", description=__doc__)
    group = parser.add_mutually_exclusive_group()
    for name, part in PARTS.items():
        group.add_argument(
            f"--{name}", dest="part", action="store_const", const=part, help=f"print {part}"
        )
    print(folder() / (parser.parse_args(argv).part or "."))  # noqa: T201 - for a shell


if __name__ == "__main__":
    main()
