"""mmedge: run verified bundles of multimodal fusion networks on edge devices.

>>> import mmedge
>>> with mmedge.load("vqa.mmedge") as pipe:          # doctest: +SKIP
...     answer = pipe(image=frame, text="what color is the shape?")["answer"]

The toolchain that makes bundles is the package ``mmedge_export``; nothing here needs torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from mmedge.errors import (
    AccuracyError,
    BackendError,
    BundleError,
    ExportError,
    InputError,
    MMEdgeError,
    NoVariantError,
    SignatureError,
)

if TYPE_CHECKING:
    from mmedge.bench.report.report import Report
    from mmedge.bundle import Bundle
    from mmedge.bundle.private_key import generate_key
    from mmedge.bundle.sign import sign_bundle
    from mmedge.execution.state import State
    from mmedge.loader import load
    from mmedge.pipeline import Pipeline
    from mmedge.stream import Stream

    __version__: str

__all__ = [
    "AccuracyError",
    "BackendError",
    "Bundle",
    "BundleError",
    "ExportError",
    "InputError",
    "MMEdgeError",
    "NoVariantError",
    "Pipeline",
    "Report",
    "SignatureError",
    "State",
    "Stream",
    "__version__",
    "generate_key",
    "load",
    "sign_bundle",
]

# ONNX Runtime (1.32) looks up a host, and writes a device id and a database of events into the
# user's cache folder, as soon as it is imported, and only then does it read this variable. It holds
# for the runtime, the toolchain and child processes; who sets it to another value decides.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

#: Where the names live that are imported on first use, so that importing mmedge costs next to
#: nothing: an application may import it long before, or without, loading a bundle.
_HOMES = {
    "Bundle": "mmedge.bundle",
    "Pipeline": "mmedge.pipeline",
    "Report": "mmedge.bench.report.report",
    "State": "mmedge.execution.state",
    "Stream": "mmedge.stream",
    "generate_key": "mmedge.bundle.private_key",
    "load": "mmedge.loader",
    "sign_bundle": "mmedge.bundle.sign",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        globals()[name] = version("mmedge")
        return globals()[name]
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
