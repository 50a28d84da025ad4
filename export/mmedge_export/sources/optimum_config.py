"""What the JSON files of an Optimum folder say, without transformers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from pathlib import Path

    from mmedge_export.sources.source import SourceOptions

__all__ = ["FolderConfig", "TokenOptions"]

#: Most tokens of a call where nothing says it.
_LIMIT = 256

#: Settings of ``generate()`` that a bundle's loop does not have, and what each says when off.
_OTHER = {
    "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "bad_words_ids": None,
    "min_length": 0, "min_new_tokens": None, "forced_eos_token_id": None, "num_beam_groups": 1,
    "encoder_no_repeat_ngram_size": 0, "typical_p": 1.0, "penalty_alpha": None,
}  # fmt: skip


@dataclass(frozen=True)
class TokenOptions:
    """How tokens are chosen.

    Attributes:
        start: tokens before the caller's.
        stop: tokens that end a row.
        limit: most tokens of a call.
        suppress: tokens that are never chosen.
        suppress_first: tokens that are not chosen first.
        sampling: temperature, top_k and top_p of a loop that draws tokens.
        remarks: what was chosen, a line each.
        not_checked: what ``generate()`` would do beside it, a line each.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    limit: int
    suppress: tuple[int, ...] = ()
    suppress_first: tuple[int, ...] = ()
    sampling: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    not_checked: tuple[str, ...] = ()


