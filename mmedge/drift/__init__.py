"""Drift: whether what sensors bring, and what encoders make of it, is still as it was calibrated.

=============================  ====================================================================
:mod:`~mmedge.drift.layout`    what a tensor is, and which statistics are taken of it
:mod:`~mmedge.drift.measure`   takes them: one look at a value
:mod:`~mmedge.drift.tails`     the level that a score passes at a stated rate
:mod:`~mmedge.drift.model`     limits of the statistics of a window of looks
:mod:`~mmedge.drift.profile`   the models of a bundle's modalities, in a file
:mod:`~mmedge.drift.learn`     learns them of what came
:mod:`~mmedge.drift.detector`  scores and alarms
=============================  ====================================================================
"""

from __future__ import annotations

from mmedge.drift.profile import DriftProfile, Reference

__all__ = ["DriftProfile", "Reference"]
