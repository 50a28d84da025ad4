"""What a source is: it takes what a user names on the command line, and gives a :class:`Model`.

A source is a class without arguments of its constructor, named by an entry point of the group
``mmedge.sources``, mmedge's own as well as those of other packages.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from mmedge.spec import Array
    from mmedge_export.model import Model

__all__ = [
    "DimensionOption", "Source", "SourceDraft", "SourceModel", "SourceOptions", "flags",
    "parse_frame",
]  # fmt: skip


@dataclass(frozen=True)
class DimensionOption:
    """What the command line says of a dynamic dimension; None: nothing.

    ``max`` of 0 is no limit. ``opt`` is the size in the example.
    """

    min: int | None = None
    opt: int | None = None
    max: int | None = None
    multiple: int | None = None

    @classmethod
    def parse(cls, text: str) -> DimensionOption:
        """What ``OPT``, ``MIN:OPT:MAX`` or ``MIN:OPT:`` says.

        Raises:
            ValueError: it is another text; the message says what is wrong with it.
        """
        words = text.split(":")
        if len(words) not in (1, 3) or not all(w.isdigit() for w in words[:2]):
            raise ValueError(
                "expected a size such as 8, or smallest, example and largest as in 1:8:64"
            )
        if len(words) == 1:
            opt = int(text)
            if opt < 1:
                raise ValueError("expected a size from 1 on")
            return cls(opt=opt)
        if words[2] and not words[2].isdigit():
            raise ValueError("expected a largest size, or nothing where there is none")
        least, opt, most = int(words[0]), int(words[1]), int(words[2] or 0)
        if opt < 1 or not least <= opt or (words[2] and opt > most):
            raise ValueError("expected smallest <= example <= largest, the example from 1 on")
        return cls(least, opt, most)


@dataclass(frozen=True)
class SourceOptions:
    """What a user says of a network beside its name; each source takes some of it.

    Attributes:
        modality: inputs of each modality, in place of what the source says.
        dims: sizes of dynamic dimensions, by name.
        example: an array for each input.
        samples: a folder of inputs of the network, for golden samples.
        rates: values a second that the sensor of a modality, or of an input, delivers.
        optional: modalities, or inputs of them, that may be missing.
        rename: another name in the bundle for an input or output.
        states: inputs that take an output of the run before.
        decoder: a further ONNX file, which is run token by token.
        token: the input for tokens; then the network is run token by token.
        logits: the output with scores of tokens.
        position: the input for positions.
        start: tokens before the caller's.
        stop: tokens that end a row.
        limit: most tokens that a call chooses.
        tokenizer: a file of the ``tokenizers`` library.
        frame: height and width of a camera's pictures, in place of the size that a checkpoint's
            processor makes of them.
        task: which of the things that a class can do.
        language: of speech, or of what is written, where a class knows several.
        trust_remote_code: run Python code that lies in a checkpoint.
    """

    modality: Mapping[str, Sequence[str]] = field(default_factory=dict)
    dims: Mapping[str, DimensionOption] = field(default_factory=dict)
    example: Mapping[str, Array] | None = None
    samples: Path | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    optional: Sequence[str] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)
    decoder: Path | None = None
    token: str | None = None
    logits: str | None = None
    position: str | None = None
    start: Sequence[int] | None = None
    stop: Sequence[int] | None = None
    limit: int | None = None
    tokenizer: Path | None = None
    frame: tuple[int, int] | None = None
    task: str | None = None
    language: str | None = None
    trust_remote_code: bool = False

    def names(self) -> frozenset[str]:
        """Names of the fields that say something."""
        plain = SourceOptions()
        return frozenset(
            each.name
            for each in fields(self)
            # An example has arrays, which do not compare as a whole.
            if (
                self.example is not None
                if each.name == "example"
                else getattr(self, each.name) != getattr(plain, each.name)
            )
        )


def parse_frame(text: str) -> tuple[int, int]:
    """Height and width of ``"480x640"``.

    Raises:
        ValueError: it has another form.
    """
    numbers = text.split("x")
    if len(numbers) != 2 or not all(n.isascii() and n.isdigit() and int(n) for n in numbers):
        raise ValueError("expected HEIGHTxWIDTH in pixels, such as 480x640")
    return int(numbers[0]), int(numbers[1])


def flags(names: Iterable[str]) -> list[str]:
    """Options of the command line that set these fields of :class:`SourceOptions`."""
    special = {"dims": "--dim or --multiple", "rates": "--rate", "states": "--state"}
    order = [each.name for each in fields(SourceOptions)]
    return [
        special.get(name, f"--{name.replace('_', '-')}") for name in sorted(names, key=order.index)
    ]


@dataclass(frozen=True)
class SourceModel:
    """What a source made of a name.

    Attributes:
        model: the network.
        remarks: what the source chose, and what a user may notice of it, a line each. They are
            shown by export, and are remarks of the bundle.
        not_checked: what the source could not find out, a line each. It is shown and goes into the
            bundle under that name.
    """

    model: Model
    remarks: tuple[str, ...] = ()
    not_checked: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceDraft:
    """A Python file with a function ``factory`` that gives the :class:`Model`, to be edited.

    Attributes:
        text: of the file.
        fill_in: what has to be written in it before export takes it, a line each.
        inputs: each input, with dtype and shape of its example in words; None: not known.
        outputs: names, as far as they are known.
    """

    text: str
    fill_in: tuple[str, ...] = ()
    inputs: Mapping[str, str | None] = field(default_factory=dict)
    outputs: Sequence[str] = ()


class Source(Protocol):
    """One kind of name, and how a network is read from it.

    Attributes:
        name: of the source, as its entry point is called.
        forms: what may be typed, for messages and help, such as ``"hf:DIR"``.
        options: fields of :class:`SourceOptions` that it takes beside those of
            :data:`mmedge_export.sources.contract.CONTRACT`; others are refused by name. Of ``dims``
            it sees to the sizes in the example, and the loader to the limits.
    """

    name: str
    forms: str
    options: frozenset[str]

    def takes(self, spec: str) -> bool:
        """Whether a name is of this source; nothing is opened for it."""

    def read(self, spec: str, options: SourceOptions) -> SourceModel:
        """The network that ``spec`` names.

        Raises:
            ExportError: there is none, or it cannot be taken; the message says what to write.
        """

    def draft(self, spec: str, options: SourceOptions, output: Path) -> SourceDraft:
        """A factory that makes the same network.

        Args:
            spec: as for :meth:`read`.
            options: as for :meth:`read`.
            output: where the file is to lie; paths in it are relative to its folder.

        Raises:
            ExportError: as :meth:`read`.
        """
