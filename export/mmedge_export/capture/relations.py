"""What a traced program assumes of sizes, and the line of the network that asks.

Python code that branches on a size is traced along one branch. torch decides each such question in
``ShapeEnv.evaluate_expr`` or ``guard_or_defer_runtime_assert``, the first also without leaving a
trace of it where its own premise (no size is 0 or 1) settles the answer. So both are watched.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from mmedge_export.capture import locate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmedge_export.model import Model

__all__ = ["VIOLATED", "Relation", "RelationRecorder", "recording"]

#: What torch.export says when the code does not keep a dimension dynamic.
VIOLATED = re.compile(
    r"(Constraints violated|Specializations unexpectedly required) \((?P<names>[^)]*)\)"
)

_SOURCE = re.compile(r"\[(\d+)\]\.size\(\)\[(\d+)\]$")

#: Files of torch between the code that asks of a size and the place where it is answered.
_ASKING = (
    "torch/__init__.py",
    "torch/fx/experimental/sym_node.py",
    _SHAPES := "symbolic_shapes.py",
)


@dataclass(frozen=True)
class Relation:
    """A relation between sizes on which the program rests.

    ``expression`` is over names of dimensions. ``direct`` is set where the network's own code asks
    (a branch, an assertion), not torch on its behalf while it runs an operator.
    """

    expression: sympy.Basic
    place: locate.Place | None
    direct: bool

    @property
    def source(self) -> str:
        """The line that asks, as a bundle keeps it."""
        return "an operator of the network" if self.place is None else self.place.line_text()


class RelationRecorder:
    """Collects what one trace assumes.

    Args:
        network: whose modules and lines are looked for.
        model: says which dimension each axis of each input is.
    """

    def __init__(self, network: torch.nn.Module, model: Model) -> None:
        self._network = network
        self._axes = [value.dynamic for value in model.inputs.values()]
        self._relations: dict[sympy.Basic, Relation] = {}
        self._env: ShapeEnv | None = None

    def note(self, env: ShapeEnv, expression: Any, answer: Any) -> None:  # noqa: ANN401
        """``expression``, over torch's symbols, was answered with ``answer``."""
        expression = _fact(expression, answer)
        if expression is None:
            return
        old = self._relations.get(expression)
        direct = (old is None or not old.direct) and _is_direct()
        if old is not None and not direct:
            return
        self._env = env
        place = locate.of_frames(self._network, locate.current_frames())
        if place is None and (node := _current_node()) is not None:
            place = locate.of_node(self._network, node)
        self._relations[expression] = Relation(expression, place, direct and place is not None)

    def culprit(self, error: str) -> locate.Place | None:
        """Where the first dimension that torch's ``error`` names was fixed, or else asked about.

        What the network's own code asks goes before what an operator asks by itself: that holds
        for most sizes, and is not what the user can change.
        """
        match = VIOLATED.search(error)
        names = {name.strip() for name in match["names"].split(",")} if match else set()
        symbols = {symbol for symbol, name in self.dimensions().items() if name in names}
        about = [
            relation
            for relation in self._relations.values()
            if relation.place and symbols & {str(s) for s in relation.expression.free_symbols}
        ]
        # What fixes it outright before what only says something about it.
        about.sort(
            key=lambda relation: (
                not (
                    isinstance(relation.expression, sympy.Eq)
                    and any(side.is_Symbol for side in relation.expression.args)
                    and any(side.is_number for side in relation.expression.args)
                ),
                not relation.direct,
            )
        )
        return about[0].place if about else None

    def last_branch(self) -> locate.Place | None:
        """Where the network's own code last asked of a size that may vary."""
        return next((r.place for r in reversed(self._relations.values()) if r.direct), None)

    def dimensions(self) -> dict[str, str]:
        """Dimension by name of torch's symbol."""
        names: dict[str, str] = {}
        for source, symbol in getattr(self._env, "source_to_var", {}).items():
            match = _SOURCE.search(source)
            if match and (name := self._axes[int(match[1])].get(int(match[2]))):
                names[str(symbol)] = name
        return names

    def relations(self) -> list[Relation]:
        """What was assumed, over names of dimensions, in the order in which it came up."""
        if self._env is None:
            return []
        names = {
            symbol: sympy.Symbol(name, integer=True, nonnegative=True)
            for symbol, name in self.dimensions().items()
        }
        assumptions: dict[sympy.Basic, Relation] = {}
        for relation in self._relations.values():
            unknown = [s for s in relation.expression.free_symbols if str(s) not in names]
            if unknown:  # a size that depends on values, which no caller can choose
                continue
            expression = relation.expression.xreplace(
                {s: names[str(s)] for s in relation.expression.free_symbols}
            )
            old = assumptions.get(expression)
            if expression != sympy.true and (old is None or (relation.direct and not old.direct)):
                assumptions[expression] = Relation(expression, relation.place, relation.direct)
        return list(assumptions.values())


@contextlib.contextmanager
def recording(recorder: RelationRecorder) -> Iterator[None]:
    """Note in ``recorder`` what torch assumes of sizes inside the block."""
    evaluate, check = ShapeEnv.evaluate_expr, ShapeEnv.guard_or_defer_runtime_assert

    def evaluated(self: ShapeEnv, expression: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        answer = evaluate(self, expression, *args, **kwargs)
        if not self._suppress_guards_tls():
            recorder.note(self, expression, answer)
        return answer

    def checked(self: ShapeEnv, expression: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        recorder.note(self, expression, sympy.true)
        return check(self, expression, *args, **kwargs)

    ShapeEnv.evaluate_expr = evaluated  # type: ignore[method-assign, assignment]
    ShapeEnv.guard_or_defer_runtime_assert = checked  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ShapeEnv.evaluate_expr = evaluate  # type: ignore[method-assign]
        ShapeEnv.guard_or_defer_runtime_assert = check  # type: ignore[method-assign]


def _fact(expression: Any, answer: Any) -> sympy.Basic | None:  # noqa: ANN401
    """What is true if ``expression`` has the value ``answer``; None where it holds by itself."""
    if not isinstance(expression, sympy.Basic) or not expression.free_symbols:
        return None
    answer = sympy.sympify(answer)
    if answer is sympy.true:
        fact = expression
    elif answer is sympy.false:
        fact = sympy.Not(expression)
    else:
        fact = sympy.Eq(expression, answer)
    return fact if fact.free_symbols else None


# Frames are looked at one after another and never kept: a list of them that lies in one of them
# would hold all tensors of the trace, which torch takes for constants then (see locate.local).


def _is_direct() -> bool:
    """Whether no torch code but the size itself lies between the network's code and the answer."""
    for frame, _ in locate.current_frames():
        file = frame.f_code.co_filename
        if file == __file__:
            continue
        if not file.replace("\\", "/").endswith(_ASKING) and "torch/utils/_sympy" not in file:
            return locate.is_users(file)
    return False


def _current_node() -> torch.fx.Node | None:
    """The node of a program that is being converted."""
    for frame, _ in locate.current_frames():
        if isinstance(node := locate.local(frame, "n"), torch.fx.Node):
            return node
    return None
