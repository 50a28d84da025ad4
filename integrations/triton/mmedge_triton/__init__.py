"""Serves mmedge's bundles with Triton Inference Server: writes its model repository.

>>> from mmedge_triton import write_model
>>> write_model("vqa.mmedge", "model_repository")          # doctest: +SKIP
"""

from __future__ import annotations

from mmedge_triton.repository import ServedModel, write_model

__all__ = ["ServedModel", "write_model"]
