"""A source: an ONNX file, which goes into the bundle as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmedge.errors import ExportError
from mmedge_export.install import installed
from mmedge_export.sources.contract import with_contract
from mmedge_export.sources.onnx_loop import OnnxLoop
from mmedge_export.sources.onnx_mask import MASK
from mmedge_export.sources.sample_folder import SampleFolder
from mmedge_export.sources.source import SourceDraft, SourceModel, SourceOptions, flags

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array

__all__ = ["OnnxSource"]

#: Options that say how tokens are chosen one after another, and nothing without --token.
_OF_TOKENS = ("logits", "position", "start", "stop", "limit", "tokenizer")


class OnnxSource:
    """``model.onnx``: inputs, outputs and dimensions are the file's."""

    name = "onnx"
    forms = "model.onnx"
    options = frozenset({"dims", "example", "rename", "states", "decoder", "token", *_OF_TOKENS})

    def takes(self, spec: str) -> bool:
        """Whether it ends in ``.onnx``."""
        return spec.lower().endswith(".onnx")

    def read(self, spec: str, options: SourceOptions) -> SourceModel:
        """The network in the file.

        Raises:
            ExportError: there is no such file, it breaks a rule of docs/reference/onnx.md, or the
                options do not fit it.
        """
        path = _path(spec)
        with installed("reading an ONNX file"):
            from mmedge_export.sources.onnx import read_onnx
            from mmedge_export.sources.onnx_pair import with_decoder
            from mmedge_export.sources.onnx_rename import rename
        decoder = options.decoder
        if decoder is not None and not decoder.is_file():
            raise ExportError(f"--decoder: no such file: {decoder}")
        path, *further = rename([path, *filter(None, [decoder])], options.rename)
        example, loop = options.example, _loop(options)
        if example is not None:
            example = {options.rename.get(name, name): value for name, value in example.items()}
        elif options.samples is not None:
            example = _first_sample(path, options.samples, None if further else loop)
        sizes = {} if example is not None else _sizes(options)
        if not further:
            return SourceModel(read_onnx(path, sizes=sizes, example=example, loop=loop))
        model = read_onnx(path, sizes=sizes, example=example)
        return SourceModel(with_decoder(model, further[0], loop or OnnxLoop()))

    def draft(self, spec: str, options: SourceOptions, output: Path) -> SourceDraft:
        """A factory for the file.

        Raises:
            ExportError: as :meth:`read`.
        """
        source_model = with_contract(self.read(spec, options), options)
        from mmedge_export.sources.model_text import settled, write_model

        model, remark = settled(source_model.model)
        remarks = (*source_model.remarks, *([f"made-up values: {remark}"] if remark else []))
        return write_model(
            spec, replace(source_model, model=model, remarks=remarks), options, output
        )


def _path(spec: str) -> Path:
    path = Path(spec)
    if not path.is_file():
        raise ExportError(f"no such file: {path}; give the path of an .onnx file")
    return path


def _first_sample(path: Path, folder: Path, loop: OnnxLoop | None) -> Mapping[str, Array]:
    """The first sample of a folder, which has all inputs but those that the loop gives."""
    from mmedge_export.sources.onnx import load_file, read_onnx

    inputs = dict(read_onnx(path).inputs)
    if loop is not None:
        for name in (*loop.named_states(load_file(path)), loop.position, MASK):
            inputs.pop(str(name), None)
    return next(iter(SampleFolder(folder, inputs)))[0]


def _sizes(options: SourceOptions) -> dict[str, int]:
    """Sizes of a made-up example: those that are said, else multiples that are near the usual."""
    from mmedge_export.sources.onnx_example import SIZES

    sizes = {}
    for name, said in options.dims.items():
        multiple = said.multiple or 1
        if said.opt is not None:
            sizes[name] = said.opt
        elif multiple > 1:
            sizes[name] = multiple * -(-SIZES[0] // multiple)
    return sizes


def _loop(options: SourceOptions) -> OnnxLoop | None:
    """What the options say of state and loop; None where they say nothing.

    Raises:
        ExportError: an option needs --token.
    """
    if options.token is None:
        if alone := flags(options.names() & set(_OF_TOKENS)):
            raise ExportError(f"{', '.join(alone)}: needs --token, the input for tokens")
        return OnnxLoop(options.states) if options.states else None
    return OnnxLoop(
        options.states,
        token=options.token,
        logits=options.logits or "logits",
        position=options.position,
        start=tuple(options.start or ()),
        stop=tuple(options.stop or ()),
        limit=options.limit or 256,
        tokenizer=options.tokenizer,
    )
