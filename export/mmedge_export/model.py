"""What the user names becomes a :class:`Model`: a network, its named inputs, samples and a metric.

Everything that can be known to be wrong without running the network is refused here, when the
:class:`Model` is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmedge.constraints import parse
from mmedge.errors import ExportError
from mmedge.schema.names import NAME, TENSOR_NAME
from mmedge.spec import Array, Constraint, Dimension
from mmedge_export.domain import SizeDomain
from mmedge_export.inputs import Input, Limits, check_input
from mmedge_export.loop_checks import check_loop
from mmedge_export.text import check_text, read_tokenizer

if TYPE_CHECKING:
    import torch

    from mmedge_export.loops import Loop, StateInput

__all__ = ["Metric", "Model", "modality_name"]

Metric = Callable[[list[dict[str, Array]], list[Any]], float]

#: What inputs of one modality have to say alike, because the manifest says it once.
_CONTRACT = ("required", "rate_hz", "max_age_ms", "absent", "sample_rate_hz")


@dataclass(frozen=True)
class Model:
    """A trained network as the toolchain takes it.

    ``module`` is a torch module, or the path of an ONNX file that is taken as it is. ``inputs`` are
    passed to it by keyword. ``outputs`` name what it returns: one name for a tensor, one for each
    element of a tuple or list, or keys of a mapping, named tuple or dataclass, ``hidden.0`` for
    what lies further in (keys left out are dropped). A mapping of names to keys gives outputs other
    names than the network does: ``{"x_out": "x"}``. A module in
    training mode is traced in evaluation mode and put back afterwards.

    ``samples`` yields ``(inputs, target)`` pairs; the first are the bundle's golden samples and all
    are held against the network at export. ``evaluation`` yields as many more as it takes to judge
    a lower precision, which is all that they are for; None: ``samples``. ``metric(outputs,
    targets)`` judges a list of either (larger is better). ``labels`` gives the class names of an
    output. ``dims`` gives the smallest and largest size of a dynamic dimension, inclusive, and what
    its sizes are multiples of, where that is not 1: ``{"H": (32, 640, 32)}``. The smallest may be
    0, for what there may be none of; a largest of None is no limit. Without it a dimension may have
    any size from 1 on. ``constraints`` are relations between dynamic dimensions that every call
    keeps, such as ``"T <= S"`` (docs/reference/bundle.md has the grammar): a network that takes
    another branch elsewhere is exported for these sizes, and calls are checked. ``made_up`` is set
    where nobody gave the examples of an ONNX file: then it holds the sizes that were stated.

    ``loop`` runs a further module step by step on what ``module`` returns, which is then computed
    once for a call: until a stop token (:class:`mmedge_export.Generate`), or over a schedule
    (:class:`mmedge_export.Denoise`). Without ``module`` (None), the loop is all there is, such as a
    network that continues a text. ``state`` names inputs of ``module`` that take what the run
    before gave (:class:`mmedge_export.StateInput`); they are passed to it beside ``inputs``. Their
    new values are outputs that ``module`` returns after ``outputs``, unless these name them.

    ``computed`` and ``state_outputs`` are set by export: inputs that a network made, which are not
    drawn at random, and the output that is the new value of an input, by that input.

    Raises:
        ExportError: the parts do not fit each other; the message names the part and the fix.
    """

    module: torch.nn.Module | Path | None
    inputs: Mapping[str, Input]
    outputs: Sequence[str] | Mapping[str, str] = ()
    samples: Iterable[tuple[Mapping[str, Array], Any]] | None = None
    evaluation: Iterable[tuple[Mapping[str, Array], Any]] | None = None
    metric: Metric | None = None
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    dims: Mapping[str, Limits] = field(default_factory=dict)
    name: str | None = None
    made_up: Mapping[str, int] | None = None
    constraints: Sequence[str] = ()
    loop: Loop | None = None
    state: Mapping[str, StateInput] = field(default_factory=dict)
    computed: frozenset[str] = frozenset()
    state_outputs: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        module: Any = self.module
        if isinstance(module, str):
            object.__setattr__(self, "module", Path(module))
        if self.module is not None:
            _check_module(self.module)
        _check_names(self.inputs, self.outputs, is_torch=not isinstance(self.module, Path))
        for name, value in self.inputs.items():
            check_input(name, value, empty=isinstance(self.module, Path))
            if value.tokenizer is not None:
                read_tokenizer(name, Path(value.tokenizer))
        for modality, names in self.modalities().items():
            _check_modality(modality, {name: self.inputs[name] for name in names}, self.dims)
        has_module = self.module is not None
        check_loop(self.loop, self.state, self.inputs, self.outputs, has_module=has_module)
        _check_dims(self)
        _check_constraints(self)
        for name in self.labels:
            if name not in self.outputs:
                raise ExportError(
                    f"labels are given for {name!r}, which is no output; outputs are "
                    f"{', '.join(self.outputs)}"
                )

    def regrouped(self, modality: Mapping[str, Sequence[str]]) -> Model:
        """This model with the named inputs under other modalities; the rest stay as they are.

        Raises:
            ExportError: an input is unknown or named twice, or the grouping does not hold.
        """
        input_names = [name for names in modality.values() for name in names]
        for name in input_names:
            if name not in self.inputs or input_names.count(name) > 1:
                raise ExportError(
                    f"modality: {name!r} is "
                    + ("named twice" if name in self.inputs else "no input")
                    + f"; the inputs are {', '.join(self.inputs)}"
                )
        groups = {name: group for group, names in modality.items() for name in names}
        inputs = {
            name: replace(value, modality=groups.get(name, value.modality))
            for name, value in self.inputs.items()
        }
        return replace(self, inputs=inputs)

    def modalities(self) -> dict[str, tuple[str, ...]]:
        """Names of the inputs of each modality, both in the order of ``inputs``.

        An input without one has a modality of its own, called after it as far as a modality may be:
        ``gpu_0/data:0`` gives ``gpu_0_data_0``.
        """
        groups: dict[str, tuple[str, ...]] = {}
        group_names = {value.modality or name for name, value in self.inputs.items()}
        for name, value in self.inputs.items():
            group = value.modality or name
            if value.modality is None and not NAME.fullmatch(name):
                plain, count = modality_name(name), 0
                group = plain
                while group in group_names:
                    count += 1
                    group = f"{plain}_{count}"
                group_names.add(group)
            groups[group] = (*groups.get(group, ()), name)
        return groups

    def dimensions(self) -> dict[str, Dimension]:
        """Limits and example size of each dynamic dimension."""
        dimensions: dict[str, Dimension] = {}
        for value in self.inputs.values():
            for axis, symbol in value.dynamic.items():
                least, most, *step = self.dims.get(symbol, (1, None))
                multiple = step[0] if step else 1
                size = value.example.shape[axis]
                dimensions[symbol] = Dimension(
                    min(least, size), max(size, multiple), most, multiple
                )
        return dimensions

    def domain(self) -> SizeDomain:
        """The sizes that calls may have."""
        limits = tuple(Constraint(text, "Model.constraints") for text in self.constraints)
        return SizeDomain(self.dimensions(), limits)


def modality_name(name: str) -> str:
    """Name of the modality of an input that states none: ``name``, as far as it can be one."""
    if NAME.fullmatch(name):
        return name
    return re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")[:60] or "input"


def _check_module(module: Any) -> None:  # noqa: ANN401
    if isinstance(module, Path):
        if not module.is_file():
            raise ExportError(f"no ONNX file at {module}; expected the path of an .onnx file")
    elif not (hasattr(module, "named_modules") and hasattr(module, "forward")):
        raise ExportError(
            f"module: expected a torch.nn.Module or the path of an ONNX file, got "
            f"{type(module).__name__}; wrap a function in a module whose forward calls it"
        )


def _check_names(
    inputs: Mapping[str, Input], outputs: Sequence[str] | Mapping[str, str], *, is_torch: bool
) -> None:
    if not isinstance(inputs, Mapping) or not inputs:
        raise ExportError("inputs: expected a mapping of at least one name to an Input")
    if isinstance(outputs, str):
        raise ExportError(f"outputs: expected a list of at least one name, got {outputs!r}")
    names = [*inputs, *outputs]
    for name in names:
        if not isinstance(name, str) or not TENSOR_NAME.fullmatch(name):
            raise ExportError(
                f"inputs and outputs need a name of the form {TENSOR_NAME.pattern}, got {name!r}"
            )
        if names.count(name) > 1:
            raise ExportError(
                f"the name {name!r} is used more than once among the inputs and outputs; give each "
                "tensor a name of its own"
                + (
                    f', such as outputs={{"{name}_out": "{name}"}} for what the network calls so'
                    if name in inputs and name in outputs
                    else ""
                )
            )
    if isinstance(outputs, Mapping):
        if not is_torch:
            raise ExportError("outputs: an ONNX file's outputs keep their names; give a list")
        for name, key in outputs.items():
            if not isinstance(key, str) or not key:
                raise ExportError(f"outputs: {name!r}: expected the key of a result, got {key!r}")


def _check_modality(modality: str, inputs: Mapping[str, Input], dims: Mapping[str, Limits]) -> None:
    if not NAME.fullmatch(modality):
        raise ExportError(f"a modality needs a name of the form {NAME.pattern}, got {modality!r}")
    (first, model), *others = inputs.items()
    for name, value in others:
        for what in _CONTRACT:
            if getattr(value, what) != getattr(model, what):
                raise ExportError(
                    f"modality {modality!r}: inputs {first!r} and {name!r} disagree on {what} "
                    f"({getattr(model, what)!r} and {getattr(value, what)!r}); inputs that share a "
                    "modality come and go together, so say the same for both"
                )
    carriers = [name for name, value in inputs.items() if value.tokenizer is not None]
    if not carriers:
        return
    if len({Path(inputs[name].tokenizer or "") for name in carriers}) > 1:
        raise ExportError(f"modality {modality!r}: {', '.join(carriers)} name other tokenizers")
    ids = inputs[carriers[0]].example
    if ids.dtype.name not in ("int32", "int64"):
        raise ExportError(
            f"input {carriers[0]!r}: a tokenizer feeds int32 or int64 token ids, but the example "
            f"is {ids.dtype}; move the tokenizer to the input that takes the ids"
        )
    if ids.ndim != 2:
        raise ExportError(
            f"input {carriers[0]!r}: a tokenizer feeds token ids [batch, tokens], but the example "
            f"has rank {ids.ndim} {list(ids.shape)}; add or take away axes inside the network"
        )
    masks = [name for name in inputs if name != carriers[0]]
    if len(masks) > 1:
        raise ExportError(
            f"modality {modality!r}: a tokenizer fills the ids and at most one mask, but "
            f"{', '.join(masks)} remain beside {carriers[0]!r}; give the rest another modality"
        )
    for name in masks:
        if inputs[name].shape() != inputs[carriers[0]].shape():
            raise ExportError(
                f"modality {modality!r}: the mask {name!r} {inputs[name].shape()} must have the "
                f"shape of the ids {carriers[0]!r} {inputs[carriers[0]].shape()}"
            )
    check_text(inputs, carriers[0], masks[0] if masks else None, dims)


def _check_dims(model: Model) -> None:
    first_uses: dict[str, tuple[str, int]] = {}
    for name, value in model.inputs.items():
        for axis, symbol in value.dynamic.items():
            size = value.example.shape[axis]
            other, other_size = first_uses.setdefault(symbol, (name, size))
            if size != other_size:
                raise ExportError(
                    f"dynamic dimension {symbol!r} is {other_size} in the example of {other!r} but "
                    f"{size} in that of {name!r}; one name means one size"
                )
    growing = {value.grows for value in model.state.values()}
    for symbol, limits in model.dims.items():
        if symbol in growing:
            continue  # of which there is no example yet
        if symbol not in first_uses:
            raise ExportError(
                f"dims names {symbol!r}, but no input has a dynamic dimension of that name "
                f"(there are: {', '.join(first_uses) or 'none'})"
            )
        _check_limits(symbol, limits, first_uses[symbol][1])


def _check_constraints(model: Model) -> None:
    dimensions = model.dimensions()
    if isinstance(model.constraints, str):
        raise ExportError(f"constraints: expected a list of texts, got {model.constraints!r}")
    for text in model.constraints:
        try:
            relation = parse(text)
        except (TypeError, ValueError) as error:
            raise ExportError(f"constraints: {text!r}: expected {error}") from error
        if unknown := relation.names - dimensions.keys():
            raise ExportError(
                f"constraints: {text!r} names {min(unknown)!r}, but no input has a dynamic "
                f"dimension of that name (there are: {', '.join(dimensions) or 'none'})"
            )
        example = {name: limits.opt for name, limits in dimensions.items()}
        if not relation.holds(example):
            sizes_text = ", ".join(f"{name}={example[name]}" for name in sorted(relation.names))
            raise ExportError(f"constraints: the example has {sizes_text}, which breaks {text!r}")


def _check_limits(symbol: str, limits: Any, example: int) -> None:  # noqa: ANN401
    has_form = isinstance(limits, (tuple, list)) and len(limits) in (2, 3)
    if not has_form or not all(
        (type(n) is int and n >= 0) or (n is None and at == 1) for at, n in enumerate(limits)
    ):
        raise ExportError(
            f"dims[{symbol!r}] is {limits!r}: expected (smallest, largest) or (smallest, largest, "
            "multiple), whole numbers; the largest may be None"
        )
    least, most = limits[:2]
    multiple = limits[2] if len(limits) == 3 else 1
    if multiple < 1 or any(size % multiple for size in (least, example, most or 0)):
        raise ExportError(
            f"dims[{symbol!r}] is {limits}: expected smallest, largest and the size in the example "
            f"({example}) to be multiples of a third number from 1 on"
        )
    if not least <= example or (most is not None and (most < 1 or example > most)):
        raise ExportError(
            f"dims[{symbol!r}] is {limits}: expected 0 <= smallest <= size in the example "
            f"({example}) <= largest"
        )
