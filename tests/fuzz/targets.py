"""The parsers that take what others wrote, each with its contract.

A parser takes any bytes, and takes them in or raises the errors named here, within
:data:`SECONDS` and :data:`MEMORY_BYTES`. Everything else is a fault.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fuzz.mutate import Mutator, mutate_bytes, mutate_json, mutate_protobuf, mutate_safetensors

from mmedge.bench.report.compare import compare
from mmedge.bench.report.report import Report
from mmedge.bundle.archive import open_archive
from mmedge.bundle.onnxfile import check_graph
from mmedge.bundle.samples import samples_from_bytes
from mmedge.bundle.signature import public_key_from_pem, public_key_to_pem
from mmedge.errors import BundleError, InputError, MMEdgeError
from mmedge.execution.text import TextEncoder, load_tokenizer
from mmedge.recording import open_recording
from mmedge.schema import labels_from_json, manifest_from_json, manifest_to_json
from mmedge.schema.release import (
    envelope_from_bytes,
    envelope_to_bytes,
    release_from_bytes,
    release_to_bytes,
)
from mmedge.spec import Dimension, Manifest, TensorSpec, Tokenizer

SECONDS, MEMORY_BYTES = 5.0, 512 << 20

CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Target:
    """A parser: what it is called with, what it may raise, how its inputs are changed."""

    name: str
    run: Callable[[bytes], None]
    errors: tuple[type[MMEdgeError], ...]
    mutate: Mutator

    def seeds(self) -> list[bytes]:
        """Good inputs, and those that were faults once."""
        return [path.read_bytes() for path in sorted((CORPUS / self.name).iterdir())]


_FOLDER: list[Path] = []


def _place(name: str) -> Path:
    """A path in a private folder of this process, in memory where the system has such a place."""
    if not _FOLDER or not _FOLDER[0].name.endswith(f"-{os.getpid()}"):
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        _FOLDER[:] = [
            Path(tempfile.mkdtemp(prefix="mmedge-fuzz-", suffix=f"-{os.getpid()}", dir=memory))
        ]
    return _FOLDER[0] / name


def clean() -> None:
    """Remove what this process put on the disk."""
    if _FOLDER and _FOLDER[0].name.endswith(f"-{os.getpid()}"):
        shutil.rmtree(_FOLDER.pop(), ignore_errors=True)


def _manifest(data: bytes) -> None:
    with contextlib.suppress(BundleError):
        labels_from_json(data, source="x")
    manifest = manifest_from_json(data, source="x")
    manifest.in_order()
    if manifest_from_json(manifest_to_json(manifest)) != manifest:
        raise AssertionError("what is written is not what was read")


def _signature(data: bytes) -> None:
    payload = data
    if not data.startswith(b'{"manifest"'):  # a statement alone, so that it is changed, too
        envelope = envelope_from_bytes(data, source="x")
        if envelope_to_bytes(envelope) != data:
            raise AssertionError("an envelope has more than one form")
        payload = envelope.payload
    release = release_from_bytes(payload, source="x")
    if release_to_bytes(release) != payload:
        raise AssertionError("a statement has more than one form")


def _public_key(data: bytes) -> None:
    key = public_key_from_pem(data, source="x")
    if public_key_from_pem(public_key_to_pem(key).encode(), source="x") != key:
        raise AssertionError("what is written is not what was read")


def _zip(data: bytes) -> None:
    path = _place("b.mmedge")
    path.write_bytes(data)
    archive = open_archive(path)
    try:
        if sum(archive.sizes.values()) > len(data):
            raise AssertionError("entries hold more than the file")
        for name in archive.sizes:
            archive.digester(name)()
    finally:
        archive.close()


_SIZES = {"onnx/net.onnx": 1000, "onnx/net.onnx.data": 424, "manifest.json": 5000}


def _graph(data: bytes) -> None:
    check_graph(memoryview(data), "onnx/net.onnx", _SIZES, "x")


_TINY: list[Manifest] = []


def _samples(data: bytes) -> None:
    if not _TINY:
        seed = (CORPUS / "manifest/tiny.json").read_bytes()
        _TINY.append(manifest_from_json(seed))
    samples_from_bytes(data, _TINY[0], source="x")


_TOKENS = {
    "ids": TensorSpec("ids", "int64", ("batch", "tokens")),
    "mask": TensorSpec("mask", "bool", ("batch", "tokens")),
}
_TEXTS = ("red ball", "", "\ud800", "é" * 60, "a b c d e f g h", "\0\n\t")


def _tokenizer(data: bytes) -> None:
    loaded = load_tokenizer(data, "x")
    encoder = TextEncoder(
        loaded, Tokenizer("x", "ids", "mask"), _TOKENS, {"tokens": Dimension(1, 8, 64)}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for text in _TEXTS:
            with contextlib.suppress(InputError):
                encoder.encode(text)


def _mcap(data: bytes) -> None:
    path = _place("r.mcap")
    path.write_bytes(data)
    for _ in itertools.islice(open_recording(path), 1000):
        pass


def frame(files: dict[str, bytes]) -> bytes:
    """A folder's files in one input."""
    return b"".join(
        bytes([len(name)]) + name.encode() + len(data).to_bytes(4, "little") + data
        for name, data in files.items()
    )


def _folder(data: bytes) -> None:
    folder = _place("r")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    at = 0
    while at < len(data):
        name = data[at + 1 : at + 1 + data[at]].decode("ascii", "replace").replace("/", "_")
        at += 1 + data[at]
        size = int.from_bytes(data[at : at + 4], "little")
        if name.strip(".\0") and "\0" not in name and len(name) < 100:
            (folder / name).write_bytes(data[at + 4 : at + 4 + size])
        at += 4 + size
    for _ in itertools.islice(open_recording(folder), 1000):
        pass


_BASELINE: list[Report] = []


def _report(data: bytes) -> None:
    if not _BASELINE:
        _BASELINE.append(Report.from_json(CORPUS / "report/one.json"))
    path = _place("r.json")
    path.write_bytes(data)
    report = Report.from_json(path)
    compare(_BASELINE[0], report)
    compare(report, _BASELINE[0])


TARGETS = {
    target.name: target
    for target in (
        Target("manifest", _manifest, (BundleError,), mutate_json),
        # A kept form has no room for other JSON: bytes are what finds the rest.
        Target("signature", _signature, (BundleError,), mutate_bytes),
        Target("public-key", _public_key, (BundleError,), mutate_bytes),
        Target("zip", _zip, (BundleError,), mutate_bytes),
        Target("graph", _graph, (BundleError,), mutate_protobuf),
        Target("samples", _samples, (BundleError,), mutate_safetensors),
        Target("tokenizer", _tokenizer, (BundleError,), mutate_json),
        Target("recording-mcap", _mcap, (InputError,), mutate_bytes),
        Target("recording-folder", _folder, (InputError,), mutate_bytes),
        Target("report", _report, (InputError,), mutate_json),
    )
}
