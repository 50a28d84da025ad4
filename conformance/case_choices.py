"""Devices and bundles: which variant and plan run there and why, and threads of each stage."""

from __future__ import annotations

from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from case_files import write

from mmedge.backends import cores
from mmedge.bundle import Bundle
from mmedge.bundle.choose import choose_plan, is_proven, tuned_threads
from mmedge.errors import MMEdgeError, NoVariantError
from mmedge.spec import Device

__all__ = ["choose_all", "read_device", "write_choices"]

LIBRARIES = {"mmedge": "0.1.0", "onnxruntime": "1.30.0", "numpy": "2.3.1"}
NO_TENSORRT = {
    "tensorrt": "tensorrt is not installed: pip install 'mmedge[tensorrt]'",
    "tensorrt_rtx": "tensorrt-rtx is not installed: pip install 'mmedge[rtx]'",
}
NO_OPENVINO = {"openvino": "OpenVINO is not installed: pip install 'mmedge[openvino]'"}
NO_GPU = {"cuda": "no NVIDIA GPU: the driver library offers none to this process"}

DEVICES = {
    "two cores": Device(
        "CPU", ("ort",), ("cpu",), {**NO_OPENVINO, **NO_TENSORRT, **NO_GPU}, LIBRARIES, 2, 0
    ),
    "four cores": Device(
        "CPU", ("ort",), ("cpu",), {**NO_OPENVINO, **NO_TENSORRT, **NO_GPU}, LIBRARIES, 4, 0
    ),
    "eight cores and OpenVINO": Device(
        "CPU", ("ort", "openvino"), ("cpu",), {**NO_TENSORRT, **NO_GPU},
        {**LIBRARIES, "openvino": "2026.1.0"}, 8, 0,
    ),
    "Orin": Device(
        "Orin", ("ort", "tensorrt"), ("cpu", "cuda", "sm_87"),
        {**NO_OPENVINO, "tensorrt_rtx": NO_TENSORRT["tensorrt_rtx"]},
        {**LIBRARIES, "tensorrt": "10.3.0"}, 12, 0,
    ),
    "Orin with another TensorRT": Device(
        "Orin", ("ort", "tensorrt"), ("cpu", "sm_87"),
        {**NO_OPENVINO, "tensorrt_rtx": NO_TENSORRT["tensorrt_rtx"],
         "cuda": "ONNX Runtime here has no CUDA provider: pip install 'mmedge[cuda]'"},
        {**LIBRARIES, "tensorrt": "10.7.0"}, 12, 0,
    ),
    "RTX": Device(
        "RTX", ("ort", "tensorrt_rtx"), ("cpu", "cuda", "sm_89"),
        {**NO_OPENVINO, "tensorrt": NO_TENSORRT["tensorrt"]},
        {**LIBRARIES, "tensorrt-rtx": "1.2.0"}, 16, 0,
    ),
    "nothing installed": Device(
        "CPU", (), ("cpu",),
        {"ort": "ONNX Runtime is not installed: pip install 'mmedge[cpu]'", **NO_OPENVINO,
         **NO_TENSORRT, **NO_GPU},
        {"mmedge": "0.1.0"}, 2, 0,
    ),
}  # fmt: skip

#: What is asked for, beside nothing.
OPTIONS = (
    {},
    {"backend": "ort"},
    {"backend": "openvino"},
    {"precision": "int8"},
    {"target": "cpu"},
    {"target": "cuda"},
    {"variant": "ort-int8-cpu"},
    {"variant": "ort-int8-cpu", "precision": "fp32"},
    {"plan": "cut"},
    {"plan": "whole"},
    {"threads": 1},
    {"threads": 3},
)


def write_choices(folder: Path, bundles: Path) -> None:
    """Write the file to ``folder``."""
    devices = {name: _plain(device) for name, device in DEVICES.items()}
    cases: list[dict[str, Any]] = []
    for bundle, device, options in [
        *product(["variants"], DEVICES, OPTIONS),
        *product(["both", "captioner", "decoder", "painter", "sums", "tiny"], ["two cores"], ({},)),
        ("decoder", "four cores", {"variant": "ort-fp32-cpu-in_place"}),
        ("decoder", "nothing installed", {}),
        ("tiny", "two cores", {"variant": "ort-fp16-cpu"}),
        ("off", "two cores", {}),
    ]:
        cases.append({"bundle": bundle, "device": device, "options": options})
    chosen = choose_all(cases, devices, bundles)
    rows = [{**case, **row} for case, row in zip(cases, chosen, strict=True)]
    write(folder / "choices.json", {"devices": devices, "cases": rows})


def choose_all(
    cases: list[dict[str, Any]], devices: dict[str, Any], bundles: Path
) -> list[dict[str, Any]]:
    """What is decided in each case."""
    opened = {
        name: Bundle.open(bundles / f"{name}.mmedge") for name in {case["bundle"] for case in cases}
    }
    rows = [
        _choose(opened[case["bundle"]], read_device(devices[case["device"]]), case["options"])
        for case in cases
    ]
    for bundle in opened.values():
        bundle.close()
    return rows


def read_device(tree: dict[str, Any]) -> Device:
    """A device from JSON."""
    lists = ("backends", "targets", "gpus")
    return Device(**{k: tuple(v) if k in lists else v for k, v in tree.items()})


def _plain(device: Device) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(device).items()}


def _choose(bundle: Bundle, device: Device, options: dict[str, Any]) -> dict[str, Any]:
    select = {k: options[k] for k in ("variant", "backend", "precision", "target") if k in options}
    try:
        variant, decisions = bundle.select(device, **select)
    except NoVariantError as error:
        return {"error": "NoVariantError", "decisions": [asdict(d) for d in error.decisions]}
    except MMEdgeError as error:
        message = str(error).replace(f"{bundle.path}: ", "")
        return {"error": type(error).__name__, "message": message}
    row: dict[str, Any] = {"variant": variant.id, "decisions": [asdict(d) for d in decisions]}
    manifest = bundle.manifest
    try:
        row["plan"], row["why_plan"] = choose_plan(
            manifest, variant, device, plan=options.get("plan")
        )
    except MMEdgeError as error:
        return {**row, "error": type(error).__name__, "message": str(error)}
    threads = options.get("threads") or tuned_threads(variant, device)
    row["verified_at_load"] = not is_proven(manifest, variant)
    row["threads"] = {}
    usable = cores.usable_cores
    cores.usable_cores = lambda: device.cores
    try:
        stages = (*manifest.in_order(row["plan"]), *manifest.loop_stages())
        for stage in stages:
            alone = manifest.has_cores(stage)
            row["threads"][stage.name] = cores.stage_threads(stage, alone=alone, threads=threads)
    finally:
        cores.usable_cores = usable
    return row
