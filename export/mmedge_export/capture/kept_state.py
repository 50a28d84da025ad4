"""What a network keeps from one call to the next, and whether its answers depend on it.

A graph starts every call anew. A module that remembers (its first frame, a moving mean, a queue) is
traced with what it remembered then. So all attributes and buffers are compared before and after a
call. Caches are allowed: of what changed, only that is refused which changes an answer.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmedge.errors import ExportError
from mmedge_export.capture import probe_inputs

if TYPE_CHECKING:
    from mmedge.spec import Array
    from mmedge_export.capture.golden import Run
    from mmedge_export.model import Model

__all__ = ["KeptState", "check_history", "depends", "fill_caches"]

#: What every module has, which is no state of its own, and what :meth:`KeptState` reads apart.
_OF_MODULES = frozenset(vars(torch.nn.Module()))

#: Objects within objects that are looked into.
_DEPTH = 4

#: Times that each input is given, in turn, where something changed.
_ROUNDS = 4

_PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


class KeptState:
    """All attributes and buffers of a module and its parts as they are now.

    Args:
        network: the module.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self._network = network
        copies: dict[int, _ValueCopy] = {}
        self._before = {
            (name, key): (holder, _copy(value, copies))
            for name, key, holder, value in _values(network)
        }

    def changes(self) -> list[str]:
        """``module 'x' attribute 'y'`` of each that is not as it was."""
        return [_title(self._network, name, key) for name, key in self._differing()]

    def restore(self) -> None:
        """Put everything back."""
        for name, key in self._differing():
            if (name, key) in self._before:
                holder, copy = self._before[name, key]
                holder[key] = copy.restore()
        initial_keys = self._before.keys()
        for name, key, holder, _ in list(_values(self._network)):
            if (name, key) not in initial_keys:
                del holder[key]

    def _differing(self) -> list[tuple[str, str]]:
        now = {(name, key): value for name, key, _, value in _values(self._network)}
        return [
            place
            for place in dict.fromkeys((*self._before, *now))
            if place not in now
            or place not in self._before
            or not self._before[place][1].equals(now[place])
        ]


class _ValueCopy:
    """A value, and what it held: of containers and plain objects, each member."""

    def __init__(self, value: Any, copies: dict[int, _ValueCopy], depth: int) -> None:  # noqa: ANN401
        self.value = value
        self.members: Any = None
        if isinstance(value, torch.Tensor):
            self.members = value.detach().clone()
        elif isinstance(value, np.ndarray):
            self.members = value.copy()
        elif depth < _DEPTH and (members := _members(value)) is not None:
            self.members = {
                key: _copy(member, copies, depth + 1) for key, member in members.items()
            }

    def equals(self, now: Any) -> bool:  # noqa: ANN401
        """Whether ``now`` holds the same."""
        if isinstance(self.value, torch.Tensor):
            return isinstance(now, torch.Tensor) and _same(self.members, now.detach())
        if isinstance(self.value, np.ndarray):
            return isinstance(now, np.ndarray) and (
                now.shape == self.members.shape and now.tobytes() == self.members.tobytes()
            )
        if isinstance(self.members, dict):
            members = _members(now) if type(now) is type(self.value) else None
            return (
                members is not None
                and members.keys() == self.members.keys()
                and all(copy.equals(members[key]) for key, copy in self.members.items())
            )
        if isinstance(self.value, _PLAIN):
            return type(now) is type(self.value) and (now == self.value or now != now)
        return now is self.value

    def restore(self) -> Any:  # noqa: ANN401
        """The value, holding again what it held."""
        value = self.value
        if isinstance(value, torch.Tensor):
            if not _same(self.members, value.detach()):
                with torch.no_grad():
                    value.resize_(self.members.shape).copy_(self.members)
        elif isinstance(value, np.ndarray):
            value[...] = self.members
        elif isinstance(self.members, dict):
            members = {key: copy.restore() for key, copy in self.members.items()}
            if isinstance(value, MutableMapping):
                value.clear()
                value.update(members)
            elif isinstance(value, (list, deque)):
                value.clear()
                value.extend(members.values())
            elif isinstance(value, set):
                value.clear()
                value.update(members.values())
            elif not isinstance(value, tuple):
                vars(value).clear()
                vars(value).update(members)
        return value


def _copy(value: Any, copies: dict[int, _ValueCopy], depth: int = 0) -> _ValueCopy:  # noqa: ANN401
    """A copy of ``value``; of what many modules share, such as settings, the one there is."""
    if isinstance(value, _PLAIN):
        return _ValueCopy(value, copies, depth)
    if id(value) not in copies:
        copies[id(value)] = _ValueCopy(value, copies, depth)
    return copies[id(value)]


def _members(value: Any) -> dict[Any, Any] | None:  # noqa: ANN401
    """What a container or a plain object holds; None for anything else."""
    if isinstance(value, (torch.nn.Module, type, *_PLAIN)) or callable(value):
        return None
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return {hash(member): member for member in value}
    if isinstance(value, (list, tuple, deque)):
        return dict(enumerate(value))
    return dict(vars(value)) if hasattr(value, "__dict__") else None


