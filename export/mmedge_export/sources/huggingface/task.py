"""Task and language of a network that generates, where its class leaves a choice.

``generate()`` of such a class takes them as arguments (Whisper, SeamlessM4T), or the tokenizer
knows a token of each language that has to come first (M2M100, NLLB, mBART). Without a choice it
finds one out from the sound, which a bundle cannot, or writes in any language.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mmedge_export.sources.huggingface.checkpoint import Checkpoint

__all__ = ["choose_task", "text_alone"]

#: Names that a message lists.
_MOST = 12


def choose_task(checkpoint: Checkpoint, task: str | None, language: str | None) -> None:
    """Have ``generate()`` of the network do what the user says; remarks tell what it does.

    Args:
        checkpoint: what was read.
        task: such as ``translate``; None: what generate() does by itself.
        language: name or code, as the class or its tokenizer has it; None: that of the checkpoint.

    Raises:
        ExportError: the class has no such choice, or must be told which language.
    """
    network = checkpoint.network
    arguments: dict[str, Any] = {}
    if network.can_generate():
        config = network.generation_config
        takes = inspect.signature(network.generate).parameters
        tasks, languages = (
            getattr(config, f"{word}_to_id", None) or {} for word in ("task", "lang")
        )
        if "task" in takes and tasks:
            arguments |= _task(config, tasks, task, checkpoint.remarks)
        if "language" in takes and languages:
            arguments |= _language(config, languages, language, checkpoint.remarks)
        elif "tgt_lang" in takes:
            # A checkpoint that lists none leaves no choice.
            if names := getattr(config, "text_decoder_lang_to_code_id", None) or {}:
                why = "generate() takes the language that it writes (tgt_lang)"
                _must_say(names, language, why)
                arguments["tgt_lang"] = language
        elif network.config.is_encoder_decoder:
            arguments |= _first_token(checkpoint, language)
    for option, value, name in (
        ("--task", task, {"task"}),
        ("--language", language, {"language", "tgt_lang", "forced_bos_token_id"}),
    ):
        if value is not None and not name & arguments.keys():
            raise ExportError(
                f"{option} {value}: {type(network).__name__} leaves no such choice; leave it out"
            )
    if arguments:
        # All that is read off generate() and held against it is what it does with these.
        network.generate = partial(network.generate, **arguments)


def text_alone(network: Any) -> dict[str, bool]:  # noqa: ANN401
    """Options by which ``generate()`` makes nothing further of its tokens, such as speech."""
    parameters = inspect.signature(network.generate).parameters.values()
    return {
        p.name: False for p in parameters if p.name.startswith("generate_") and p.default is True
    }


def _task(
    config: Any,  # noqa: ANN401
    tasks: Mapping[str, int],
    task: str | None,
    remarks: list[str],
) -> dict[str, str]:
    if task is None:
        task = getattr(config, "task", None) or "transcribe"
        others = ", ".join(sorted(set(tasks) - {task}))
        remarks.append(f"task: {task}, as generate() does; --task may be {others}")
    if task not in tasks:
        raise ExportError(f"--task {task}: expected one of {', '.join(sorted(tasks))}")
    return {"task": task}


def _language(
    config: Any,  # noqa: ANN401
    languages: Mapping[str, int],
    language: str | None,
    remarks: list[str],
) -> dict[str, str]:
    """Of a class that would find the language out from each sound."""
    if language is None:
        language = getattr(config, "language", None)
        if language is not None:
            remarks.append(f"language: {language}, as the checkpoint says; --language changes it")
    names = [name.strip("<|>") for name in languages]
    _must_say(
        names, language, "generate() finds out the language of each sound first; a bundle does not"
    )
    return {"language": str(language)}


def _first_token(checkpoint: Checkpoint, language: str | None) -> dict[str, int]:
    """Of a class whose tokenizer has a token of each language, which generate() begins with."""
    tokenizer = checkpoint.part("tokenizer")
    if not hasattr(tokenizer, "tgt_lang"):
        return {}
    codes: Mapping[str, int] = getattr(tokenizer, "lang_code_to_id", None) or {}
    names = list(codes) or list(getattr(tokenizer, "extra_special_tokens", ()))
    if len(names) < 2:
        return {}
    source = getattr(tokenizer, "src_lang", None)
    if source:
        checkpoint.remarks.append(
            f"texts go in as {source}; for another language save the tokenizer with src_lang"
        )
    config = checkpoint.network.generation_config
    if language is None and getattr(config, "forced_bos_token_id", None) is not None:
        return {}
    _must_say(names, language, "the tokenizer knows several languages to write in")
    number = codes.get(str(language))
    if number is None and language in names:
        number = tokenizer.convert_tokens_to_ids(language)
    if number is None:
        raise ExportError(f"--language {language}: expected one of {_listed(names)}")
    return {"forced_bos_token_id": int(number)}


def _must_say(names: Iterable[str], language: str | None, why: str) -> None:
    if language is None:
        raise ExportError(f"{why}; say --language, one of {_listed(names)}")


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more
