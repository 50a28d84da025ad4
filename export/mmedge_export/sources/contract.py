"""What the command line says of modalities, samples and sizes, for the model of any source."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mmedge.errors import ExportError
from mmedge_export.sources.sample_folder import SampleFolder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge_export.inputs import Limits
    from mmedge_export.model import Model
    from mmedge_export.sources.source import DimensionOption, SourceModel, SourceOptions

__all__ = ["CONTRACT", "with_contract"]

#: Options that every source takes, since they say something of any model.
CONTRACT = frozenset({"modality", "samples", "rates", "optional"})


def with_contract(source_model: SourceModel, options: SourceOptions) -> SourceModel:
    """A model with modalities, samples, rates, absence and limits of sizes as the options say.

    Raises:
        ExportError: there is no such input, modality or dimension, or the example does not keep the
            limits.
    """
    model = source_model.model
    if options.modality:
        model = model.regrouped(options.modality)
    groups = model.modalities()
    inputs = dict(model.inputs)
    for flag, names in (("--rate", options.rates), ("--optional", options.optional)):
        for name in names:
            if name not in groups and name not in inputs:
                raise ExportError(
                    f"{flag} {name}: no modality or input of that name; there are "
                    f"{', '.join(dict.fromkeys([*groups, *inputs]))}"
                )
    for group, members in groups.items():
        rates = {options.rates[name] for name in (group, *members) if name in options.rates}
        if len(rates) > 1:
            raise ExportError(
                f"--rate: modality {group!r} has {len(rates)} rates; its inputs come together"
            )
        for member in members:
            if rates:
                inputs[member] = replace(inputs[member], rate_hz=next(iter(rates)))
            if any(name in options.optional for name in (group, *members)):
                inputs[member] = replace(inputs[member], required=False)
    model = _with_limits(replace(model, inputs=inputs), options.dims)
    not_checked = source_model.not_checked
    if options.samples is not None:
        samples = SampleFolder(options.samples, model.inputs)
        model = replace(model, samples=samples)
        not_checked = (*not_checked, *samples.not_checked())
    return replace(source_model, model=model, not_checked=not_checked)


def _with_limits(model: Model, dims: Mapping[str, DimensionOption]) -> Model:
    """``model`` with limits of dimensions, of its inputs or of what grows in its loop."""
    limits = {name: limited for name, said in dims.items() if (limited := _limits(said))}
    if not limits:
        return model
    symbols = {symbol for value in model.inputs.values() for symbol in value.dynamic.values()}
    symbols |= {value.grows for value in model.state.values() if value.grows is not None}
    growing = set()
    if model.loop is not None:
        states = [value for value in model.loop.state.values() if not isinstance(value, str)]
        growing = {value.grows for value in states if value.grows is not None}
    for name in limits:
        if name not in symbols | growing:
            raise ExportError(
                f"--dim {name}: no dynamic dimension of that name; there are "
                f"{', '.join(sorted(symbols | growing)) or 'none'}"
            )
    of_model = {name: value for name, value in limits.items() if name in symbols}
    of_loop = {name: value for name, value in limits.items() if name not in symbols}
    loop = model.loop
    if loop is not None and of_loop:
        loop = replace(loop, dims={**loop.dims, **of_loop})
    return replace(model, dims={**model.dims, **of_model}, loop=loop)


def _limits(said: DimensionOption) -> Limits | None:
    if said.min is None and said.max is None and said.multiple is None:
        return None
    multiple = said.multiple or 1
    least = multiple if said.min is None else said.min
    most = said.max or None
    return (least, most) if multiple == 1 else (least, most, multiple)
