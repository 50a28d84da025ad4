"""``len(x)`` of a tensor as its first size while a network is traced.

Python wants a number of ``len``, so a tracer would fix the dimension to its size in the example.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["dynamic_lengths"]


@contextlib.contextmanager
def dynamic_lengths(network: torch.nn.Module) -> Iterator[None]:
    """Let the files of a network's classes see a ``len`` that keeps sizes dynamic.

    Args:
        network: whose classes, and those that they derive from, are meant; torch's are left alone.
    """
    names = {kind.__module__ for part in network.modules() for kind in type(part).__mro__}
    namespaces = [
        vars(sys.modules[name])
        for name in sorted(names)
        if name in sys.modules and name.split(".")[0] not in ("builtins", "torch")
    ]
    # A file may have a len of its own.
    namespaces = [namespace for namespace in namespaces if "len" not in namespace]
    for namespace in namespaces:
        namespace["len"] = _length
    try:
        yield
    finally:
        for namespace in namespaces:
            del namespace["len"]


def _length(x: Any) -> Any:  # noqa: ANN401 - as len
    return x.shape[0] if isinstance(x, torch.Tensor) and x.ndim else len(x)
