"""A network that runs once for an answer, as a model of mmedge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from mmedge.errors import ExportError
from mmedge_export.inputs import Input
from mmedge_export.model import Model
from mmedge_export.sources.huggingface.examples import (
    DECODER_TOKENS,
    options_of,
    result_fields,
    runs,
)
from mmedge_export.sources.huggingface.fronts import Fronts, find_front
from mmedge_export.sources.huggingface.size_limits import (
    batches_differ,
    free_axes,
    longest_text,
    several_texts,
    shortest_sound,
    shortest_text,
)
from mmedge_export.sources.huggingface.tokenizer import tokenizer_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge_export.inputs import Limits
    from mmedge_export.sources.huggingface.checkpoint import Checkpoint
    from mmedge_export.sources.huggingface.fronts import RawInput
    from mmedge_export.sources.huggingface.sensors import Sensor

__all__ = ["MOST_ROWS", "SingleRun", "make_inputs", "single_run_model"]

#: Most rows of a call: export runs the network at this size, and a robot's calls have few.
MOST_ROWS = 8
#: Most points of a prompt and sets of them, and most regions of a picture.
_MOST_POINTS, _MOST_REGIONS = 8, 64


class SingleRun(nn.Module):
    """A network of transformers that returns the named fields of its ModelOutput.

    Args:
        network: in evaluation mode.
        fields: of its ModelOutput.
        fronts: preprocessing of an input, inside the graph.
    """

    def __init__(self, network: nn.Module, fields: Sequence[str], fronts: Fronts) -> None:
        super().__init__()
        self.network, self._fields = network, tuple(fields)
        self.fronts = fronts
        self._options = options_of(network)

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The fields, by name."""
        result = self.network(**self.fronts(inputs), **self._options)
        return {name: result[name] for name in self._fields}


def single_run_model(
    checkpoint: Checkpoint, sensors: Sequence[Sensor], example: Mapping[str, Tensor]
) -> Model:
    """The model of a network that does not generate.

    Raises:
        ExportError: it returns no tensors by name.
    """
    network = checkpoint.network
    if (texts := several_texts(network, sensors, example)) is not None:
        example = texts
        checkpoint.remarks.append(
            f"a call has several texts and one of anything else: {type(network).__name__} takes as "
            "many texts for each"
        )
    result = runs(network, example)
    fields = result_fields(result) if hasattr(result, "items") else []
    fields = [name for name in fields if name not in example]  # handed through
    if not fields:
        raise ExportError(f"{type(network).__name__} returns no tensors by name")
    # Some decoders silently take rows apart that are no rows of what the encoder made.
    one_batch = DECODER_TOKENS in example
    inputs, dims, fronts = make_inputs(checkpoint, sensors, example, one_batch=one_batch)
    return Model(
        SingleRun(network, fields, fronts).eval(),
        inputs=inputs,
        outputs=list(fields),
        dims=dims,
        labels=_labels(checkpoint, {name: result[name] for name in fields}),
        name=checkpoint.folder.resolve().name,
    )


def make_inputs(
    checkpoint: Checkpoint,
    sensors: Sequence[Sensor],
    example: Mapping[str, Tensor],
    *,
    one_batch: bool = False,
) -> tuple[dict[str, Input], dict[str, Limits], Fronts]:
    """Inputs of the model, the limits of their dimensions, and preprocessing in the graph.

    Limits are tried on the network.

    Args:
        checkpoint: the network.
        sensors: that it takes.
        example: a value for each.
        one_batch: all modalities come in the same number, without trying.
    """
    network = checkpoint.network
    single = one_batch or len(sensors) == 1 or not batches_differ(network, sensors, example)
    inputs: dict[str, Input] = {}
    dims: dict[str, Limits] = {}
    raw_inputs: list[RawInput] = []
    has_layout = any(sensor.modality == "layout" for sensor in sensors)
    for sensor in sensors:
        dynamic: dict[int, str] = {}
        if example[sensor.name].shape[0] > 1:
            dynamic[0] = "batch" if single else f"{sensor.modality}_batch"
            dims[dynamic[0]] = (1, MOST_ROWS)
        name, value, tokenizer = sensor.name, example[sensor.name], None
        raw = find_front(checkpoint, sensor, value)
        if raw is not None:
            raw_inputs.append(raw)
            name, value = raw.name, raw.example
        if sensor.modality in ("text", "layout"):
            dynamic[1] = "tokens"
            if sensor.modality == "text":
                longest = longest_text(checkpoint, sensor, example)
                dims["tokens"] = (shortest_text(network, sensor, example), longest)
                tokenizer = None if has_layout else tokenizer_file(checkpoint, longest)
        elif sensor.name == DECODER_TOKENS:
            dynamic[1] = "decoder_tokens"
            dims["decoder_tokens"] = (1, longest_text(checkpoint, sensor, example))
        elif sensor.modality == "audio" and value.ndim == 2:
            dynamic[1] = "samples"
            dims["samples"] = (
                raw.length
                if raw is not None and raw.length is not None
                else (shortest_sound(network, sensor.name, example), None)
            )
        most = _MOST_POINTS if sensor.modality in ("points", "boxes") else _MOST_REGIONS
        for axis in free_axes(network, sensor, example):
            dynamic[axis] = f"{sensor.modality}_{axis}"
            dims[dynamic[axis]] = (1, most)
            checkpoint.remarks.append(
                f"a call has up to {most} along axis {axis} of {name!r}; --dim "
                f"{dynamic[axis]}=1:MOST changes it"
            )
        part = checkpoint.part("feature_extractor") if sensor.modality == "audio" else None
        inputs[name] = Input(
            value.numpy(),
            modality=sensor.modality,
            dynamic=dynamic,
            tokenizer=tokenizer,
            sample_rate_hz=getattr(part, "sampling_rate", None) if value.ndim == 2 else None,
            variation="parts" if sensor.modality in ("layout", "boxes") else "range",
        )
        for companion in (sensor.mask, *sensor.companions):
            if companion is None:
                continue
            beside = example[companion]
            inputs[companion] = Input(
                beside.numpy(),
                modality=sensor.modality,
                dynamic={
                    axis: symbol
                    for axis, symbol in dynamic.items()
                    if axis < beside.ndim and beside.shape[axis] == example[sensor.name].shape[axis]
                },
            )
    return inputs, dims, Fronts(raw_inputs)


def _labels(checkpoint: Checkpoint, result: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names of classes, where the checkpoint has any."""
    logits = result.get("logits")
    if logits is None:
        return {}
    names = {int(key): str(name) for key, name in (checkpoint.config.id2label or {}).items()}
    count = logits.shape[-1]
    if sorted(names) == list(range(count)) and names.get(0) != "LABEL_0":
        return {"logits": [names[index] for index in range(count)]}
    return {}
