"""The graph of a module for one row, run on any number of rows.

Networks that pack pictures of unequal size into one sequence take the sizes as values, and branch
on them. Traced with the sizes at hand, such a network is a graph of one picture, and what follows
from sizes alone is a constant of it. Here each of its operators gets a leading axis of rows. That
goes by the operator's schema: arguments that number an axis, and arguments that are a shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, make_fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils.weak import WeakTensorKeyDictionary

from mmedge.errors import ExportError
from mmedge_export.noise import quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["RowGraph", "trace_row"]

#: Arguments of operators that number an axis, and that are a shape.
_AXES = {
    *("dim", "dims", "dim0", "dim1", "start_dim", "end_dim", "axis0", "axis1"),
    *("source", "destination"),
}
_SHAPES = {"size", "shape", "repeats"}
#: Operators whose first axis is one of samples already: rows join it.
_SAMPLES = (
    *("conv", "pool", "upsample", "pixel_shuffle", "pixel_unshuffle", "im2col", "grid_sampler"),
    *("batch_norm", "group_norm", "scaled_dot_product_attention"),
)
#: Operators to which further leading axes make no difference.
_ANY_RANK = {
    *("linear", "layer_norm", "rms_norm", "embedding", "pad", "constant_pad_nd", "to", "_to_copy"),
    *("clone", "contiguous", "detach", "detach_", "alias", "lift_fresh_copy", "dropout"),
    *("resolve_conj", "resolve_neg", "zeros_like", "ones_like", "full_like"),
}


class _Rows:
    """A value that has a leading axis of rows."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


class _ConstantsApart(TorchFunctionMode):
    """What follows neither from a row nor from weights is computed, and is in no graph."""

    def __init__(self, row: Tensor) -> None:
        super().__init__()
        self._variables = WeakTensorKeyDictionary({row: True})

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call ``func``, untraced where all that it takes is constant."""
        kwargs = kwargs or {}
        tensors = [v for v in _pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        if any(isinstance(v, nn.Parameter) or v in self._variables for v in tensors):
            result = func(*args, **kwargs)
            written = args[:1] if getattr(func, "__name__", "") == "__setitem__" else ()
            for value in _pytree.tree_leaves((result, written)):
                if isinstance(value, Tensor):
                    self._variables[value] = True
            return result
        with disable_proxy_modes_tracing():
            return func(*args, **kwargs)


def trace_row(function: Callable[[Tensor], tuple[Tensor, ...]], row: Tensor) -> fx.GraphModule:
    """The graph of a function of one row; what does not follow from the row is a constant of it.

    Raises:
        ExportError: a branch of it depends on the row's values.
    """

    def apart(value: Tensor) -> tuple[Tensor, ...]:
        with _ConstantsApart(value):
            return function(value)

    try:
        with quiet(), torch.no_grad():
            table = {torch.ops.aten.pad_sequence.default: _pad_sequence}
            return make_fx(apart, table, tracing_mode="real", pre_dispatch=True)(row)
    except Exception as error:
        raise ExportError(
            f"what it does depends on values: {type(error).__name__}: {error}"
        ) from error


def _pad_sequence(
    parts: Sequence[Tensor],
    batch_first: bool = False,  # noqa: FBT001, FBT002 - as the operator has it
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:
    """Parts side by side, in operators that have an axis of rows."""
    most = max(part.shape[0] for part in parts)
    padded = []
    for part in parts:
        missing = most - part.shape[0]
        ends = (0, missing) if padding_side == "right" else (missing, 0)
        sizes = [*[0] * (2 * part.ndim - 2), *ends]
        padded.append(nn.functional.pad(part, sizes, value=padding_value) if missing else part)
    return torch.stack(padded, 0 if batch_first else 1)


class RowGraph(nn.Module):
    """A graph of one row, run on rows [rows, ...].

    Args:
        module: of :func:`trace_row`.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        """What the graph gives for each row, with a leading axis of rows."""
        results = _Interpreter(self.module).run(_Rows(rows))
        return tuple(
            result.value
            if isinstance(result, _Rows)
            else result.expand(rows.shape[0], *result.shape)
            for result in results
        )


