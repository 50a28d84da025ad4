"""The manifest as JSON: strict reading and writing of :class:`mmedge.spec.Manifest`.

docs/reference/bundle.md is the specification that this package implements. A manifest is read whole
or not at all: every field must be there, no other may be, and every name must refer to something.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING

from mmedge.constraints import MAX_CONSTRAINTS
from mmedge.errors import BundleError
from mmedge.schema.names import (
    DIGEST,
    MANIFEST,
    MAX_ATOL,
    MAX_ELEMENTS,
    MAX_FILES,
    MAX_FLOPS,
    MAX_LABELS_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_RANK,
    MAX_RTOL,
    MAX_STAGES,
    MAX_TEXT,
    MAX_VARIANTS,
    NAME,
    SAMPLES,
    SHA256,
    SIGNATURE,
    TENSOR_NAME,
    path_fault,
)
from mmedge.schema.read import (
    Misfit,
    array,
    boolean,
    decode,
    integer,
    members,
    nullable,
    number,
    one_of,
    path,
    record,
    show,
    table,
    text,
)
from mmedge.schema.rules import check
from mmedge.schema.upgrade import OLDEST, upgraded
from mmedge.spec import (
    DTYPES,
    SCHEMA_VERSION,
    Constraint,
    Cut,
    Dimension,
    Manifest,
    Modality,
    Move,
    Plan,
    Range,
    Stage,
    TensorSpec,
    Tokenizer,
    Tolerance,
    Variant,
)

if TYPE_CHECKING:
    from types import ModuleType

    from mmedge.loop_spec import DenoiseLoop, GenerateLoop, StateSpec

__all__ = [
    "DIGEST",
    "MANIFEST",
    "MAX_FILES",
    "MAX_MANIFEST_BYTES",
    "MAX_TEXT",
    "SAMPLES",
    "SIGNATURE",
    "labels_from_json",
    "manifest_from_json",
    "manifest_to_json",
    "path_fault",
    "plain",
    "read_variant",
    "stated_version",
]

#: Names of plans.
PLANS = ("cut", "whole")

#: How a variant takes states that grow.
CACHES = ("growing", "in_place")

_name, _tensor_name, _size = text(NAME), text(TENSOR_NAME), integer(1, MAX_ELEMENTS)
_note = table(text(), text())


_fixed = integer(0, MAX_ELEMENTS)  # 0: a tensor that never holds anything


def _axis(value: object, where: str) -> int | str:
    return _name(value, where) if isinstance(value, str) else _fixed(value, where)


_tensor = record(
    TensorSpec, name=_tensor_name, dtype=one_of(DTYPES), shape=array(_axis, most=MAX_RANK)
)
_dimension = record(
    Dimension, min=integer(0, MAX_ELEMENTS), opt=_size, max=nullable(_size), multiple=_size
)
_constraint = record(Constraint, expression=text(), source=text())
_tokenizer = record(Tokenizer, file=path, ids=_tensor_name, mask=nullable(_tensor_name))
_modality = record(
    Modality,
    name=_name,
    inputs=array(_tensor_name, least=1),
    required=boolean,
    rate_hz=nullable(number(above=0)),
    max_age_ms=nullable(number(above=0)),
    absent=one_of(("zeros", "token", "last")),
    tokenizer=nullable(_tokenizer),
    sample_rate_hz=nullable(integer(1, MAX_ELEMENTS)),
)
_stage = record(
    Stage,
    name=_name,
    graph=path,
    inputs=array(_tensor, least=1),
    outputs=array(_tensor, least=1),
    modality=nullable(_name),
    flops=integer(0, MAX_FLOPS),
)
_plan = record(Plan, name=one_of(PLANS), stages=array(_name, least=1, most=MAX_STAGES))
_move = record(Move, modality=_name, what=text(), flops=integer(0, MAX_FLOPS))
_tolerance = record(
    Tolerance, rtol=number(least=0, most=MAX_RTOL), atol=number(least=0, most=MAX_ATOL)
)
read_variant = record(
    Variant,
    backend=_name,
    precision=_name,
    target=_name,
    files=table(_name, path),
    tolerance=_tolerance,
    tolerances=table(_tensor_name, _tolerance),
    requires=table(_name, text()),
    build=_note,
    metrics=table(_name, number()),
    not_checked=array(text()),
    plan=nullable(one_of(PLANS)),
    cache=one_of(CACHES),
)


def _states(value: object, where: str) -> tuple[StateSpec, ...]:
    return () if value == [] else _loop_readers().states(value, where)


def _loops(value: object, where: str) -> tuple[GenerateLoop | DenoiseLoop, ...]:
    return () if value == [] else _loop_readers().loops(value, where)


def _loop_readers() -> ModuleType:
    # Most bundles have none, and do without the module.
    from mmedge.schema import loops

    return loops


_manifest = record(
    Manifest,
    schema_version=integer(SCHEMA_VERSION, SCHEMA_VERSION),
    name=_name,
    modalities=array(_modality, least=1),
    stages=array(_stage, least=1, most=MAX_STAGES),
    outputs=array(_tensor_name),
    variants=array(read_variant, least=1, most=MAX_VARIANTS),
    files=table(path, text(SHA256), most=MAX_FILES),
    dimensions=table(_name, _dimension),
    ranges=table(_tensor_name, record(Range, min=number(), max=number())),
    cut=record(Cut, moves=array(_move), remarks=array(text())),
    constraints=array(_constraint, most=MAX_CONSTRAINTS),
    not_checked=array(text()),
    labels=table(_tensor_name, path),
    provenance=_note,
    samples=integer(0, MAX_FILES),
    plans=array(_plan, most=len(PLANS)),
    states=_states,
    loops=_loops,
)


def manifest_from_json(data: bytes | str, *, source: str = MANIFEST) -> Manifest:
    """Read a manifest.

    Args:
        data: its JSON text, or the same in UTF-8; of this version of the schema, of 3 or of 4.
        source: what an error names as the place.

    Raises:
        BundleError: the text is not a manifest of schema :data:`mmedge.spec.SCHEMA_VERSION`. The
            message holds the JSON path, what was expected there and what was found.
    """
    try:
        tree = decode(data)
        _check_version(members(tree, "$").get("schema_version"), source)
        manifest = _manifest(upgraded(members(tree, "$")), "$")
        check(manifest)
    except Misfit as fault:
        raise BundleError(f"{source}: {fault}; export the bundle again") from fault
    return manifest


def _check_version(version: object, source: str) -> None:
    # Before the fields: those of another version would only be reported as unknown.
    if type(version) is int and not OLDEST <= version <= SCHEMA_VERSION:
        newer = version > SCHEMA_VERSION
        raise BundleError(
            f"{source}: $.schema_version: expected schema version {SCHEMA_VERSION}, got "
            f"{'newer' if newer else 'older'} schema version {show(version)}; "
            f"{'upgrade mmedge' if newer else 'export the bundle again'}"
        )


def stated_version(data: bytes) -> int | None:
    """The version that a manifest says it has; None where it says none that is a number."""
    try:
        version = members(decode(data), "$").get("schema_version")
    except Misfit:
        return None
    return version if type(version) is int else None


def labels_from_json(data: bytes, *, source: str) -> list[str]:
    """Read a labels file: a JSON list of printable strings, at most 4 MiB.

    Raises:
        BundleError: the data is anything else.
    """
    try:
        return list(array(text(), most=MAX_ELEMENTS)(decode(data, most=MAX_LABELS_BYTES), "$"))
    except Misfit as fault:
        raise BundleError(f"{source}: {fault}; export the bundle again") from fault


def manifest_to_json(manifest: Manifest) -> str:
    """Write a manifest: indented JSON, every field present, keys of free-form objects sorted.

    Equal manifests give equal text.

    Raises:
        BundleError: :func:`manifest_from_json` would refuse the result.
    """
    document = json.dumps(plain(manifest), indent=2, ensure_ascii=False) + "\n"
    manifest_from_json(document, source=f"manifest of {manifest.name!r}")
    return document


def plain(value: object) -> object:
    """Dataclasses, mappings and tuples as JSON has them; keys of mappings are sorted."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(value[key]) for key in sorted(value)}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value
