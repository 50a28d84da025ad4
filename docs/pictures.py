"""Makes the pictures of the README: how the reference network is cut, and a report's page.

``python docs/pictures.py`` exports and measures the reference network anew, and writes
``docs/pictures/cut.svg`` and ``docs/pictures/report.png``. It needs Chromium for the second; on a
busy machine the report says so, and so does its picture.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PICTURES = Path(__file__).resolve().parent / "pictures"
#: Pixels of the page that are shown, from its head to where the time goes, and by how much the
#: picture is smaller.
WIDTH, HEIGHT, SHRINK = 1000, 2420, 0.65


def main() -> None:
    """Write both pictures."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("no Chromium here: apt-get install chromium")
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        bundle, page = Path(folder) / "vqa.mmedge", Path(folder) / "report.html"
        mmedge("export", "zoo:vqa-attention", "-o", bundle)
        mmedge("inspect", bundle, "--svg", PICTURES / "cut.svg")
        mmedge("bench", bundle, "--plan", "cut", "--deadline", "10", "--html", page)
        run(
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
            f"--window-size={WIDTH},{HEIGHT}",
            f"--screenshot={PICTURES / 'report.png'}",
            page.as_uri(),
        )
    from PIL import Image

    # The page has few colors: a palette makes the file a fraction as large.
    with Image.open(PICTURES / "report.png") as picture:
        size = (round(WIDTH * SHRINK), round(HEIGHT * SHRINK))
        small = picture.convert("RGB").resize(size)
        small.quantize(128).save(PICTURES / "report.png", optimize=True)


def mmedge(*words: str | Path) -> None:
    """Run a verb of the command line."""
    run(sys.executable, "-m", "mmedge", *words)


def run(*words: str | Path) -> None:
    """Run a program; its failure is this script's."""
    subprocess.run([str(word) for word in words], check=True, stdout=sys.stderr)  # noqa: S603


if __name__ == "__main__":
    main()
