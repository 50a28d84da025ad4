"""An Optimum folder becomes a model: its files, and what its configuration says of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import ExportError
from mmedge_export.sources.onnx import dynamic_axes, load_file, read_onnx, reference
from mmedge_export.sources.onnx_loop import OnnxLoop, find_states
from mmedge_export.sources.onnx_mask import MASK, fill_zeros
from mmedge_export.sources.onnx_pair import with_decoder
from mmedge_export.sources.onnx_settle import settle
from mmedge_export.sources.optimum_files import TOKEN, constants_file, step_file
from mmedge_export.sources.optimum_tokenizer import tokenizer_file
from mmedge_export.sources.resize import resize
from mmedge_export.sources.source import SourceModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mmedge.spec import Array
    from mmedge_export.loops import Generate
    from mmedge_export.model import Model
    from mmedge_export.sources.onnx_file import OnnxFile
    from mmedge_export.sources.optimum_config import FolderConfig, TokenOptions
    from mmedge_export.sources.source import SourceOptions

__all__ = ["OptimumFolder"]

#: Inputs that a processor makes of what a sensor gives.
_PROCESSED = ("pixel_values", "input_features", "input_values")

#: The text's inputs, of which a tokenizer fills the first two.
_IDS, _TYPES = "input_ids", "token_type_ids"

#: Lengths of a text up to which it is tried whether the network takes more.
_LONGEST = 2048

#: Most difference of the two decoders' scores for the first tokens, as a share of the largest.
_RTOL = 1e-3


class OptimumFolder:
    """The files of a folder, and how they become a model.

    Args:
        folder: with the configuration.
        files: by what they are: ``model``, or ``encoder``, ``decoder`` and ``decoder_with_past``.
        config: of the folder.
        options: of the command line.
    """

    def __init__(
        self, folder: Path, files: Mapping[str, Path], config: FolderConfig, options: SourceOptions
    ) -> None:
        self.folder, self.files, self.config, self.options = folder, files, config, options
        self.remarks: list[str] = []
        self.not_checked: list[str] = []
        self.tokenizer, remarks = tokenizer_file(folder, options)
        self.remarks += remarks

    def read(self) -> SourceModel:
        """The model.

        Raises:
            ExportError: the files do not fit each other, or the network takes no example.
        """
        model = self._pair() if "encoder" in self.files else self._single()
        model = replace(model, name=self.folder.resolve().name)
        for name in _PROCESSED:
            if name in model.inputs and self.config.preprocessor:
                self.not_checked.append(
                    f"what preprocessor_config.json says of {name!r}: it is not in the graph, so "
                    "whoever calls the bundle does it"
                )
        return SourceModel(model, tuple(self.remarks), tuple(self.not_checked))

    def _pair(self) -> Model:
        """Encoder and decoders."""
        step = step_file(self.files["decoder_with_past"])
        path = constants_file(
            self.files["encoder"], self.files["decoder"], load_file(step).normalized.inputs
        )
        tokens = self._tokens(has_encoder=True)
        loop = OnnxLoop(
            {}, token=TOKEN, start=tokens.start, stop=tokens.stop, limit=tokens.limit,
            tokenizer=self.tokenizer,
        )  # fmt: skip
        model = self._with_text(self._read(path))
        model = _with_choice(with_decoder(model, step, loop, one_token=True), tokens)
        self._check_first_tokens(model, tokens)
        return model

    def _single(self) -> Model:
        """``model.onnx``: a network that runs once, or a decoder."""
        path = self.files["model"]
        interface = load_file(path).normalized
        if not find_states(interface.inputs, interface.outputs):
            if self.tokenizer is not None and {_IDS, _TYPES} <= set(interface.inputs):
                path = fill_zeros(path, _TYPES, _IDS)
            return self._with_labels(self._with_text(self._read(path)))
        tokens = self._tokens(has_encoder=False)
        position = "position_ids" if "position_ids" in interface.inputs else None
        most = self.config.positions()
        if most is not None and tokens.limit > most // 2:
            tokens = replace(tokens, limit=max(most // 2, 1))
            self.remarks.append(
                f"a call chooses at most {tokens.limit} tokens: there are {most} positions"
            )
        loop = OnnxLoop(
            {}, token=_IDS, position=position, start=tokens.start, stop=tokens.stop,
            limit=tokens.limit, tokenizer=self.tokenizer,
        )  # fmt: skip
        model = _with_choice(self._read(path, loop), tokens)
        prompt = model.inputs[_IDS].dynamic.get(1)
        if most is not None and prompt is not None and prompt not in self.options.dims:
            room = most - tokens.limit - len(tokens.start) + 1
            model = replace(model, dims={**model.dims, prompt: (1, room)})
        return self._with_text(model)

    def _tokens(self, *, has_encoder: bool) -> TokenOptions:
        tokens = self.config.tokens(self.options, has_encoder=has_encoder)
        self.remarks += tokens.remarks
        self.not_checked += tokens.not_checked
        return tokens

    def _read(self, path: Path, loop: OnnxLoop | None = None) -> Model:
        example = self.options.example
        sizes = {} if example is not None else self._sizes(load_file(path))
        model = read_onnx(path, sizes=sizes, example=example, loop=loop)
        model = self._with_picture(model)
        if example is not None or MASK not in model.inputs:
            return model
        # Nothing is hidden: a mask by chance would be padding within a text.
        mask = model.inputs[MASK]
        ones = replace(mask, example=np.ones_like(mask.example))
        return replace(model, inputs={**model.inputs, MASK: ones})

    def _with_picture(self, model: Model) -> Model:
        """``model`` with pictures of one size, where the network takes no other."""
        pixels = model.inputs.get("pixel_values")
        if pixels is None or pixels.example.ndim != 4:
            return model
        run = reference(load_file(model.module), model.outputs)  # type: ignore[arg-type] # a file
        fixed = {1}
        for axis in (2, 3):
            symbol = pixels.dynamic.get(axis)
            size = pixels.example.shape[axis]
            if symbol is not None and not _takes(run, model, {symbol: 2 * size}):
                fixed.add(axis)
                self.remarks.append(f"{symbol} of 'pixel_values' is {size}: it takes no other size")
        dynamic = {axis: name for axis, name in pixels.dynamic.items() if axis not in fixed}
        return replace(
            model, inputs={**model.inputs, "pixel_values": replace(pixels, dynamic=dynamic)}
        )

    def _sizes(self, file: OnnxFile) -> dict[str, int]:
        """Sizes of dynamic dimensions in a made-up example, as the configuration says."""
        channels, height, width = self.config.picture()
        rate = self.config.preprocessor.get("sampling_rate", 16_000)
        known = {
            "pixel_values": (1, channels, height, width),
            "input_values": (1, rate),
        }
        sizes: dict[str, int] = {}
        for value in file.inputs:
            for axis, symbol in dynamic_axes(value).items():
                shape = known.get(str(value.name), ())
                if axis < len(shape):
                    sizes[symbol] = shape[axis]
        symbols = {symbol for value in file.inputs for symbol in dynamic_axes(value).values()}
        for symbol, said in self.options.dims.items():
            if said.opt is not None and symbol in symbols:
                sizes[symbol] = said.opt
        return sizes

    def _with_text(self, model: Model) -> Model:
        """``model`` with one modality for the inputs of a text, and the rate of a sound."""
        inputs = dict(model.inputs)
        rate = self.config.preprocessor.get("sampling_rate")
        if "input_values" in inputs and type(rate) is int:
            inputs["input_values"] = replace(inputs["input_values"], sample_rate_hz=rate)
        if _IDS not in inputs:
            return replace(model, inputs=inputs)
        for name in (_IDS, MASK, _TYPES):
            if name in inputs:
                inputs[name] = replace(inputs[name], modality="text")
        if self.tokenizer is not None and _TYPES not in inputs:
            inputs[_IDS] = replace(inputs[_IDS], tokenizer=self.tokenizer)
        model = replace(model, inputs=inputs)
        symbol = inputs[_IDS].dynamic.get(1)
        if symbol is None or symbol in self.options.dims or model.loop is not None:
            return model
        longest = self._longest(model, symbol)
        return model if longest is None else replace(model, dims={symbol: (1, longest)})

    def _longest(self, model: Model, symbol: str) -> int | None:
        """Most tokens of a text, where the network takes no more; it is tried."""
        said = self.config.get("max_position_embeddings", "n_positions")
        places = self.config.tokenizer.get("model_max_length")
        run = reference(load_file(model.module), model.outputs)  # type: ignore[arg-type] # a file
        for length in (said, places):
            if type(length) is not int or not 1 < length <= _LONGEST:
                continue
            takes = [_takes(run, model, {symbol: count}) for count in (length, length + 1)]
            if takes == [True, False]:
                return int(length)
        return None

    def _with_labels(self, model: Model) -> Model:
        names = self.config.labels()
        if names is None or "logits" not in model.outputs:
            return model
        file = load_file(model.module)  # type: ignore[arg-type] # a file's model has its path
        run = reference(file, model.outputs)
        model, _ = settle(model, file, run)
        logits = run({name: value.example for name, value in model.inputs.items()})["logits"]
        if logits.shape[-1] != len(names):
            self.remarks.append(
                f"id2label of config.json names {len(names)} classes, 'logits' has "
                f"{logits.shape[-1]}: the names are left out"
            )
            return model
        return replace(model, labels={"logits": names})

    def _check_first_tokens(self, model: Model, tokens: TokenOptions) -> None:
        """Hold the step, begun with nothing, against the first decoder on the first tokens.

        Raises:
            ExportError: their scores differ.
        """
        loop: Generate = model.loop  # type: ignore[assignment] # it was made of the decoders
        example = {name: value.example for name, value in model.inputs.items()}
        encoder, decoder = load_file(self.files["encoder"]), load_file(self.files["decoder"])
        hidden = reference(encoder, list(encoder.normalized.outputs))(
            {name: example[name] for name in encoder.normalized.inputs}
        )
        batch = len(next(iter(hidden.values())))
        start = np.tile(np.array(tokens.start, np.int64), (batch, 1))
        feeds = {
            "input_ids": start,
            "encoder_hidden_states": hidden["last_hidden_state"],
            "encoder_attention_mask": example.get(MASK),
        }
        expected = reference(decoder, ["logits"])(
            {name: _given(feeds.get(name), name) for name in decoder.normalized.inputs}
        )["logits"]
        step = load_file(loop.step)  # type: ignore[arg-type] # a file
        run = reference(step, list(step.normalized.outputs))
        constants = reference(load_file(model.module), list(model.outputs))(example)  # type: ignore[arg-type]
        values = {**example, **constants}
        for value in step.inputs:
            if str(value.name) in loop.state:
                shape = [
                    0 if axis == 2 else batch if axis == 0 else int(str(size))
                    for axis, size in enumerate(value.shape or ())
                ]
                values[str(value.name)] = np.zeros(shape, np.float32)
        results: dict[str, Array] = {}
        for column in start.T:
            values[TOKEN] = column[:, None]
            results = run({name: values[name] for name in step.normalized.inputs})
            for name, state in loop.state.items():
                values[name] = results[state if isinstance(state, str) else state.output]
        difference = float(
            np.abs(results["logits"][:, -1] - expected[:, -1].astype(np.float32)).max()
        )
        if difference > _RTOL * float(np.abs(expected).max()):
            raise ExportError(
                f"{self.files['decoder_with_past']}: begun with nothing, it gives other scores for "
                f"the first tokens than {self.files['decoder'].name} (by {difference:g}); export "
                "the folder with another version of Optimum, or take hf: for the checkpoint itself"
            )


def _with_choice(model: Model, tokens: TokenOptions) -> Model:
    """``model`` with what the loop does not choose, and how it draws."""
    loop: Generate = model.loop  # type: ignore[assignment] # a decoder's
    return replace(
        model,
        loop=replace(
            loop,
            suppress=tokens.suppress,
            suppress_first=tokens.suppress_first,
            **tokens.sampling,
        ),
    )


def _given(value: Array | None, name: str) -> Array:
    if value is None:
        raise ExportError(f"decoder_model.onnx takes {name!r}, which no encoder gives")
    return value


def _takes(
    run: Callable[[Mapping[str, Array]], dict[str, Array]], model: Model, sizes: Mapping[str, int]
) -> bool:
    """Whether the network takes its example at other sizes."""
    example = {name: value.example for name, value in model.inputs.items()}
    try:
        run(resize(model, example, sizes))
    except ExportError:
        return False
    return True
