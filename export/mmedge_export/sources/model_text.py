"""The text of a factory that makes a model which a source read from ONNX files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge_export.inputs import Input
from mmedge_export.loops import Generate, StateInput
from mmedge_export.sources.example_file import Example
from mmedge_export.sources.factory_text import head_lines, import_lines
from mmedge_export.sources.onnx import load_file, reference
from mmedge_export.sources.onnx_copy import call_of
from mmedge_export.sources.onnx_example import candidates
from mmedge_export.sources.onnx_settle import settle
from mmedge_export.sources.python_text import Brackets, lay_out, plain, prefixed
from mmedge_export.sources.sample_folder import SampleFolder
from mmedge_export.sources.source import SourceDraft

if TYPE_CHECKING:
    from mmedge.spec import Array
    from mmedge_export.model import Model
    from mmedge_export.sources.python_text import Expression
    from mmedge_export.sources.source import SourceModel, SourceOptions

__all__ = ["settled", "write_model"]

#: Elements of an array that stand in the text one by one.
_LITERAL = 64

#: What may be said of an input that no source knows.
_HINTS = {
    "modality": "# modality=...,  # inputs that come together share one",
    "rate_hz": "# rate_hz=30.0, max_age_ms=100.0,  # of its sensor",
    "required": '# required=False, absent="zeros",  # if the network runs without it',
}

#: What may be said of a model that no source knows.
_MODEL_HINTS = {
    "labels": '# labels={"class": ["cat", "dog"]},  # names of an output\'s classes',
    "dims": '# dims={"batch": (1, 8)},  # smallest and largest size of a dynamic dimension',
}


def write_model(
    spec: str, source_model: SourceModel, options: SourceOptions, output: Path
) -> SourceDraft:
    """The factory that makes a model.

    Args:
        spec: what the model was read from.
        source_model: of ONNX files, and what its source says of it.
        options: that the source was given.
        output: where the factory is to lie.
    """
    return _ModelText(spec, source_model, options, output).draft()


def settled(model: Model) -> tuple[Model, str]:
    """``model`` with values that its file takes; as it is if it has a loop or states.

    Returns:
        As :func:`settle`.

    Raises:
        ExportError: as :func:`settle`.
    """
    if not isinstance(model.module, Path) or model.state or model.loop is not None:
        return model, ""  # these have been run already
    file = load_file(model.module)
    return settle(model, file, reference(file, model.outputs))


class _ModelText:
    def __init__(
        self, spec: str, source_model: SourceModel, options: SourceOptions, output: Path
    ) -> None:
        self.spec, self.model, self.options = spec, source_model.model, options
        self.output = output
        self.notes = [*source_model.remarks, *source_model.not_checked]
        self.imports = {"from pathlib import Path", "from mmedge_export import Input, Model"}
        self.known = self._known_arrays()

    def draft(self) -> SourceDraft:
        """The whole file."""
        model = self.model
        lines = [
            "    here = Path(__file__).resolve().parent",
            "    inputs = {",
            *(line for name, value in model.inputs.items() for line in self._input(name, value)),
            "    }",
            "    return Model(",
            *lay_out(self._value(model.module), 8, ","),
            "        inputs,",
            *self._outputs(),
            *self._options(),
            "    )",
        ]
        body = [
            "",
            "",
            "def factory() -> Model:",
            '    """The network with its inputs and outputs, for mmedge export."""',
            *lines,
        ]
        notes = [f"- {note}" for note in self.notes]
        says = ["It runs as it stands; what is marked CHECK is a guess."]
        says += ["What was noticed:", *notes] if notes else []
        head = head_lines(self.spec, self.output, says)
        text = [*head, "", "from __future__ import annotations", "", *import_lines(self.imports)]
        return SourceDraft(
            "\n".join([*text, *body]) + "\n",
            (),
            {
                name: f"{value.example.dtype}{list(value.example.shape)}"
                for name, value in model.inputs.items()
            },
            tuple(model.outputs),
        )

    def _outputs(self) -> list[str]:
        outputs = list(self.model.outputs)
        return lay_out(prefixed("outputs=", plain(outputs)), 8, ",") if outputs else []

    def _input(self, name: str, value: Input) -> list[str]:
        lines = [f"        {plain(name)}: Input(", *self._example(name, value.example)]
        said = []
        for field in fields(Input):
            content = getattr(value, field.name)
            if field.name != "example" and not _is_default(value, field.name):
                said.append(field.name)
                lines += lay_out(prefixed(f"{field.name}=", self._value(content)), 12, ",")
        lines += [f"            {hint}" for field, hint in _HINTS.items() if field not in said]
        return [*lines, "        ),"]

    def _example(self, name: str, example: Array) -> list[str]:
        example_file, samples = self.options.example, self.model.samples
        if isinstance(example_file, Example):
            old_names = {new: old for old, new in self.options.rename.items()}
            for key in (name, old_names.get(name, name)):
                if key in example_file and np.array_equal(example_file[key], example):
                    self._import("mmedge_export.sources.example_file", "read_example")
                    file = self._value(example_file.path)
                    return [f"            read_example({file})[{plain(key)}],"]
        if isinstance(samples, SampleFolder) and name in samples.first_files():
            self._import("mmedge_export.sources.sample_folder", "read_input")
            shape = self.model.inputs[name].shape()
            words = map(plain, (name, example.dtype.name, shape))
            call = ("read_input(", (self._value(samples.first_files()[name]), *words), ")")
            return lay_out(Brackets(*call), 12, ",")
        return [
            "            # CHECK: made up; a real one is better, without made_up below",
            *lay_out(self._array(example), 12, ","),
        ]

    def _options(self) -> list[str]:
        """Arguments of the model that are not the usual ones."""
        model = self.model
        lines: list[str] = []
        for field in ("name", "made_up", "loop", "state", "labels", "dims"):
            content = getattr(model, field)
            if content is not None and (content != {} or field == "made_up"):
                lines += lay_out(prefixed(f"{field}=", self._value(content)), 8, ",")
            elif field in _MODEL_HINTS:
                lines.append(f"        {_MODEL_HINTS[field]}")
        if isinstance(model.samples, SampleFolder):
            self._import("mmedge_export.sources.sample_folder", "SampleFolder")
            folder = self._value(model.samples.folder)
            lines += lay_out(Brackets("samples=SampleFolder(", (folder, "inputs"), ")"), 8, ",")
        else:
            lines.append("        # samples=...,  # pairs (inputs by name, target): golden samples")
        return [
            *lines,
            "        # evaluation=..., metric=...,  # what a lower precision is judged by",
        ]

    def _value(self, value: Any) -> Expression:  # noqa: ANN401 - whatever a model holds
        """A Python expression of ``value``."""
        if isinstance(value, Path):
            return self._path(value)
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, Mapping):
            pairs = (prefixed(f"{plain(key)}: ", self._value(each)) for key, each in value.items())
            return Brackets("{", tuple(pairs), "}")
        if isinstance(value, Generate | StateInput):
            kind = type(value).__name__
            self._import("mmedge_export", kind)
            arguments = (
                prefixed(f"{field.name}=", self._value(getattr(value, field.name)))
                for field in fields(value)
                if field.init and not _is_default(value, field.name)
            )
            return Brackets(f"{kind}(", tuple(arguments), ")")
        return plain(value)

    def _path(self, path: Path) -> Expression:
        """A path from the factory's folder, or the call that makes a copy of such a file."""
        call = call_of(path)
        if call is None:
            there = os.path.relpath(path.resolve(), self.output.resolve().parent)
            return f"here / {plain(Path(there).as_posix())}"
        self._import(call.module, call.function)
        files = tuple(self._path(file) for file in call.files)
        if call.lists_files:
            files = (Brackets("[", files, "]"),)
        items = (*files, *(plain(each) for each in call.arguments))
        return Brackets(f"{call.function}(", items, ")[0]" if call.lists_files else ")")

    def _array(self, array: Array) -> Expression:
        self.imports.add("import numpy as np")
        for other, text in self.known:
            if other.dtype == array.dtype and np.array_equal(other, array):
                start, _, inner = text.partition("(")
                items, _, dtype = inner.rpartition(", ")
                return Brackets(f"{start}(", (items, dtype.removesuffix(")")), ")")
        dtype = "np.bool_" if array.dtype == np.bool_ else f"np.{array.dtype.name}"
        if array.size and (array == array.flat[0]).all():
            return f"np.full({array.shape}, {array.flat[0].item()!r}, {dtype})"
        if array.size <= _LITERAL:
            return f"np.array({array.tolist()!r}, {dtype})"
        self.notes.append("An example here is of the right shape, and has other values.")
        return f"np.zeros({array.shape}, {dtype})"

    def _known_arrays(self) -> list[tuple[Array, str]]:
        """What is made up for an ONNX file, with its text."""
        model = self.model
        known: list[tuple[Array, str]] = []
        if model.made_up is None:
            return known
        files = [model.module, None if model.loop is None else model.loop.step]
        for path in files:
            if isinstance(path, Path):
                for candidate in candidates(load_file(path), model.made_up):
                    known += [
                        (candidate.values[name], candidate.texts[name]) for name in candidate.values
                    ]
        return known

    def _import(self, module: str, name: str) -> None:
        self.imports.add(f"from {module} import {name}")


def _is_default(value: Any, name: str) -> bool:  # noqa: ANN401 - a dataclass
    """Whether a field says what it says by itself."""
    field = next(each for each in fields(value) if each.name == name)
    content = getattr(value, name)
    if isinstance(content, np.ndarray):
        return False
    if name == "initial" and isinstance(value, StateInput):
        return bool(content == ("zeros" if value.grows is None else "empty"))
    return content == field.default or content in ((), {})
