"""Which tensors of what a network returns are its named outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from mmedge.errors import ExportError
from mmedge.spec import DTYPES

__all__ = ["named_results"]

#: Tensors that a message lists.
_LISTED = 12


def named_results(
    result: Any,  # noqa: ANN401
    outputs: Sequence[str] | Mapping[str, str],
) -> dict[str, torch.Tensor]:
    """The tensor of each output.

    ``result`` may be a tensor, any mapping, a named tuple, a dataclass, a tuple or list, and these
    in each other. What has keys is asked for by key, ``key.inner`` or ``key.0`` further in; what
    is not asked for, and None, is left out. A tuple or list without keys has one name for each
    tensor in it and in what it holds.

    Args:
        result: what the network returns.
        outputs: names, or the key of each name.

    Raises:
        ExportError: ``result`` does not have these outputs, or they are not plain tensors.
    """
    keys = dict(outputs) if isinstance(outputs, Mapping) else {name: name for name in outputs}
    if isinstance(result, torch.Tensor):
        if len(keys) != 1:
            raise ExportError(
                f"the network returns one tensor, but outputs names {len(keys)} "
                f"({', '.join(keys)}); name it once"
            )
        values = {next(iter(keys)): result}
    elif (fields := _fields(result)) is not None and (
        not isinstance(result, tuple) or any(_first(key, fields) for key in keys.values())
    ):
        values = {name: _at(result, key) for name, key in keys.items()}
    elif isinstance(result, (tuple, list)):
        values = _in_order(result, list(keys))
    else:
        raise ExportError(
            f"the network returns {type(result).__name__}; expected a tensor, or a tuple, list, "
            "mapping or dataclass of tensors: wrap it in a module that returns one"
        )
    for name, value in values.items():
        _check_tensor(name, keys[name], value)
    return values


def _fields(value: Any) -> dict[str, Any] | None:  # noqa: ANN401
    """What ``value`` holds by key; None where it has no keys."""
    if isinstance(value, Mapping):
        return {str(key): value[key] for key in value}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _first(key: str, fields: Mapping[str, Any]) -> bool:
    return key in fields or key.partition(".")[0] in fields


def _at(value: Any, path: str) -> Any:  # noqa: ANN401
    """The member of ``value`` at ``path``."""
    result, at = value, path
    while at:
        fields = _fields(value)
        if fields is None and isinstance(value, (tuple, list)):
            fields = {str(index): member for index, member in enumerate(value)}
        key = next((k for k in sorted(fields or (), key=len, reverse=True) if _leads(k, at)), None)
        if fields is None or key is None:
            raise ExportError(f"the network returns no {path!r}; it returns {_describe(result)}")
        value, at = fields[key], at[len(key) + 1 :]
    return value


def _leads(key: str, path: str) -> bool:
    return path == key or path.startswith(f"{key}.")


def _in_order(result: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    leaves = [value for _, value in _leaves(result)]
    if len(leaves) == len(names):
        return dict(zip(names, leaves, strict=True))
    raise ExportError(
        f"the network returns {len(leaves)} tensors, but outputs names {len(names)} "
        f"({', '.join(names)}): name each once, in this order: {_describe(result)}"
    )


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Everything in ``value`` that holds nothing else, but None, with its path."""
    fields = _fields(value)
    if fields is None and isinstance(value, (tuple, list)):
        fields = {str(index): member for index, member in enumerate(value)}
    if fields is None:
        if value is not None:
            yield path, value
        return
    for key, member in fields.items():
        yield from _leaves(member, f"{path}.{key}" if path else key)


def _describe(result: Any, at: str = "") -> str:  # noqa: ANN401
    leaves = [
        f"{path} ({type(value).__name__}{getattr(value, 'shape', '') and list(value.shape)})"
        for path, value in _leaves(result, at)
    ]
    more = f" and {len(leaves) - _LISTED} more" if len(leaves) > _LISTED else ""
    return ", ".join(leaves[:_LISTED]) + more if leaves else "nothing but None"


def _check_tensor(name: str, key: str, value: Any) -> None:  # noqa: ANN401
    at = "" if name == key else f" ({key!r})"
    if not isinstance(value, torch.Tensor):
        inner = (
            f"; name one of {_describe(value, key)}"
            if isinstance(value, (tuple, list, dict))
            else ""
        )
        raise ExportError(
            f"output {name!r}{at} is {type(value).__name__}, not a tensor; leave it out of "
            f"outputs{inner}"
        )
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ExportError(
            f"output {name!r}{at} is {dtype}, which a bundle cannot hold; convert it in the "
            f"network to one of {', '.join(DTYPES)}"
        )
    if value.is_sparse or value.layout != torch.strided or value.is_nested:
        raise ExportError(f"output {name!r}{at} is sparse or nested; return a dense tensor")
