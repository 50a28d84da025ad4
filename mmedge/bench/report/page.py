"""A report as one HTML page: the template beside this module with the report's data inside.

Names in a report come from a bundle, which anyone can write. They reach the page as JSON in a data
block that no text can close, and its script puts them into the document as text only. The policy
in the page's head lets nothing run or load but the template's own script and style.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from mmedge.bench.report.report import Report

__all__ = ["render"]

#: HTML ends a script block at ``</script`` and changes its parsing at ``<!--``, wherever they
#: stand; JSON may write these characters as escapes inside its strings, and has ``<`` nowhere else.
ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def render(report: Report, path: str | os.PathLike[str] | None = None) -> str:
    """The page as HTML text, also written to ``path`` (UTF-8).

    It refers to no other file and needs no network.

    Raises:
        ValueError: a number of the report is not finite.
    """
    template = files("mmedge.bench.report").joinpath("page.html").read_text(encoding="utf-8")
    data = json.dumps(report.to_dict(), allow_nan=False, separators=(",", ":")).translate(ESCAPES)
    policy = (
        f"default-src 'none'; script-src {_digest(template, 'script')}; "
        f"style-src {_digest(template, 'style')}; base-uri 'none'; form-action 'none'"
    )
    text = template.replace("{{policy}}", policy).replace("{{report}}", data)
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text


def _digest(template: str, tag: str) -> str:
    """The source that admits the template's own ``tag`` block to a Content-Security-Policy."""
    [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
