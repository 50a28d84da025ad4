"""Weights that two graphs have in common are stored once, though the graphs were saved apart."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["share_weights"]

#: Tensors begin at multiples of this in a data file, so that they can be mapped.
_ALIGNMENT = 4096


def share_weights(
    files: Mapping[str, Path], others: Mapping[str, Path], folder: Path
) -> tuple[dict[str, Path], int]:
    """Let a graph read what it has in common with others from their data.

    Args:
        files: the graph and its data, by path in the bundle, where they lie in one folder.
        others: graphs and data that stay as they are.
        folder: for what is written anew.

    Returns:
        The graph and its data, and how many bytes the data has less.
    """
    places: dict[bytes, tuple[str, int, int]] = {}
    for _, _, tensor, content in _tensors(others):
        places.setdefault(hashlib.sha256(content).digest(), _place(tensor))
    pieces: dict[str, list[tuple[onnx.TensorProto, bytes]]] = {}
    models: dict[str, onnx.ModelProto] = {}
    saved = 0
    for name, model, tensor, content in _tensors(files):
        models[name] = model
        place = places.get(hashlib.sha256(content).digest())
        if place is None:
            pieces.setdefault(name, []).append((tensor, content))
        else:
            saved += len(content)
            _point(tensor, *place)
    if not saved:
        return dict(files), 0
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    for name, model in models.items():
        data = f"{Path(name).name}.data"
        with (folder / data).open("wb") as stream:
            for tensor, content in pieces.get(name, ()):
                stream.write(bytes(-stream.tell() % _ALIGNMENT))
                _point(tensor, data, stream.tell(), len(content))
                stream.write(content)
        onnx.save(model, folder / Path(name).name)
        written[name] = folder / Path(name).name
        if pieces.get(name):
            written[f"{Path(name).parent.as_posix()}/{data}"] = folder / data
    return written, saved


def _tensors(
    files: Mapping[str, Path],
) -> Iterator[tuple[str, onnx.ModelProto, onnx.TensorProto, bytes]]:
    """Each weight that lies beside its graph: the graph's path, the graph, and the bytes."""
    for name, file in files.items():
        if not name.endswith(".onnx"):
            continue
        model = onnx.load(file, load_external_data=False)
        for tensor in model.graph.initializer:
            if tensor.external_data:
                location, offset, length = _place(tensor)
                with files[f"{Path(name).parent.as_posix()}/{location}"].open("rb") as stream:
                    stream.seek(offset)
                    yield name, model, tensor, stream.read(length)


def _place(tensor: onnx.TensorProto) -> tuple[str, int, int]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries["location"], int(entries.get("offset", 0)), int(entries["length"])


def _point(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
