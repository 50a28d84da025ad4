"""Record classes do what the standard library's frozen dataclasses with slots do."""

from __future__ import annotations

import copy
import dataclasses
import inspect

import pytest

from mmedge import records, spec

FIELDS = {"name": "a", "shape": (1, 2), "note": "b"}


def classes():
    for decorate in (dataclasses.dataclass, records.dataclass):

        @decorate(frozen=True, slots=True)
        class Thing:
            """Of three fields."""

            name: str
            shape: tuple[int, ...] = ()
            note: str = "n"
            more: dict[str, int] = dataclasses.field(default_factory=dict)

        yield Thing


STANDARD, OURS = classes()


@pytest.mark.parametrize(
    "ask",
    [
        lambda make: repr(make(**FIELDS)),
        lambda make: make("a") == make("a"),
        lambda make: make("a") == make("b"),
        lambda make: make("a") == "a",
        lambda make: make("a").more is make("a").more,
        lambda make: str(inspect.signature(make)),
        lambda make: make.__slots__,
        lambda make: make.__match_args__,
        lambda make: make.__doc__,
        lambda make: [field.name for field in dataclasses.fields(make)],
        lambda make: dataclasses.asdict(make(**FIELDS)),
        lambda make: dataclasses.astuple(dataclasses.replace(make(**FIELDS), note="c")),
        lambda make: hash(make("a", more=())) == hash(make("a", more=())),
        lambda make: copy.copy(make(**FIELDS)) == make(**FIELDS),
        lambda make: copy.deepcopy(make(**FIELDS)) == make(**FIELDS),
    ],
)
def test_answers_are_those_of_the_standard_library(ask):
    assert ask(OURS) == ask(STANDARD)


@pytest.mark.parametrize(
    "do",
    [
        lambda thing: setattr(thing, "name", "b"),
        lambda thing: setattr(thing, "more", {}),
        lambda thing: delattr(thing, "name"),
        hash,
        lambda thing: type(thing)(),
        lambda thing: type(thing)("a", name="a"),
    ],
)
def test_refusals_are_those_of_the_standard_library(do):
    errors = []
    for make in (STANDARD, OURS):
        thing = make("a")
        with pytest.raises((AttributeError, TypeError)) as error:
            do(thing)
        errors.append(error.value)
        assert thing == make("a")
    standard, ours = errors
    assert (type(ours), str(ours)) == (type(standard), str(standard))


def test_a_name_that_is_no_field_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        OURS("a").other = 1


def test_a_manifest_s_types_are_records():
    tensor = spec.TensorSpec("a", "float32", (1, "n"))
    assert copy.copy(tensor) == tensor
    assert str(tensor) == "a: float32[1, n]"
    with pytest.raises(dataclasses.FrozenInstanceError):
        tensor.name = "b"


def test_other_kinds_are_refused():
    with pytest.raises(TypeError, match="frozen=True, slots=True"):
        records.dataclass(frozen=False, slots=True)
