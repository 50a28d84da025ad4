"""``source.toml`` beside a network: the options of the command line, written down.

Its keys are the options without their dashes. Paths are relative to the file's folder.
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmedge.errors import ExportError
from mmedge_export.sources.example_file import read_example
from mmedge_export.sources.source import DimensionOption, SourceOptions, flags, parse_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["SETTINGS", "merge", "read_settings"]

#: What the file is called.
SETTINGS = "source.toml"


def read_settings(file: Path, name: str) -> SourceOptions | None:
    """What the file says.

    Args:
        file: its path.
        name: of the network's file or folder.

    Returns:
        None where ``file = "..."`` names another network.

    Raises:
        ExportError: it is no TOML, has a key that is none, or a value of another form.
    """
    try:
        said = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{file}: cannot be read as TOML: {error}") from error
    if said.pop("file", name) != name:
        return None
    if unknown := [key for key in said if key not in _KEYS]:
        raise ExportError(
            f"{file}: unknown key {', '.join(unknown)}; expected file, {', '.join(_KEYS)}"
        )
    values: dict[str, Any] = {}
    for key, value in said.items():
        field, form, convert = _KEYS[key]
        try:
            values[field] = convert(value, file.parent)
        except (TypeError, ValueError) as error:
            raise ExportError(f"{file}: {key} = {value!r}: expected {form}") from error
    dims = dict(values.get("dims", {}))
    for name, multiple in values.pop("multiples", {}).items():
        dims[name] = replace(dims.get(name, DimensionOption()), multiple=multiple)
    return SourceOptions(**{**values, "dims": dims})


def merge(said: SourceOptions, file: SourceOptions, path: Path) -> tuple[SourceOptions, list[str]]:
    """Options of the command line, and of the file where that is silent.

    Args:
        said: on the command line; it counts where both say something.
        file: what the file says.
        path: of the file, for remarks.

    Returns:
        The options, and remarks on what is taken from where.
    """
    values: dict[str, Any] = {}
    for name in file.names():
        ours, theirs = getattr(said, name), getattr(file, name)
        if isinstance(theirs, dict) and name != "example":
            values[name] = {**theirs, **ours}
        elif name not in said.names():
            values[name] = theirs
    taken = sorted(file.names() & values.keys())
    remarks = [f"{path.name} says {', '.join(flags(taken))}"] if taken else []
    for name in sorted(file.names() & said.names()):
        ours, theirs = getattr(said, name), getattr(file, name)
        if isinstance(theirs, dict) and name != "example":
            keys = [key for key in theirs if key in ours and ours[key] != theirs[key]]
            what = f" for {', '.join(keys)}" if keys else ""
        else:
            keys, what = [name], ""
        if keys:
            (flag,) = flags([name])
            remarks.append(f"{flag} of the command line counts{what}, and not that of {path.name}")
    return replace(said, **values), remarks


def _table(convert: Callable[[Any], Any]) -> Callable[[Any, Path], dict[str, Any]]:
    """A converter of a table with ``convert`` for each value."""

    def of(value: Any, folder: Path) -> dict[str, Any]:  # noqa: ANN401, ARG001 - whatever is written
        if not isinstance(value, dict):
            raise TypeError
        return {key: convert(each) for key, each in value.items()}

    return of


def _plain(convert: Callable[[Any], Any]) -> Callable[[Any, Path], Any]:
    return lambda value, folder: convert(value)  # noqa: ARG005 - as the others


def _text(value: Any) -> str:  # noqa: ANN401 - whatever is written
    if not isinstance(value, str) or not value:
        raise TypeError
    return value


def _whole(value: Any) -> int:  # noqa: ANN401
    if type(value) is not int or value < 1:
        raise TypeError
    return value


def _ids(value: Any) -> tuple[int, ...]:  # noqa: ANN401
    if not isinstance(value, list) or any(type(one) is not int or one < 0 for one in value):
        raise TypeError
    return tuple(value)


def _texts(value: Any) -> tuple[str, ...]:  # noqa: ANN401
    if not isinstance(value, list):
        raise TypeError
    return tuple(_text(one) for one in value)


def _rate(value: Any) -> float:  # noqa: ANN401
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise TypeError
    return float(value)


def _sizes(value: Any) -> DimensionOption:  # noqa: ANN401
    return DimensionOption.parse(str(value) if type(value) is int else _text(value))


def _path(value: Any, folder: Path) -> Path:  # noqa: ANN401
    return folder / _text(value)


#: Key -> the field of the options, what is expected, and how it is converted.
_KEYS: Mapping[str, tuple[str, str, Callable[[Any, Path], Any]]] = {
    "modality": ("modality", 'a table such as {text = ["ids", "mask"]}', _table(_texts)),
    "rate": ("rates", "a table of numbers above 0", _table(_rate)),
    "optional": ("optional", "a list of names", _plain(_texts)),
    "dim": ("dims", 'a table such as {batch = "1:8:64"}', _table(_sizes)),
    "multiple": ("multiples", "a table of whole numbers", _table(_whole)),
    "example": ("example", "a path", lambda value, folder: read_example(_path(value, folder))),
    "samples": ("samples", "a path", _path),
    "rename": ("rename", "a table of names", _table(_text)),
    "state": ("states", "a table of names", _table(_text)),
    "decoder": ("decoder", "a path", _path),
    "token": ("token", "a name", _plain(_text)),
    "logits": ("logits", "a name", _plain(_text)),
    "position": ("position", "a name", _plain(_text)),
    "start": ("start", "a list of token ids", _plain(_ids)),
    "stop": ("stop", "a list of token ids", _plain(_ids)),
    "limit": ("limit", "a whole number", _plain(_whole)),
    "tokenizer": ("tokenizer", "a path", _path),
    "frame": ("frame", 'a text such as "480x640"', _plain(lambda value: parse_frame(_text(value)))),
    "task": ("task", "a text", _plain(_text)),
    "language": ("language", "a text", _plain(_text)),
}
