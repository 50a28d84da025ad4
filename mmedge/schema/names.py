"""What names and paths a bundle may use, and the limits that keep a hostile one from costing much.

Everything here is stated in docs/reference/bundle.md; a change there or here is a change of both.
"""

from __future__ import annotations

import re

__all__ = [
    "DIGEST",
    "MANIFEST",
    "MAX_ATOL",
    "MAX_ELEMENTS",
    "MAX_FILES",
    "MAX_FLOPS",
    "MAX_LABELS_BYTES",
    "MAX_LATENCY_MS",
    "MAX_MANIFEST_BYTES",
    "MAX_PATH",
    "MAX_RANK",
    "MAX_RTOL",
    "MAX_SAMPLE_TENSORS",
    "MAX_SIGNATURE_BYTES",
    "MAX_STAGES",
    "MAX_TEXT",
    "MAX_VARIANTS",
    "NAME",
    "SAMPLES",
    "SHA256",
    "SIGNATURE",
    "TENSOR_NAME",
    "path_fault",
]

#: The file that describes all others, and the one that holds golden samples and absent tokens.
MANIFEST, SAMPLES = "manifest.json", "samples.safetensors"

#: The file that holds the manifest's own digest, as ``sha256sum`` writes it.
DIGEST = "manifest.sha256"

#: The file that holds signatures of the manifest: :mod:`mmedge.schema.release`.
SIGNATURE = "manifest.sig"

#: Bytes of that file.
MAX_SIGNATURE_BYTES = 16 << 10

#: Bytes of a manifest and of a labels file.
MAX_MANIFEST_BYTES, MAX_LABELS_BYTES = 1 << 20, 4 << 20

#: Files of a bundle, characters of a path, characters of a free text.
MAX_FILES, MAX_PATH, MAX_TEXT = 4096, 200, 4096

#: Elements of one tensor at a stage boundary with its dynamic dimensions at their ``opt`` size:
#: 2**31, past which 32-bit indices inside kernels overflow.
MAX_ELEMENTS = 1 << 31

#: Operations of one stage or move: 2**53, up to which float64 holds every integer, so that a JSON
#: reader that keeps all numbers as float64 reads the same.
MAX_FLOPS = 1 << 53

#: Stages and variants, and golden samples times tensors of each: a small manifest would otherwise
#: ask for work without end.
MAX_STAGES, MAX_VARIANTS, MAX_SAMPLE_TENSORS = 256, 64, 1 << 16

#: Largest tolerances, of which one says nothing any more, and latency in milliseconds.
MAX_RTOL, MAX_ATOL, MAX_LATENCY_MS = 2.0, 1e9, 1e9

#: Axes of one tensor: TensorRT's ``Dims::MAX_DIMS``.
MAX_RANK = 8

#: Modality, stage, dimension, backend, precision, target, library and metric names. They may
#: become file names and table cells.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")

#: Tensor names come from graphs, where exporters put scopes in. They never become file names.
TENSOR_NAME = re.compile(r"[A-Za-z0-9_./:-]{1,200}")

SHA256 = re.compile(r"[0-9a-f]{64}")

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


def path_fault(path: str) -> str | None:
    """Why ``path`` may not name a file of a bundle; None when it may.

    A path is relative, its parts are joined by ``/`` and each is plain ASCII that starts with a
    letter, a digit or ``_``: no hidden files, no ``.`` or ``..``, nothing a shell or another
    operating system reads as more than a name.
    """
    quoted = repr(path[:MAX_PATH])
    if len(path) > MAX_PATH:
        return f"path longer than {MAX_PATH} characters: {quoted}..."
    if path.startswith("/"):
        return f"absolute path {quoted}"
    if "\\" in path:
        return f"backslash in path {quoted}"
    if re.match(r"[A-Za-z]:", path):
        return f"drive letter in path {quoted}"
    for part in path.split("/"):
        if not part:
            return f"empty part in path {quoted}"
        if part in {".", ".."}:
            return f"{part!r} in path {quoted}"
        if not _PART.fullmatch(part):
            return f"unsafe characters in path {quoted}"
    return None
