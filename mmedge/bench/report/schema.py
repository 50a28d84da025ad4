"""Holds a report of unknown origin against ``report.schema.json``, as far as its values go.

A small part of JSON Schema, the part that the file uses. Two of its rules are left out on purpose:
keys that are missing get their defaults, and those that are not known are passed over, since a
version of the format gains keys and never loses one.
"""

from __future__ import annotations

import json
import math
import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from mmedge.schema.read import Misfit, show

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_report"]

#: What cannot be left out where its parent is there: figures are computed from it.
_NEEDED = {
    "$.series": ("start_s", "latency_ms", "kept", "of"),
    "$.deadline": ("ms", "rate"),
    "$.metric": ("value", "name"),
    "$.loop": (
        "kind", "stage", "steps", "rows", "first_ms", "first_confidence_ms", "encoders_ms",
        "prefill_ms", "first_cached_ms", "first_cached_by_modality_ms", "step_ms",
        "step_confidence_ms", "steps_per_s", "state_bytes", "real_time_factor", "by_step",
        "series", "blocks", "not_measured",
    ),
    "$.stream_loop": (
        "kind", "stage", "runs", "steps", "fewest_steps", "most_steps", "finish", "first_ms",
        "between_ms", "between_confidence_ms", "steps_per_s",
    ),
    "$.loop.series": ("first_ms", "step_ms", "steps_ms"),
    "$.loop.by_step": ("step", "p50_ms", "p99_ms", "max_ms", "slowest_call_ms"),
}  # fmt: skip
#: Largest size of a number: more than any figure in any unit, and its square is finite.
MAX_NUMBER = 1e30
_KINDS: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def check_report(data: object) -> None:
    """Refuse a decoded report with a value that the format does not allow.

    Raises:
        Misfit: where, what is expected and what is there.
    """
    _check(data, _schema(), "$")
    if isinstance(data, dict) and isinstance(series := data.get("series"), dict):
        counts = {len(series[key]) for key in ("start_s", "latency_ms", "part") if series.get(key)}
        if len(counts) > 1:
            raise Misfit("$.series", "lists of one length", f"lengths {sorted(counts)}")
    if isinstance(data, dict) and isinstance(loop := data.get("loop"), dict):
        lengths = sorted({len(loop["by_step"][key]) for key in _NEEDED["$.loop.by_step"]})
        if len(lengths) > 1:
            raise Misfit("$.loop.by_step", "lists of one length", f"lengths {lengths}")


@cache
def _schema() -> dict[str, Any]:
    text = files("mmedge.bench.report").joinpath("report.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _check(value: object, rule: Mapping[str, Any], where: str) -> None:
    if "$ref" in rule:
        rule = {**_schema()["$defs"][rule["$ref"].rpartition("/")[2]], **rule}
    kinds = rule.get("type")
    if kinds is not None:
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not any(_is(value, kind) for kind in kinds):
            raise Misfit(where, " or ".join(kinds), show(value))
    if "const" in rule and value != rule["const"]:
        raise Misfit(where, show(rule["const"]), show(value))
    if "enum" in rule and value not in rule["enum"]:
        raise Misfit(where, f"one of {', '.join(map(str, rule['enum']))}", show(value))
    if isinstance(value, str):
        if "pattern" in rule and not re.search(rule["pattern"], value):
            raise Misfit(where, f"text of the form {rule['pattern']}", show(value))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _check_number(value, rule, where)
    elif isinstance(value, list):
        least, most = rule.get("minItems", 0), rule.get("maxItems", math.inf)
        if not least <= len(value) <= most:
            raise Misfit(where, f"a list of {least} to {most}", show(value))
        for index, item in enumerate(value):
            _check(item, rule.get("items", {}), f"{where}[{index}]")
    elif isinstance(value, dict):
        if missing := [key for key in _NEEDED.get(where, ()) if key not in value]:
            raise Misfit(f"{where}.{missing[0]}", "a value", "a missing field")
        properties, others = rule.get("properties", {}), rule.get("additionalProperties", {})
        for key, item in value.items():
            inner = properties.get(key, others if isinstance(others, dict) else {})
            _check(item, inner, f"{where}.{key}" if key in properties else f"{where}[{show(key)}]")


def _check_number(value: float, rule: Mapping[str, Any], where: str) -> None:
    least, most = rule.get("minimum", -MAX_NUMBER), rule.get("maximum", MAX_NUMBER)
    if not least <= value <= most:  # NaN is in no range
        raise Misfit(where, f"a number from {least:g} to {most:g}", show(value))


def _is(value: object, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _KINDS[kind])
