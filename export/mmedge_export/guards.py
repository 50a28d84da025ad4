"""Which line of a network fixed the size of a dimension that was to stay dynamic.

torch.export reports a fixed dimension after tracing, when the code that fixed it is long gone. But
it logs each assumption at the moment it makes it, so that a handler of that log can look at the
Python stack.
"""

from __future__ import annotations

import contextlib
import logging
import re
from typing import TYPE_CHECKING

from mmedge_export import locate

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from mmedge_export.source import Model

__all__ = ["VIOLATED", "Guards", "watching"]

_LOGGER = "torch.fx.experimental.symbolic_shapes"
_CREATED = re.compile(r"create_symbol (?P<symbol>\w+) = \S+ for (?P<source>.*?)\.size\(\)\[(\d+)\]")
#: What torch.export says when the code does not keep a dimension dynamic.
VIOLATED = re.compile(
    r"(Constraints violated|Specializations unexpectedly required) \((?P<names>[^)]*)\)"
)


class Guards(logging.Handler):
    """Collects the assumptions of one trace and where they were made.

    Args:
        network: whose modules and lines are looked for.
        model: says which dimension each axis of each input is.
    """

    def __init__(self, network: torch.nn.Module, model: Model) -> None:
        super().__init__(logging.INFO)
        self._network = network
        self._axes = [value.dynamic for value in model.inputs.values()]
        self._symbols: dict[str, str] = {}  # torch's symbol -> dimension
        self._made: list[tuple[str, locate.Place]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note an assumption and the place in the network where it is being made."""
        message = record.getMessage()
        if created := _CREATED.match(message):
            index = re.search(r"\[(\d+)\]", created["source"])
            axis = int(created[3])
            if index is not None:
                self._symbols[created["symbol"]] = self._axes[int(index[1])].get(axis, "")
        elif (
            message.startswith(("eval ", "runtime_assert ", "set_replacement "))
            and "suppressed" not in message
        ):
            place = locate.of_frames(self._network, locate.current_frames())
            if place is not None:
                self._made.append((message, place))

    def culprit(self, error: str) -> locate.Place | None:
        """Where the first dimension that ``error`` names was fixed, or else first assumed about."""
        violated = VIOLATED.search(error)
        names = {name.strip() for name in violated["names"].split(",")} if violated else set()
        symbols = [s for s, dimension in self._symbols.items() if dimension in names]
        if not symbols:
            return None
        any_of = "|".join(map(re.escape, symbols))
        # What fixes it outright before what only says something about it.
        for pattern in (
            rf"set_replacement ({any_of}) = ",
            rf"(eval|runtime_assert) Eq\(({any_of}), \d+\)",
            rf"(eval|runtime_assert) .*\b({any_of})\b",
        ):
            for message, place in self._made:
                if re.match(pattern, message):
                    return place
        return None


@contextlib.contextmanager
def watching(network: torch.nn.Module, model: Model) -> Iterator[Guards]:
    """Collect what torch.export assumes inside the block; its log goes nowhere else meanwhile."""
    handler = Guards(network, model)
    logger = logging.getLogger(_LOGGER)
    level, propagate, others = logger.level, logger.propagate, list(logger.handlers)
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield handler
    finally:
        logger.handlers[:] = others
        logger.setLevel(level)
        logger.propagate = propagate
