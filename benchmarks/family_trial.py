"""One class of transformers through ``hf:``: a tiny checkpoint, its export, and a check of it.

What a bundle then answers on other inputs is held against torch by :mod:`family_check`.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import tiny_checkpoints
import torch
from family_check import Wrong, check_bundle, in_words

from mmedge.errors import MMEdgeError
from mmedge_export import export
from mmedge_export.sources.huggingface.checkpoint import leave_out_noise
from mmedge_export.sources.loader import load_source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mmedge_export.model import Model

__all__ = ["try_class"]

#: Tokens that a run chooses; and the gain of weights, so that tokens differ: with more, attention
#: is so steep that float32 does not tell.
LENGTH, GAIN = 8, 0.25

#: What became of a class, as JSON has it.
Result = dict[str, Any]


def try_class(name: str, folder: Path, *, read_only: bool = False) -> Result:
    """What becomes of a class: taken, in part, refused, wrong or not tried.

    Args:
        name: of a class of transformers.
        folder: an empty one.
        read_only: end where the source has read the checkpoint; the result is ``read``.
    """
    import transformers

    checkpoint, kind = folder / "checkpoint", getattr(transformers, name)
    try:
        network = tiny_checkpoints.save(
            lambda: tiny_checkpoints.make_tiny(kind),
            checkpoint,
            gain=GAIN,
            max_new_tokens=LENGTH,
        )
    except Exception as error:  # noqa: BLE001 - whatever a foreign class raises
        return {"result": "not tried", "reason": f"no tiny checkpoint: {in_words(error)}"}
    leave_out_noise(network, [])  # export says that it does
    spec = f"hf:{checkpoint}"
    try:
        with network_arguments(kind) as held:
            source = load_source(spec)
        if read_only:
            return {"result": "read", "reason": "", "kind": kind_of(source.model)}
        bundle = export(source, folder / "bundle", samples_limit=1, source=spec)
    except MMEdgeError as error:
        return {"result": "refused", "reason": str(error)}
    except MemoryError:
        raise  # of the trial: more than a class may take
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return {"result": "wrong", "reason": f"a crash: {in_words(error)}"}
    result: Result = {
        "kind": kind_of(source.model),
        "modalities": [modality.name for modality in bundle.manifest.modalities],
        "stages": len(bundle.manifest.stages),
    }
    if {"text"} >= set(result["modalities"]):
        return {**result, "result": "in part", "reason": "the bundle takes text alone"}
    try:
        check = check_bundle(network, source.model, folder / "bundle", held)
    except Wrong as error:
        return {**result, "result": "wrong", "reason": str(error)}
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return {**result, "result": "wrong", "reason": f"the check: {in_words(error)}"}
    return {**result, "result": "taken", "reason": "", "check": check}


def kind_of(model: Model) -> str:
    """Whether a bundle runs once, or what its loop is."""
    return "single run" if model.loop is None else type(model.loop).__name__.lower()


@contextlib.contextmanager
def network_arguments(kind: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    """What the source calls a class with: also what a bundle has as a constant.

    These are tensors of the last call of ``generate()``, as earlier ones may be of ways that were
    tried in vain; of forward, where there is none, those of the call that has most of them.
    """
    generated: list[dict[str, Any]] = []
    held: dict[str, Any] = {}

    def tensors_of(options: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in options.items() if isinstance(value, torch.Tensor)}

    def note_generate(original: Any) -> Any:  # noqa: ANN401
        @functools.wraps(original)
        def note(self: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401
            generated.append(tensors_of(options))
            return original(self, *args, **options)

        return note

    def note_forward(original: Any) -> Any:  # noqa: ANN401
        @functools.wraps(original)
        def note(self: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401
            result = original(self, *args, **options)
            if len(tensors_of(options)) >= len(held) and not generated:
                held.clear()
                held.update(tensors_of(options))
            return result

        return note

    with contextlib.ExitStack() as stack:
        for name, wrap in (("generate", note_generate), ("forward", note_forward)):
            owner = next((each for each in kind.__mro__ if name in vars(each)), None)
            if owner is not None:
                original = vars(owner)[name]
                setattr(owner, name, wrap(original))
                stack.callback(setattr, owner, name, original)
        yield held
    if generated:
        held.clear()
        held.update(generated[-1])
