"""Values inside a network that follow from sizes and constants alone, such as those of a full mask.

Python code that reads values cannot be traced. Where no input has a part in them, they are read in
one run and given again in each, so that tracing meets numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["KnownValues", "read_known_values"]

#: Functions whose result has a size or is a Python value that follows from what tensors hold.
_READERS = frozenset(
    {
        *("__bool__", "__float__", "__index__", "__int__", "is_nonzero", "item", "tolist", "equal"),
        *("argwhere", "masked_select", "multinomial", "nonzero", "_return_output", "_unique2"),
        *("_unique_impl", "unique", "unique_consecutive"),
    }
)
#: Functions of which no result follows from what tensors hold.
_MAKERS = frozenset(
    {
        *("empty_like", "full_like", "new_empty", "new_full", "new_ones", "new_zeros"),
        *("ones_like", "size", "zeros_like"),
    }
)
#: Functions that take sizes in a list, which a network may give as tensors.
_SIZED = frozenset(
    ("expand", "interpolate", "new_zeros", "ones", "pad", "reshape", "split", "view", "zeros")
)
#: Functions that take numbers, which a network may give as tensors.
_COUNTED = frozenset(("arange", "linspace"))
#: Attribute of tensors that follow from an input.
_GIVEN = "_follows_from_input"


class _Mode(TorchFunctionMode):
    """Follows what comes of inputs, and meets each reading of anything else."""

    def __init__(self, values: Sequence[tuple[str, Any]] | None) -> None:
        super().__init__()
        #: What was read, in order, with the function's name.
        self.reads: list[tuple[str, Any]] = []
        self._values = values

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call ``func``, or give what was read in its place."""
        options = kwargs or {}
        name = getattr(func, "__name__", "")
        tensors = [x for x in _pytree.tree_leaves((args, options)) if isinstance(x, Tensor)]
        is_given = any(getattr(x, _GIVEN, False) for x in tensors)
        if not is_given and tensors and _reads(name, args):
            return self._read(name, lambda: func(*args, **options))
        if name in _SIZED:
            args = tuple(self._numbers(argument) for argument in args)
            options = {key: self._numbers(argument) for key, argument in options.items()}
        if name in _COUNTED:
            args = tuple(self._numbers((argument,))[0] for argument in args)
        result = func(*args, **options)
        if is_given and name not in _MAKERS:
            _mark(_pytree.tree_leaves(result))
            if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
                _mark(args[:1])
        return result

    def _read(self, name: str, read: Callable[[], Any]) -> Any:  # noqa: ANN401
        if self._values is None:
            value = read()
            if name == "multinomial":  # a draw as good as any, by which order is kept
                value = value.sort().values
        else:
            known_name, value = self._values[len(self.reads)]
            if known_name != name:
                raise RuntimeError(f"{name} is called where {known_name} was")
            value = _pytree.tree_map_only(Tensor, torch.clone, value)
        self.reads.append((name, value))
        return value

    def _numbers(self, argument: Any) -> Any:  # noqa: ANN401
        """Sizes that are tensors, as numbers."""
        if not isinstance(argument, (tuple, list)) or not argument:
            return argument
        if not all(
            isinstance(x, Tensor)
            and x.ndim == 0
            and not x.is_floating_point()
            and not getattr(x, _GIVEN, False)
            for x in argument
        ):
            return argument
        return type(argument)(self._read("item", x.item) for x in argument)


def _reads(name: str, args: tuple[Any, ...]) -> bool:
    if name in _READERS:
        return True
    if name == "where":
        return len(args) == 1
    if name != "__getitem__":
        return False
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    return any(isinstance(x, Tensor) and x.dtype == torch.bool for x in index)


def _mark(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, Tensor):
            setattr(value, _GIVEN, True)


class KnownValues:
    """Calls a network with what was read of it.

    Args:
        values: what was read, in order, with the names of the functions.
    """

    def __init__(self, values: Sequence[tuple[str, Any]]) -> None:
        self._values = values

    def run(self, network: Callable[..., Any], values: Mapping[str, Tensor], **options: Any) -> Any:  # noqa: ANN401
        """What the network returns.

        Args:
            network: is called by keyword.
            values: of inputs.
            options: what else it is called with.
        """
        if not self._values:
            return network(**values, **options)
        _mark(values.values())
        with _Mode(self._values):
            return network(**values, **options)

    @property
    def is_random(self) -> bool:
        """Whether some of it was drawn at random."""
        return any(name == "multinomial" for name, _ in self._values)


def read_known_values(
    run: Callable[[Mapping[str, Tensor]], Any], examples: Iterable[Mapping[str, Tensor]]
) -> KnownValues | None:
    """What a network reads of values that no input has a part in; None: that differs with sizes.

    Args:
        run: the network with an input of each name.
        examples: inputs of several sizes.
    """
    all_reads: list[list[tuple[str, Any]]] = []
    for example in examples:
        own = {name: value.clone() for name, value in example.items()}
        _mark(own.values())
        with _Mode(None) as mode, torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            run(own)
        all_reads.append(mode.reads)
    first = all_reads[0]
    same = all(_same(first, reads) for reads in all_reads[1:])
    return KnownValues(first) if same else None


def _same(one: Sequence[tuple[str, Any]], other: Sequence[tuple[str, Any]]) -> bool:
    if [name for name, _ in one] != [name for name, _ in other]:
        return False
    for (_, a), (_, b) in zip(one, other, strict=True):
        for x, y in zip(_pytree.tree_leaves(a), _pytree.tree_leaves(b), strict=False):
            if isinstance(x, Tensor):
                if not isinstance(y, Tensor) or x.shape != y.shape or not torch.equal(x, y):
                    return False
            elif x != y:
                return False
    return True
