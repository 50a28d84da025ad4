"""Makes the JSON Schema of the report from the types of its sections and their docstrings.

A :class:`typing.TypedDict` becomes an object, the words of its docstring the descriptions, and the
metadata of an annotation its limits. One that several keys share stands once, under ``$defs``.
"""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from mmedge.bench.report import loop_sections, sections
from mmedge.bench.report.report import OPTIONAL, REPORT_VERSION, Report

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Type of Python -> type of JSON, of values that hold no others.
PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}
#: Keywords of JSON Schema by the name of a limit.
KEYWORDS = {"min_items": "minItems", "max_items": "maxItems"}


def report_schema() -> str:
    """The file ``report.schema.json``."""
    hints = types_of(Report)
    uses = Counter(section for hint in hints.values() for section in inside(hint))
    shared = [section for section, count in uses.items() if count > 1]
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:mmedge:report:{REPORT_VERSION}",
        "title": f"Report of mmedge bench, version {REPORT_VERSION}",
        **record(Report, shared),
        "$defs": {section.__name__: described(section, shared) for section in shared},
    }
    return json.dumps(schema, indent=2) + "\n"


def types_of(section: type) -> dict[str, Any]:
    """The type of each key; the report imports those of its sections for mypy alone."""
    names = {**vars(sections), **vars(loop_sections), "Mapping": Mapping, "Sequence": Sequence}
    return get_type_hints(section, localns=names, include_extras=True)


def inside(hint: Any) -> Iterator[type]:  # noqa: ANN401
    """Every section in a type, one after another for each key that holds it."""
    if is_typeddict(hint):
        yield hint
        for inner in types_of(hint).values():
            yield from inside(inner)
    for inner in get_args(hint):
        yield from inside(inner)


def described(section: type, shared: list[type]) -> dict[str, Any]:
    """A section that no key describes: an item of a list or of a table."""
    words, _ = descriptions(section)
    return {"description": words, **record(section, shared)}


def record(section: type, shared: list[type]) -> dict[str, Any]:
    """An object with the keys of a section."""
    summary, words = descriptions(section)
    hints = types_of(section)
    if different := hints.keys() ^ words.keys():
        names = ", ".join(sorted(different))
        raise SystemExit(f"{section.__name__}: its keys and its docstring differ in {names}")
    properties = {
        name: {"description": words[name], **rule(hint, shared)} for name, hint in hints.items()
    }
    optional = OPTIONAL if section is Report else ()
    required = [
        name
        for name, hint in hints.items()
        if name not in optional and get_origin(hint) is not NotRequired
    ]
    whole: dict[str, Any] = {} if is_typeddict(section) else {"description": summary}
    whole |= {"type": "object", "properties": properties, "required": required}
    return whole if section in sections.FURTHER_KEYS else {**whole, "additionalProperties": False}


def rule(hint: Any, shared: list[type]) -> dict[str, Any]:  # noqa: ANN401
    """What a value of a type must be."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is NotRequired:
        return rule(args[0], shared)
    if origin is Annotated:
        return rule(args[0], shared) | limits(args[1:])
    if origin in (Union, UnionType):
        parts = [rule(arg, []) for arg in args]  # a reference cannot be null as well
        kinds = [part["type"] for part in parts]
        return {key: value for part in parts for key, value in part.items()} | {"type": kinds}
    if origin is Literal:
        return {"enum": list(args)} if len(args) > 1 else {"const": args[0]}
    if origin in (list, Sequence):
        return {"type": "array"} | ({"items": item(args[0], shared)} if args[0] is not Any else {})
    if origin in (dict, Mapping):
        further = {"additionalProperties": item(args[1], shared)} if args[1] is not Any else {}
        return {"type": "object"} | further
    if hint in shared:
        return {"$ref": f"#/$defs/{hint.__name__}"}
    return record(hint, shared) if is_typeddict(hint) else {"type": PLAIN[hint]}


def item(hint: Any, shared: list[type]) -> dict[str, Any]:  # noqa: ANN401
    """What an item of a list or a table must be."""
    if is_typeddict(hint) and hint not in shared:
        return described(hint, shared)
    return rule(hint, shared)


def limits(metadata: tuple[Any, ...]) -> dict[str, Any]:
    """Keywords of the limits in an annotation."""
    return {
        KEYWORDS.get(name, name): value
        for limit in metadata
        if isinstance(limit, sections.JsonLimits)
        for name, value in asdict(limit).items()
        if value is not None
    }


def descriptions(section: type) -> tuple[str, dict[str, str]]:
    """What the docstring says of a section, and of each of its keys."""
    text = inspect.cleandoc(section.__doc__ or "")
    summary, _, attributes = text.partition("\nAttributes:\n")
    keys = re.split(r"^    (\w+): ", attributes, flags=re.MULTILINE)[1:]
    return plain(summary), {
        name: plain(words) for name, words in zip(keys[::2], keys[1::2], strict=True)
    }


def plain(words: str) -> str:
    """Words of a docstring as JSON has them: in one line, with null for None."""
    line = " ".join(words.split())
    line = line if line.startswith("`") else line[:1].upper() + line[1:]
    line = re.sub(r":\w+:`~?([^`]*)`", r"\1", line).replace("``", "")
    return re.sub(r"\bNone\b", "null", line)