class FolderConfig:
    """The JSON files of a folder; one that is missing says nothing.

    Args:
        folder: with ``config.json`` and, as far as there are such, others.

    Raises:
        ExportError: a file is no JSON object, or there is no ``config.json``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "config.json").is_file():
            raise ExportError(
                f"{folder} has no config.json; give a folder that optimum-cli export onnx wrote"
            )
        self.model = self._read("config.json")
        self.generation = self._read("generation_config.json")
        self.preprocessor = self._read("preprocessor_config.json")
        self.tokenizer = self._read("tokenizer_config.json")

    def _read(self, name: str) -> dict[str, Any]:
        file = self.folder / name
        if not file.is_file():
            return {}
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ExportError(f"{file}: cannot be read as JSON: {error}") from error
        if not isinstance(content, dict):
            raise ExportError(f"{file}: expected an object, got {type(content).__name__}")
        return content

    @cached_property
    def parts(self) -> list[dict[str, Any]]:
        """``config.json``, and the networks that it names within."""
        names = ("encoder", "decoder", "vision_config", "text_config", "audio_config")
        inner = [self.model[name] for name in names if isinstance(self.model.get(name), dict)]
        return [self.model, *inner]

    def get(self, *names: str) -> Any:  # noqa: ANN401 - whatever is written
        """The first of these that ``config.json`` says; None: it says none."""
        for part in self.parts:
            for name in names:
                if part.get(name) is not None:
                    return part[name]
        return None

    def picture(self) -> tuple[int, int, int]:
        """Channels, height and width of a picture as the network takes it."""
        channels = self.get("num_channels")
        for said in (
            self.preprocessor.get("crop_size"),
            self.preprocessor.get("size"),
            self.get("image_size"),
        ):
            if isinstance(said, int):
                return channels or 3, said, said
            if isinstance(said, list) and len(said) == 2:
                return channels or 3, said[0], said[1]
            if isinstance(said, dict):
                height = said.get("height", said.get("shortest_edge"))
                if isinstance(height, int):
                    return channels or 3, height, said.get("width", height)
        return channels or 3, 224, 224

    def positions(self) -> int | None:
        """Most tokens that a decoder's table of positions has; None: it says none."""
        decoder = self.model.get("decoder")
        parts = [decoder, self.model] if isinstance(decoder, dict) else [self.model]
        for part in parts:
            for name in ("max_target_positions", "max_position_embeddings", "n_positions"):
                if type(part.get(name)) is int:
                    return int(part[name])
        return None

    def labels(self) -> list[str] | None:
        """Names of classes in order; None: it says none."""
        names = self.model.get("id2label")
        if not isinstance(names, dict) or not names:
            return None
        try:
            return [str(names[str(index)]) for index in range(len(names))]
        except KeyError:
            return None

    def tokens(self, options: SourceOptions, *, has_encoder: bool) -> TokenOptions:
        """How tokens are chosen, as the files and the command line say.

        Args:
            options: of the command line, which count more.
            has_encoder: the decoder begins with a token of its own.

        Raises:
            ExportError: nothing says with which token it begins or ends.
        """
        remarks: list[str] = []
        start = self._start(options, remarks) if has_encoder else tuple(options.start or ())
        stop = options.stop
        if stop is None:
            said = self._generation("eos_token_id")
            stop = () if said is None else (said,) if isinstance(said, int) else tuple(said)
        if not stop:
            remarks.append("no token ends a row: eos_token_id is not said")
        suppress = self._ids("suppress_tokens", set(stop))
        sampling = {}
        if self._generation("do_sample"):
            sampling = {
                "temperature": float(self.generation.get("temperature") or 1.0),
                "top_k": int(self.generation.get("top_k", 50) or 0),
                "top_p": float(self.generation.get("top_p") or 1.0),
            }
            remarks.append("tokens are drawn: generation_config.json says do_sample")
        others = [
            f"{name} = {self._generation(name)}"
            for name, off in _OTHER.items()
            if self._generation(name) not in (None, off)
        ]
        return TokenOptions(
            start,
            tuple(stop),
            self._limit(options, len(start), remarks),
            suppress,
            self._ids("begin_suppress_tokens", set()),
            sampling,
            tuple(remarks),
            tuple(
                f"generation_config.json also says {text}: the bundle's loop does not do that"
                for text in others
            ),
        )

    def _generation(self, name: str) -> Any:  # noqa: ANN401 - whatever is written
        """A setting of ``generate()``; older folders have it in ``config.json``."""
        if name in self.generation:
            return self.generation[name]
        return self.get(name)

    def _ids(self, name: str, without: set[int]) -> tuple[int, ...]:
        said = self._generation(name) or ()
        return tuple(token for token in said if token >= 0 and token not in without)

    def _start(self, options: SourceOptions, remarks: list[str]) -> tuple[int, ...]:
        if options.start is not None:
            return tuple(options.start)
        first = self._generation("decoder_start_token_id")
        if isinstance(first, list):
            first = first[0]
        if first is None:
            first = self._generation("bos_token_id")
        if first is None:
            raise ExportError(
                f"{self.folder}: no decoder_start_token_id in generation_config.json or "
                "config.json; say the first tokens with --start ID,..."
            )
        forced = [token for _, token in self._generation("forced_decoder_ids") or ()]
        if (only := self._generation("forced_bos_token_id")) is not None:
            forced = [only]
        forced = [token for token in forced if token is not None]
        languages = self.generation.get("lang_to_id")
        plain = self.generation.get("no_timestamps_token_id")
        if not forced and languages:
            tasks = self.generation.get("task_to_id") or {}
            example = [first, next(iter(languages.values())), *list(tasks.values())[:1]]
            example += [plain] if plain is not None else []
            raise ExportError(
                f"{self.folder}: the network knows {len(languages)} languages; say language and "
                f"task by the first tokens, such as --start {','.join(map(str, example))} "
                "(lang_to_id and task_to_id of generation_config.json have the others)"
            )
        if not forced and plain is not None:
            forced = [plain]
        start = (first, *forced)
        remarks.append(f"a call begins with the tokens {', '.join(map(str, start))}")
        return start

    def _limit(self, options: SourceOptions, start: int, remarks: list[str]) -> int:
        """Most tokens of a call, as many as positions leave."""
        limit = options.limit or self.generation.get("max_new_tokens")
        if limit is None and type(self.generation.get("max_length")) is int:
            limit = max(self.generation["max_length"] - start, 1)
        if limit is None:
            limit = _LIMIT
            remarks.append(f"a call chooses at most {limit} tokens: nothing says how many")
        positions = self.positions() if start else None
        if positions is not None and limit > positions - start + 1:
            limit = positions - start + 1
            remarks.append(
                f"a call chooses at most {limit} tokens: there are {positions} positions"
            )
        return int(limit)
