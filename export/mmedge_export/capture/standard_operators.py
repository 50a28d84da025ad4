"""A captured program in operators that ONNX has, and without checks that ONNX cannot make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mmedge_export.capture import locate
from mmedge_export.capture.attention_standard import decompose
from mmedge_export.capture.guard_attention import guard_attention

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["in_standard_operators"]

Program = torch.export.ExportedProgram

#: The operator of :mod:`mmedge_export.capture.attention`, which need not be imported.
_SEGMENTED = "mmedge::segmented_attention"

#: Nodes that compute nothing but raise where a condition fails.
_CHECKS = frozenset(
    {
        "aten::_assert_async",
        "aten::_assert_async.msg",
        "aten::_assert_scalar",
        "aten::_assert_tensor_metadata",
        "aten::_functional_assert_async.msg",
        "aten::_functional_assert_scalar",
        "aten::sym_constrain_range",
        "aten::sym_constrain_range_for_size",
    }
)


def in_standard_operators(
    network: torch.nn.Module, program: Program, opset: int
) -> tuple[Program, list[str]]:
    """``program`` with what ONNX lacks replaced, and the checks on values that it no longer makes.

    Checks on sizes are left to :mod:`mmedge_export.capture.relations`. Segmented attention becomes
    standard operators, in which the passes find it again. What hides every key is 0, as torch has
    it.
    """
    checks = _drop_checks(network, program)
    guard_attention(program, opset)
    targets = {getattr(node.target, "name", str)(): node.target for node in program.graph.nodes}
    table: dict[Any, Callable[..., Any]] = {
        targets[name]: how for name, how in _DECOMPOSED.items() if name in targets
    }
    return (program.run_decompositions(table) if table else program), checks


def _drop_checks(network: torch.nn.Module, program: Program) -> list[str]:
    """Take checks out of ``program``; say which of them look at values."""
    graph = program.graph
    lines: dict[str, None] = {}
    for node in list(graph.nodes):
        if getattr(node.target, "name", str)() not in _CHECKS:
            continue
        if _reads_values(node):
            lines[str(locate.of_node(network, node).line_text())] = None
        graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return list(lines)


def _reads_values(node: torch.fx.Node) -> bool:
    """Whether a check depends on what tensors hold, not on their sizes and dtypes alone."""
    if "metadata" in str(node.target):
        return False
    waiting, visited_nodes = [node], set()
    while waiting:
        at = waiting.pop()
        for source in at.all_input_nodes:
            if source in visited_nodes or "sym_size" in str(source.target):
                continue
            visited_nodes.add(source)
            if isinstance(source.meta.get("val"), torch.Tensor):
                return True
            waiting.append(source)
    return False


def _all_true(x: torch.Tensor) -> torch.Tensor:
    return torch.all(x)


def _rsub(x: torch.Tensor, other: float, alpha: float = 1) -> torch.Tensor:
    """``other - alpha * x`` by operators that promote whole numbers as this one does."""
    return torch.add(torch.mul(x.to(torch.result_type(x, other)), -alpha), other)


def _clamp(x: torch.Tensor, low: float | None = None, high: float | None = None) -> torch.Tensor:
    """With limits of two types, or whole numbers between limits that are none."""
    bounds = [limit for limit in (low, high) if limit is not None]
    if not all(isinstance(limit, (int, float)) for limit in bounds):
        return NotImplemented  # type: ignore[no-any-return] # a size
    dtype = x.dtype
    for limit in bounds:
        dtype = torch.promote_types(dtype, torch.result_type(x, limit))
    if dtype == x.dtype and len({type(limit) for limit in bounds}) == 1:
        return NotImplemented  # type: ignore[no-any-return] # as it is
    kind = float if dtype.is_floating_point else int
    limits = (None if limit is None else kind(limit) for limit in (low, high))
    return torch.clamp(x.to(dtype), *limits)


def _clamp_min(x: torch.Tensor, limit: float) -> torch.Tensor:
    return _clamp(x, limit)


def _clamp_max(x: torch.Tensor, limit: float) -> torch.Tensor:
    return _clamp(x, None, limit)


def _divide(x: torch.Tensor, y: Any, *, rounding_mode: str | None = None) -> torch.Tensor:  # noqa: ANN401
    """Whole numbers divided towards zero by whole numbers, where torch's exporter goes by float32.

    The quotient is the floor, and one more where the signs differ and something is left.
    """
    is_integer = not x.is_floating_point() and (
        isinstance(y, int) if not isinstance(y, torch.Tensor) else not y.is_floating_point()
    )
    if not is_integer or x.dtype == torch.bool or rounding_mode != "trunc":
        return NotImplemented  # type: ignore[no-any-return] # as it is
    floor = torch.floor_divide(x, y)
    remainder = x - floor * y
    differ = torch.logical_and(remainder != 0, torch.lt(x, 0) != (y < 0))
    return floor + differ.to(floor.dtype)


def _repeat(
    x: torch.Tensor,
    repeats: int,
    dim: int | None = None,
    *,
    output_size: int | None = None,  # noqa: ARG001 - follows from the others
) -> torch.Tensor:
    """Each row several times, in a row: a number that is dynamic breaks torch's own form."""
    if dim is None:
        x, dim = x.flatten(), 0
    dim %= x.ndim
    shape = list(x.shape)
    shape.insert(dim + 1, repeats)
    return x.unsqueeze(dim + 1).expand(shape).flatten(dim, dim + 1)


