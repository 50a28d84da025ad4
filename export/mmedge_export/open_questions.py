"""How what was not checked is put: single lines, and the words that several places know by."""

from __future__ import annotations

__all__ = ["INVENTED", "LONGEST", "NOT_RUN", "line"]

#: ``provenance["samples"]`` of a bundle whose golden samples are the example and made-up inputs.
INVENTED = "invented"

#: What a variant leaves open that could not run, as none for CUDA can: export runs on the CPU.
NOT_RUN = "not run where it was made"

#: Characters of a line of what was not checked.
LONGEST = 240


def line(text: str) -> str:
    """``text`` as one printable line of :data:`LONGEST` characters at most."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return words if len(words) <= LONGEST else words[: LONGEST - 4] + " ..."
