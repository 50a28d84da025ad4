"""Bundles: one directory, or the same tree in one uncompressed zip, checked before it is used.

========================  ======================================================================
:mod:`~mmedge.bundle.archive`    the two forms behind one protocol
:mod:`~mmedge.bundle.directory`  a directory: no links, no devices, nothing swapped unseen
:mod:`~mmedge.bundle.zipped`     a strict reader of stored zips, zero-copy
:mod:`~mmedge.bundle.identity`   what tells a file from another in its place
:mod:`~mmedge.bundle.digests`   SHA-256 of its files, while graphs are read
:mod:`~mmedge.bundle.protobuf`   protobuf's wire format, strictly and within a budget
:mod:`~mmedge.bundle.onnxgraph`  an ONNX file as nodes and constants, without the onnx package
:mod:`~mmedge.bundle.operators`  operators that a bundle may call, and what they must not be given
:mod:`~mmedge.bundle.integers`   integer divisions that could end the process
:mod:`~mmedge.bundle.onnxfile`   what an ONNX graph reaches for, and whether it may be run
:mod:`~mmedge.bundle.load`       the checks that every bundle passes before anything is read of it
:mod:`~mmedge.bundle.signature`  whose signature a bundle has, and how old its release is
:mod:`~mmedge.bundle.sign`       signing a bundle
:mod:`~mmedge.bundle.private_key`  keys that sign
:mod:`~mmedge.bundle.variants`   the manifest where a variant comes or goes
:mod:`~mmedge.bundle.samples`    golden samples and absent tokens in safetensors
:mod:`~mmedge.bundle.choose`     which variant suits a device, and why
:mod:`~mmedge.bundle.device_cache`  what a device measured of a bundle, kept beside it
:mod:`~mmedge.bundle.device_engines`  engines that a device built of a bundle, kept there too
:mod:`~mmedge.bundle.write`      writing a bundle in one step that either happens or does not
:mod:`~mmedge.bundle.place`      staging, locks, and exchanging the new for the old
========================  ======================================================================
"""

from __future__ import annotations

from mmedge.bundle.bundle import Bundle

__all__ = ["Bundle"]