def _is_in(
    x: torch.Tensor,
    among: torch.Tensor,
    *,
    assume_unique: bool = False,  # noqa: ARG001 - of no effect on the result
    invert: bool = False,
) -> torch.Tensor:
    """Whether each element is one of some values, by comparing it with all of them."""
    result = (x[..., None] == among.reshape(-1)).any(-1)
    return torch.logical_not(result) if invert else result


def _running_most(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    return _running(x, dim, largest=True)


def _running_least(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    return _running(x, dim, largest=False)


def _running(x: torch.Tensor, dim: int, *, largest: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The extreme up to each element, and where it stands (the last of equal ones).

    All earlier elements are laid out beside each, so memory goes with the square of the size.
    """
    x = x.movedim(dim, -1)
    if x.is_floating_point():
        neutral = -torch.inf if largest else torch.inf
    else:
        neutral = torch.iinfo(x.dtype).min if largest else torch.iinfo(x.dtype).max
    at = torch.arange(x.shape[-1], device=x.device)
    earlier = at[None, :] <= at[:, None]
    table = torch.where(earlier, x[..., None, :], torch.full((), neutral, dtype=x.dtype))
    values = table.amax(-1) if largest else table.amin(-1)
    is_extreme = torch.logical_and(earlier, table == values[..., None])
    places = torch.where(is_extreme, at, torch.full((), -1, dtype=at.dtype)).amax(-1)
    return values.movedim(-1, dim), places.movedim(-1, dim)


#: Coefficients of :func:`_inverse_error`, highest power first: near the middle, and in the tails.
_MIDDLE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
    -0.00125372503, -0.00417768164, 0.246640727, 1.50140941,
)  # fmt: skip
_TAILS = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
    -0.0076224613, 0.00943887047, 1.00167406, 2.83297682,
)  # fmt: skip


def _inverse_error(x: torch.Tensor) -> torch.Tensor:
    """The inverse of the error function in float32, to about 1e-6 of its value.

    M. Giles, "Approximating the erfinv function", GPU Computing Gems Jade Edition, 2012.
    """
    if x.dtype != torch.float32:
        return NotImplemented  # type: ignore[no-any-return] # less exact than the dtype
    w = -torch.log((1 - x) * (1 + x))
    polynomials = []
    for at, coefficients in ((w - 2.5, _MIDDLE), (torch.sqrt(w) - 3, _TAILS)):
        value = torch.full_like(x, coefficients[0])
        for coefficient in coefficients[1:]:
            value = value * at + coefficient
        polynomials.append(value)
    middle, tails = polynomials
    result = torch.where(w < 5, middle, tails) * x
    return torch.where(x.abs() == 1, x * torch.inf, result)


def _new_zeros(
    x: torch.Tensor,
    size: list[int],
    *,
    dtype: torch.dtype | None = None,
    **_: Any,  # noqa: ANN401 - of a layout and a device, of which a graph knows nothing
) -> torch.Tensor:
    """Zeros for memory that is written before it is read: what lay there differs by run."""
    return torch.zeros(size, dtype=dtype or x.dtype, device=x.device)


def _zeros(size: list[int], *, dtype: torch.dtype | None = None, **_: Any) -> torch.Tensor:  # noqa: ANN401
    return torch.zeros(size, dtype=dtype)


def _zeros_like(x: torch.Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> torch.Tensor:  # noqa: ANN401
    return torch.zeros(x.shape, dtype=dtype or x.dtype, device=x.device)


_DECOMPOSED: dict[str, Callable[..., Any]] = {
    _SEGMENTED: decompose,
    "aten::_is_all_true": _all_true,
    "aten::clamp": _clamp,
    "aten::clamp_max": _clamp_max,
    "aten::clamp_min": _clamp_min,
    "aten::cummax": _running_most,
    "aten::cummin": _running_least,
    "aten::div.Scalar_mode": _divide,
    "aten::div.Tensor_mode": _divide,
    "aten::empty.memory_format": _zeros,
    "aten::empty_like": _zeros_like,
    "aten::erfinv": _inverse_error,
    "aten::isin.Tensor_Tensor": _is_in,
    "aten::new_empty": _new_zeros,
    "aten::repeat_interleave.self_int": _repeat,
    "aten::rsub.Scalar": _rsub,
}