def _values(network: torch.nn.Module) -> Iterator[tuple[str, str, MutableMapping[str, Any], Any]]:
    """Module, name, the mapping that holds it, and value of everything that could be state."""
    for name, module in network.named_modules():
        for key, value in list(module._buffers.items()):  # noqa: SLF001 - what register_buffer fills
            if value is not None:
                yield name, key, module._buffers, value  # noqa: SLF001
        attributes = vars(module)
        for key, value in list(attributes.items()):
            if key not in _OF_MODULES and not isinstance(value, torch.nn.Module):
                yield name, key, attributes, value
        for kind in type(module).__mro__:
            if not kind.__module__.startswith(("torch.", "builtins")):
                for key, value in list(vars(kind).items()):
                    if not (key.startswith("__") or callable(value) or hasattr(value, "__get__")):
                        yield name, f"{kind.__name__}.{key}", _OfClass(kind), value


class _OfClass(MutableMapping[str, Any]):
    """Attributes of a class under ``Class.name``, to be set and deleted."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401
        return vars(self._kind)[key.partition(".")[2]]

    def __setitem__(self, key: str, value: Any) -> None:  # noqa: ANN401
        setattr(self._kind, key.partition(".")[2], value)

    def __delitem__(self, key: str) -> None:
        delattr(self._kind, key.partition(".")[2])

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self._kind))

    def __len__(self) -> int:
        return len(vars(self._kind))


def _same(first: torch.Tensor, second: torch.Tensor) -> bool:
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    if first.is_meta or first.device != second.device:
        return first.device == second.device
    if not first.is_floating_point():
        return torch.equal(first, second)
    nan = first.isnan()
    return torch.equal(nan, second.isnan()) and torch.equal(first[~nan], second[~nan])


def _title(network: torch.nn.Module, name: str, key: str) -> str:
    module = network.get_submodule(name)
    where = (
        f"module {name!r} ({type(module).__name__})" if name else f"{type(module).__name__} itself"
    )
    kind = "buffer" if key in module._buffers else "attribute"  # noqa: SLF001
    return f"{kind} {key!r} of {where}"


def check_history(model: Model, run: Run, state: KeptState, changes: Sequence[str]) -> str:
    """Whether answers depend on what was asked before, where a call changed something.

    The example, others of its kind, and the example at other sizes are each given to the network as
    it was at first, and then in turn. Classes, yes or no, and one number throughout say little of
    what led to them: where an output is such, what the network's parts give out is compared, too.

    Args:
        model: has the example.
        run: the network itself.
        state: as it was at first.
        changes: what a call changed.

    Returns:
        What is left unchecked, in words: more calls than were tried.

    Raises:
        ExportError: an answer is another than at first.
    """
    calls: list[tuple[Mapping[str, Array], dict[str, Array], list[torch.Tensor]]] = []
    with _parts(model.module) as parts:
        for inputs in _variants(model):
            state.restore()
            parts.clear()
            try:
                calls.append((inputs, run(inputs), list(parts)))
            except ExportError:
                continue
        state.restore()
        for _ in range(_ROUNDS):
            for inputs, first_outputs, first_parts in calls:
                parts.clear()
                try:
                    answer = run(inputs)
                except ExportError as error:
                    raise depends(
                        changes, f"the same input fails after others ({error})"
                    ) from error
                for name, value in first_outputs.items():
                    other = answer[name]
                    if value.shape != other.shape or value.tobytes() != other.tobytes():
                        raise depends(
                            changes, f"the same input has another output {name!r} after others"
                        )
                if any(map(_says_little, first_outputs.values())) and _differ(first_parts, parts):
                    raise depends(
                        changes, "the same input gives other values inside the network after others"
                    )
    state.restore()
    return (
        f"state: a call changes {', '.join(changes)}; {_ROUNDS * len(calls)} calls in a row "
        "answered as the first did, more were not tried"
    )


@contextlib.contextmanager
def _parts(network: Any) -> Iterator[list[torch.Tensor]]:  # noqa: ANN401 - a module, or a file
    """What the network's parts give out while this is open, in order; floats alone."""
    outputs: list[torch.Tensor] = []

    def note(_module: torch.nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor) and output.is_floating_point():
            outputs.append(output.detach().clone())

    hooks = [part.register_forward_hook(note) for part in network.modules() if part is not network]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _says_little(value: Array) -> bool:
    """Whether an answer is coarse: classes, yes or no, nothing, or one number throughout."""
    return value.dtype.kind != "f" or value.size == 0 or bool((value == value.flat[0]).all())


def _differ(first_parts: Sequence[torch.Tensor], parts: Sequence[torch.Tensor]) -> bool:
    """Whether parts gave something else; a table that has grown meanwhile is no answer."""
    return len(first_parts) == len(parts) and any(
        a.shape == b.shape and not _same(a, b) for a, b in zip(first_parts, parts, strict=True)
    )


def _variants(model: Model) -> Iterator[Mapping[str, Array]]:
    example = probe_inputs.example(model)
    yield example
    example_sizes = probe_inputs.sizes(model, example)
    for seed, sizes in enumerate(
        (example_sizes, example_sizes, *list(probe_inputs.probes(model))[:3])
    ):
        yield probe_inputs.random(model, sizes, np.random.default_rng(seed))
        yield probe_inputs.resize(model, example, sizes)


def fill_caches(model: Model, run: Run) -> None:
    """Run a network at its largest sizes, for what it keeps that grows with them."""
    for sizes in probe_inputs.probes(model):
        with contextlib.suppress(ExportError):
            run(probe_inputs.resize(model, probe_inputs.example(model), sizes))


def depends(changes: Sequence[str], what: str) -> ExportError:
    """The error of a network whose answers follow what it was asked before."""
    return ExportError(
        f"the network keeps state between calls: {what}. A call changes "
        f"{', '.join(changes)}\n  What to do: take it as an input, return the new one as an output "
        "and name the two in Model(state={...}), or do without it in evaluation mode"
    )
