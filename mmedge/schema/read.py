"""Readers: small functions that turn a decoded JSON value into a typed one, or say where it fails.

A reader takes the value and its JSON path. Readers of plain values are combined by
:func:`array`, :func:`table`, :func:`record` and :func:`nullable` into the reader of a manifest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mmedge.schema.names import MAX_MANIFEST_BYTES, MAX_TEXT, path_fault

if TYPE_CHECKING:
    import re

__all__ = [
    "Misfit",
    "Reader",
    "array",
    "boolean",
    "decode",
    "integer",
    "members",
    "nullable",
    "number",
    "one_of",
    "path",
    "record",
    "show",
    "table",
    "text",
]

T = TypeVar("T")
Reader = Callable[[Any, str], T]


class Misfit(ValueError):  # noqa: N818 - carries a fault to manifest_from_json, which raises the error
    """A value at ``where`` (a JSON path) is not what the schema expects."""

    def __init__(self, where: str, expected: str, got: str) -> None:
        super().__init__(f"{where}: expected {expected}, got {got}")


class _Duplicated(NamedTuple):
    """Stands for an object that holds ``key`` twice, until its place in the tree is known."""

    key: str


def decode(data: bytes | str, *, most: int = MAX_MANIFEST_BYTES) -> object:
    """JSON as Python values, before any schema.

    Raises:
        Misfit: more than ``most`` bytes, not UTF-8, not JSON, or nested too deeply.
    """
    size = len(data)
    if size > most:
        raise Misfit("$", f"at most {most} bytes of JSON", f"{size} bytes")
    try:
        decoded = data if isinstance(data, str) else data.decode("utf-8")
        tree: object = json.loads(decoded, object_pairs_hook=_object_of_pairs)
    except RecursionError as error:
        raise Misfit("$", "a JSON object", "lists or objects nested too deeply") from error
    except ValueError as error:  # not UTF-8, not JSON, or a number with thousands of digits
        raise Misfit("$", "a JSON object", f"what is not JSON ({error})") from error
    return tree


def _object_of_pairs(pairs: list[tuple[str, object]]) -> dict[str, object] | _Duplicated:
    mapping = dict(pairs)
    if len(mapping) == len(pairs):  # without a loop: a vocabulary has 100,000 keys
        return mapping
    keys: set[str] = set()
    return _Duplicated(next(key for key, _ in pairs if key in keys or keys.add(key)))  # type: ignore[func-returns-value]


def show(value: object) -> str:
    """A value as an error message names it: short, and with nothing a terminal would act on."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    quoted = ascii(value)
    return quoted if len(quoted) <= 80 else f"{quoted[:77]}..."


def members(value: object, where: str) -> dict[str, object]:
    """The members of a JSON object whose keys are all different."""
    if isinstance(value, _Duplicated):
        raise Misfit(where, "each key once", f"duplicate key {show(value.key)}")
    if not isinstance(value, dict):
        raise Misfit(where, "an object", show(value))
    return value


def text(pattern: re.Pattern[str] | None = None) -> Reader[str]:
    """A string that ``pattern`` matches as a whole; without one, printable characters."""

    def read(value: object, where: str) -> str:
        if not isinstance(value, str):
            raise Misfit(where, "a string", show(value))
        if pattern is not None and not pattern.fullmatch(value):
            raise Misfit(where, f"text of the form {pattern.pattern}", show(value))
        if len(value) > MAX_TEXT or not value.isprintable():
            raise Misfit(where, f"at most {MAX_TEXT} printable characters", show(value))
        return value

    return read


def path(value: object, where: str) -> str:
    """A path in the bundle that breaks no rule of :func:`mmedge.schema.path_fault`."""
    name = text()(value, where)
    if fault := path_fault(name):
        raise Misfit(where, "a relative path inside the bundle", fault)
    return name


def one_of(options: Iterable[str]) -> Reader[Any]:
    """One of a few strings."""
    choices = tuple(options)

    def read(value: object, where: str) -> str:
        if not isinstance(value, str) or value not in choices:
            raise Misfit(where, f"one of {', '.join(choices)}", show(value))
        return value

    return read


def integer(least: int, most: int) -> Reader[int]:
    """A whole number, written without a point, between two limits."""

    def read(value: object, where: str) -> int:
        if type(value) is not int or not least <= value <= most:
            raise Misfit(where, f"a whole number from {least} to {most}", show(value))
        return value

    return read


def number(
    *, above: float = -math.inf, least: float = -math.inf, most: float = math.inf
) -> Reader[float]:
    """A finite number, greater than ``above``, at least ``least`` and at most ``most``."""
    limits = [f" above {above:g}"] * (above > -math.inf) + [f" from {least:g}"] * (
        least > -math.inf
    )
    ends = f" to {most:g}" if most < math.inf else ""
    expected = f"a finite number{' and'.join(limits)}{ends}"

    def read(value: object, where: str) -> float:
        try:
            result = float(value) if type(value) in {int, float} else math.nan  # type: ignore[arg-type]
        except OverflowError:
            result = math.inf
        if not (math.isfinite(result) and result > above and least <= result <= most):
            raise Misfit(where, expected, show(value))
        return result

    return read


def boolean(value: object, where: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise Misfit(where, "true or false", show(value))
    return value


def nullable(reader: Reader[T]) -> Reader[T | None]:
    """What ``reader`` reads, or null."""
    return lambda value, where: None if value is None else reader(value, where)


def array(reader: Reader[T], *, least: int = 0, most: int = 4096) -> Reader[tuple[T, ...]]:
    """A list of between ``least`` and ``most`` items that ``reader`` reads."""

    def read(value: object, where: str) -> tuple[T, ...]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise Misfit(where, f"a list of {least} to {most}", show(value))
        return tuple(reader(item, f"{where}[{index}]") for index, item in enumerate(value))

    return read


def table(key: Reader[str], reader: Reader[T], *, most: int = 4096) -> Reader[dict[str, T]]:
    """An object with free keys: each is read by ``key`` and its value by ``reader``."""

    def read(value: object, where: str) -> dict[str, T]:
        entries = members(value, where)
        if len(entries) > most:
            raise Misfit(where, f"at most {most} members", str(len(entries)))
        return {
            key(name, f"{where} key {show(name)}"): reader(item, f"{where}[{show(name)}]")
            for name, item in entries.items()
        }

    return read


def record(make: Callable[..., T], **fields: Reader[Any]) -> Reader[T]:
    """An object with exactly these fields, each read by its reader, given to ``make``."""

    def read(value: object, where: str) -> T:
        entries = members(value, where)
        _check_fields(entries, tuple(fields), where)
        return make(
            **{name: reader(entries[name], f"{where}.{name}") for name, reader in fields.items()}
        )

    return read


def _check_fields(entries: dict[str, object], fields: Sequence[str], where: str) -> None:
    for name in entries:
        if name not in fields:
            raise Misfit(where, f"the fields {', '.join(fields)}", f"unknown field {show(name)}")
    for name in fields:
        if name not in entries:
            raise Misfit(f"{where}.{name}", "a value", "a missing field")