class _Interpreter(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401
        """As the base class; what is written into gets rows."""
        if not str(n.target).startswith("aten.index_put_."):
            return super().run_node(n)
        target = n.args[0]
        assert isinstance(target, fx.Node)  # noqa: S101 - the tensor that is written into
        before = self.env[target]
        rows = next((v for v in map(self.env.get, n.all_input_nodes) if _has_rows(v)), None)
        if rows is None:
            return super().run_node(n)
        if not _has_rows(before):
            before = _Rows(before.expand(rows.value.shape[0], *before.shape))
        _, indices, values, *rest = self.fetch_args_kwargs_from_env(n)[0]
        # Out of place: a network writes into a new tensor in each run, a graph into its constant.
        written = torch.ops.aten.index_put.default(
            before.value, [None, *indices], _plain(values), *rest
        )
        self.env[target] = _Rows(written)
        return self.env[target]

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        """Run an operator, with rows where any argument has some."""
        leaves, spec = _pytree.tree_flatten((args, kwargs), is_leaf=_has_rows)
        with_rows = [leaf.value for leaf in leaves if _has_rows(leaf)]
        schema = getattr(target, "_schema", None)
        if not with_rows or schema is None:  # no schema: an item of what an operator gave
            return super().call_function(target, args, kwargs)
        name = schema.name.split("::")[-1]
        if any(word in name for word in _SAMPLES):
            count = with_rows[0].shape[1]
            if "attention" in name:
                leaves = [_with_rows(leaf, with_rows[0]) for leaf in leaves]
            joined = [leaf.value.flatten(0, 1) if _has_rows(leaf) else leaf for leaf in leaves]
            args, kwargs = _pytree.tree_unflatten(joined, spec)
            result = target(*args, **kwargs)
            return _pytree.tree_map(lambda v: _Rows(v.reshape(-1, count, *v.shape[1:])), result)
        if name == "squeeze" and len(args) > 1 and isinstance(args[1], int):
            axis = self._shift(name, "dim", args[1], with_rows[0])
            # torch leaves an axis of another size than 1 alone; ONNX does not.
            return args[0] if with_rows[0].shape[axis] != 1 else _Rows(with_rows[0].squeeze(axis))
        if name == "bmm":
            return _Rows(torch.matmul(*map(_plain, args)))
        if name == "einsum":
            return _Rows(_einsum(args[0], args[1]))
        if name in ("t", "numpy_T"):
            return _Rows(args[0].value.transpose(1, -1))
        names = [argument.name for argument in schema.arguments]
        axes = {a.name: a.default_value for a in schema.arguments if a.name in _AXES}
        arguments = {**axes, **dict(zip(names, args, strict=False)), **kwargs}
        first = arguments[names[0]]
        if schema.is_mutable and not _has_rows(first):
            raise ExportError(f"{target} writes rows into a tensor that has none")
        if isinstance(first, (list, tuple)):  # of tensors that are joined
            arguments[names[0]] = [_with_rows(value, with_rows[0]) for value in first]
        elif torch.Tag.pointwise in target.tags or name in ("matmul", "copy_"):
            rank = max(_rank(value) for value in arguments.values())
            arguments = {key: _pad_rank(value, rank) for key, value in arguments.items()}
        elif name == "index" and not _has_rows(first) and len(arguments["indices"]) == 1:
            pass  # what rows choose comes in their order
        elif name == "index" and _has_rows(first):
            arguments["indices"] = [None, *arguments["indices"]]
        elif name == "gather" or name.endswith("_as"):
            arguments = {key: _with_rows(value, with_rows[0]) for key, value in arguments.items()}
        elif not _has_rows(first) and name != "embedding":
            raise ExportError(f"{target} has rows in another argument than the first")
        elif not set(names) & (_AXES | _SHAPES) and name not in _ANY_RANK:
            raise ExportError(f"{target} has no rule for several rows")
        for key in set(arguments) & (_AXES | _SHAPES):
            if isinstance(arguments[key], (_Rows, Tensor)):
                continue  # another thing of that name
            arguments[key] = self._shift(name, key, arguments[key], with_rows[0])
        if name in ("expand", "broadcast_to"):
            arguments[names[0]] = _pad_rank(first, len(arguments["size"]) - 1)
        plain = _pytree.tree_map(_plain, arguments, is_leaf=_has_rows)
        return _pytree.tree_map(_Rows, target(**plain))

    def _shift(self, name: str, key: str, value: Any, rows: Tensor) -> Any:  # noqa: ANN401
        """An argument that numbers axes, or is a shape, for one more axis before them."""
        if key in _SHAPES:
            if isinstance(value, int):
                return value
            return [1 if name == "repeat" else rows.shape[0], *value]
        if name == "permute":
            return [0, *(axis % (rows.ndim - 1) + 1 for axis in value)]
        if value is None or value == []:  # of all axes
            return list(range(1, rows.ndim))
        if isinstance(value, int):
            return value + 1 if value >= 0 else value
        return [axis + 1 if axis >= 0 else axis for axis in value]


def _einsum(equation: str, operands: Sequence[Any]) -> Tensor:
    """With a letter for rows in each term that has some."""
    terms, result = equation.replace(" ", "").split("->")
    (rows,) = sorted(set("ABCDEFGHIJKLMNOPQRSTUVWXYZ") - set(equation))[:1]
    letters = [
        rows + term if _has_rows(operand) else term
        for term, operand in zip(terms.split(","), operands, strict=True)
    ]
    return torch.einsum(f"{','.join(letters)}->{rows}{result}", [_plain(v) for v in operands])


def _has_rows(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, _Rows)


def _plain(value: Any) -> Any:  # noqa: ANN401
    return value.value if isinstance(value, _Rows) else value


def _with_rows(value: Any, rows: Tensor) -> Any:  # noqa: ANN401
    """A tensor with rows, the same in each where it had none."""
    is_plain = isinstance(value, Tensor)
    return _Rows(value.expand(rows.shape[0], *value.shape)) if is_plain else value


def _rank(value: Any) -> int:  # noqa: ANN401
    """Axes of one row."""
    if isinstance(value, _Rows):
        return value.value.ndim - 1
    return value.ndim if isinstance(value, Tensor) else 0


def _pad_rank(value: Any, rank: int) -> Any:  # noqa: ANN401
    """Axes of size 1 after the rows, so that a row has ``rank`` axes."""
    if not isinstance(value, _Rows):
        return value
    tensor = value.value
    while tensor.ndim <= rank:
        tensor = tensor.unsqueeze(1)
    return _Rows(tensor)
