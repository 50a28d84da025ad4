"""A stream's options as JSON, and back: what a replay makes its stream with."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import InputError
from mmedge.spec import DTYPES
from mmedge.stream.policies import Exact, Hold, Interpolate, Latest, Window
from mmedge.stream.sanity import Sanity

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OPTIONS", "options_to_json", "plain", "read_stream_options"]

POLICIES: Mapping[str, type] = {
    policy.__name__: policy for policy in (Latest, Hold, Exact, Interpolate, Window)
}
#: Names of all options.
OPTIONS = (
    "trigger", "deadline_ms", "align", "sanity", "depth", "keep", "future", "recover_after",
    "reset_after", "newer_trigger", "loop_options",
)  # fmt: skip
#: Key of an array in JSON.
ARRAY = "array"


def plain(value: Any) -> Any:  # noqa: ANN401
    """A value as JSON has it: what JSON does not know becomes text, as do infinity and NaN."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray) and value.dtype in DTYPES.values():
        array = np.ascontiguousarray(value)
        data = base64.b64encode(array.tobytes()).decode()
        return {ARRAY: {"dtype": array.dtype.name, "shape": list(array.shape), "base64": data}}
    return f"{value!r:.1000}"


def options_to_json(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of :class:`mmedge.Stream`, but its clock, as JSON has them."""
    tree = dict(options)
    tree["align"] = {
        name: {"policy": type(policy).__name__, **asdict(policy)}
        for name, policy in (options["align"] or {}).items()
    }
    tree["sanity"] = {name: asdict(check) for name, check in (options["sanity"] or {}).items()}
    written: dict[str, Any] = plain(tree)
    return written


def read_stream_options(tree: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`options_to_json` wrote, for :class:`mmedge.Stream`, which checks the values.

    Raises:
        InputError: an option, a policy or a field that this version does not have.
    """
    if not isinstance(tree, Mapping) or set(tree) != set(OPTIONS):
        got = ", ".join(map(str, tree)) if isinstance(tree, Mapping) else repr(tree)
        raise InputError(f"options of a stream: expected {', '.join(OPTIONS)}; got {got:.300}")
    options = {name: _unplain(value) for name, value in tree.items()}
    align = {}
    for name, policy in (options["align"] or {}).items():
        kind = POLICIES.get(policy.pop("policy", None))
        if kind is None:
            raise InputError(
                f"align: modality {name!r}: expected one of {', '.join(POLICIES)} as policy"
            )
        align[name] = _make(kind, policy, f"align: modality {name!r}")
    options["align"] = align
    options["sanity"] = {
        name: _make(Sanity, check, f"sanity: modality {name!r}")
        for name, check in (options["sanity"] or {}).items()
    }
    return options


def _make(kind: Callable[..., Any], values: Mapping[str, Any], where: str) -> Any:  # noqa: ANN401
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if set(values) != names:
        raise InputError(f"{where}: expected {', '.join(sorted(names))}; got {', '.join(values)}")
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{where}: {error}") from error


def _unplain(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, list):
        return tuple(_unplain(item) for item in value)
    if not isinstance(value, Mapping):
        return value
    if set(value) == {ARRAY}:
        try:
            entry = value[ARRAY]
            data = base64.b64decode(entry["base64"], validate=True)
            return np.frombuffer(data, DTYPES[entry["dtype"]]).reshape(entry["shape"]).copy()
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"an array of an option: {error!r:.200}") from error
    return {name: _unplain(item) for name, item in value.items()}
