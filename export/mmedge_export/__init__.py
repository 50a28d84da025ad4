"""The toolchain of mmedge: trained networks become bundles.

>>> from mmedge_export import Input, Model, export
>>> export(Model(net, {"image": Input(frame)}, ["logits"]), "net.mmedge")     # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmedge_export.export_bundle import export
    from mmedge_export.inputs import Input
    from mmedge_export.loops import Denoise, Generate, StateInput
    from mmedge_export.model import Model
    from mmedge_export.sources.source import SourceOptions

__all__ = ["Denoise", "Generate", "Input", "Model", "SourceOptions", "StateInput", "export"]

# Imported when they are first used: building engines on a device needs neither torch nor onnx.
_HOMES = {
    "Denoise": "mmedge_export.loops",
    "Generate": "mmedge_export.loops",
    "Input": "mmedge_export.inputs",
    "Model": "mmedge_export.model",
    "SourceOptions": "mmedge_export.sources.source",
    "StateInput": "mmedge_export.loops",
    "export": "mmedge_export.export_bundle",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
