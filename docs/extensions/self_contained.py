"""Warns of pages that would load something from the network: the site is read offline, too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.util import logging

if TYPE_CHECKING:
    from sphinx.application import Sphinx

#: What a browser fetches by itself; links that a reader follows (<a>) may lead elsewhere.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=["'](?:https?:)?//"""
    r"""|<link\b[^>]*\brel=["'](?:stylesheet|icon|preload|preconnect)[^>]*href=["'](?:https?:)?//"""
    r"""|@import\s+(?:url\()?["']?(?:https?:)?//|url\(["']?(?:https?:)?//"""
)


def check(app: Sphinx, error: Exception | None) -> None:
    """Look at every page and style sheet that was written."""
    if error is not None or app.builder.format != "html":
        return
    for path in sorted(Path(app.outdir).rglob("*")):
        if path.suffix in {".html", ".css"}:
            for fetched in FETCHED.finditer(path.read_text(encoding="utf-8")):
                logging.getLogger(__name__).warning(
                    "%s loads from the network: %s",
                    path.relative_to(app.outdir), fetched[0],
                )  # fmt: skip


def setup(app: Sphinx) -> dict[str, bool]:
    """Check when the build has ended."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
