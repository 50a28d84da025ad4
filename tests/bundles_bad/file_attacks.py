"""Attacks by way of a directory's files, its samples and its labels."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
from bundles_bad.attack import Attack, on_directory, on_file
from safetensors.numpy import load, save
from tiny import GRAPH, LABELS, WEIGHTS

from mmedge.schema import SAMPLES


def _flip(path):
    data = bytearray((path / WEIGHTS).read_bytes())
    data[100] ^= 1
    (path / WEIGHTS).write_bytes(data)


def _link_file(path):
    shutil.move(path / LABELS, path.parent / "labels.json")
    (path / LABELS).symlink_to(path.parent / "labels.json")


def _link_folder(path):
    shutil.move(path / "assets", path.parent / "assets")
    (path / "assets").symlink_to(path.parent / "assets")


def _link_manifest(path):
    shutil.move(path / "manifest.json", path.parent / "m.json")
    (path / "manifest.json").symlink_to(path.parent / "m.json")


def _pipe(path):
    (path / LABELS).unlink()
    os.mkfifo(path / LABELS)


def _crowd(path):
    for i in range(4100):
        (path / f"f{i}").touch()


def _samples(change):
    def rewrite(data):
        arrays = load(data)
        change(arrays)
        return save(arrays)

    return on_file(SAMPLES, rewrite)


def _replaced(key, array):
    return _samples(lambda arrays: arrays.update({key: array}))


def _hard_link(path):
    (path / "assets/copies").mkdir()
    for i in range(200):
        os.link(path / WEIGHTS, path / f"assets/copies/{i}")


def _sparse(path):
    with (path / WEIGHTS).open("r+b") as file:
        file.truncate(64 << 30)


def _circle(path):
    shutil.rmtree(path)
    path.symlink_to(path)


def _header(shape):
    """A samples file whose header gives one tensor another shape."""

    def change(data):
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        header["0.in.image"]["shape"] = shape
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + size :]

    return on_file(SAMPLES, change)


IMAGE = r"tensor '0\.in\.image': expected image: uint8\[batch, 4, 4, 3\].*got "

ATTACKS = [
    Attack("altered byte", f"{WEIGHTS} is altered: expected SHA-256", on_directory(_flip)),
    Attack(
        "missing file",
        f"missing file {GRAPH}",
        on_directory(lambda path: (path / GRAPH).unlink()),
    ),
    Attack(
        "extra file",
        "extra file, not listed in the manifest: onnx/more",
        on_directory(lambda path: (path / "onnx/more").write_bytes(b"x")),
    ),
    Attack(
        "hidden file",
        r"unsafe characters in path 'onnx/\.x'",
        on_directory(lambda path: (path / "onnx/.x").write_bytes(b"x")),
    ),
    Attack("link to a file", f"{LABELS} is a link", on_directory(_link_file)),
    Attack("link to a folder", "assets is a link", on_directory(_link_folder)),
    Attack("manifest as a link", r"manifest\.json is a link", on_directory(_link_manifest)),
    Attack("200 names of one file", r"are one file \(hard links\)", on_directory(_hard_link)),
    Attack("sparse file of 64 GiB", r"is sparse: 68719476736 bytes", on_directory(_sparse)),
    Attack("links in a circle", "cannot be read", on_directory(_circle)),
    Attack("named pipe", f"{LABELS} is a device, pipe or socket", on_directory(_pipe)),
    Attack("files without end", "more than 4096 files", on_directory(_crowd)),
    Attack(
        "truncated safetensors",
        "samples.safetensors: not safetensors",
        on_file(SAMPLES, lambda data: data[:-8]),
        late=True,
    ),
    Attack(
        "safetensors with a huge header",
        "not safetensors",
        on_file(SAMPLES, lambda data: b"\xff" * 7 + b"\x7f" + data[8:]),
        late=True,
    ),
    Attack("70 axes", "not safetensors", _header([1] * 69 + [48]), late=True),
    Attack("size of 2^63", "not safetensors", _header([1 << 63]), late=True),
    Attack("size of 2^64", "not safetensors", _header([1 << 64]), late=True),
    Attack(
        "header of 17 MB",
        "a header of 18000456 bytes, expected at most 16777216",
        _header([1] * 6_000_000),
        late=True,
    ),
    Attack(
        "golden outputs that are NaN",
        r"output 'score' is NaN in 75% of its golden values, expected at most 50%",
        _replaced("1.out.score", np.full((3, 2), np.nan, np.float32)),
        late=True,
    ),
    Attack(
        "sample of another dtype",
        IMAGE + r"int32\[1, 4, 4, 3\]",
        _replaced("0.in.image", np.zeros((1, 4, 4, 3), np.int32)),
        late=True,
    ),
    Attack(
        "sample of a dtype that no bundle uses",
        "'0.in.image' has dtype C64",
        _replaced("0.in.image", np.zeros((1, 4, 4, 3), np.complex64)),
        late=True,
    ),
    Attack(
        "sample of another rank",
        IMAGE + r"uint8\[4, 4, 3\]",
        _replaced("0.in.image", np.zeros((4, 4, 3), np.uint8)),
        late=True,
    ),
    Attack(
        "sample of another shape",
        IMAGE + r"uint8\[1, 4, 5, 3\]",
        _replaced("0.in.image", np.zeros((1, 4, 5, 3), np.uint8)),
        late=True,
    ),
    Attack(
        "sample past its dimension",
        IMAGE + r"uint8\[5, 4, 4, 3\]",
        _replaced("0.in.image", np.zeros((5, 4, 4, 3), np.uint8)),
        late=True,
    ),
    Attack(
        "sample with two sizes of one dimension",
        r"tensor '0\.in\.text': expected text.*got int64\[2, 5\]",
        _replaced("0.in.text", np.zeros((2, 5), np.int64)),
        late=True,
    ),
    Attack(
        "missing sample",
        r"missing tensor '1\.out\.score'",
        _samples(lambda arrays: arrays.pop("1.out.score")),
        late=True,
    ),
    Attack(
        "extra sample",
        r"unknown tensor '2\.in\.image'",
        _replaced("2.in.image", np.zeros((1, 4, 4, 3), np.uint8)),
        late=True,
    ),
    Attack(
        "labels that are no strings",
        r"labels\.json: \$\[1\]: expected a string, got an object",
        on_file(LABELS, lambda data: b'["a", {"b": 1}]'),
        late=True,
    ),
]
