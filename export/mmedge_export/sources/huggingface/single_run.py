"""A network that runs once for an answer, as a model of mmedge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmedge.errors import ExportError
from mmedge_export.inputs import Input
from mmedge_export.model import Model
from mmedge_export.sources.huggingface.examples import look_up, runs
from mmedge_export.sources.huggingface.fronts import Fronts, find_front
from mmedge_export.sources.huggingface.sensors import parameters_of
from mmedge_export.sources.huggingface.tokenizer import tokenizer_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge_export.inputs import Limits
    from mmedge_export.sources.huggingface.checkpoint import Checkpoint
    from mmedge_export.sources.huggingface.fronts import RawInput
    from mmedge_export.sources.huggingface.sensors import Sensor

__all__ = ["MOST_ROWS", "SingleRun", "make_inputs", "single_run_model"]

#: Fields of a ModelOutput that are not what a network is for, where it has others.
_INNER = (
    "loss",
    "hidden_states",
    "attentions",
    "last_hidden_state",
    "extract_features",
    "cache",
    "past_key_values",
    "model_output",
)
#: Most rows of a call: export runs the network at this size, and a robot's calls have few.
MOST_ROWS = 8


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


def options_of(network: Any) -> dict[str, Any]:  # noqa: ANN401
    """What to say beside tensors: results by name, and no cache for steps that never come."""
    options = {"return_dict": True, "use_cache": False}
    names = parameters_of(network)
    return {name: value for name, value in options.items() if name in names}


def single_run_model(
    checkpoint: Checkpoint, sensors: Sequence[Sensor], example: Mapping[str, Tensor]
) -> Model:
    """The model of a network that does not generate.

    Raises:
        ExportError: it returns no tensors by name.
    """
    network = checkpoint.network
    result = runs(network, example, **options_of(network))
    fields = result_fields(result) if hasattr(result, "items") else []
    if not fields:
        raise ExportError(f"{type(network).__name__} returns no tensors by name")
    inputs, dims, fronts = make_inputs(checkpoint, sensors, example)
    return Model(
        SingleRun(network, fields, fronts).eval(),
        inputs=inputs,
        outputs=list(fields),
        dims=dims,
        labels=_labels(checkpoint, {name: result[name] for name in fields}),
        name=checkpoint.folder.resolve().name,
    )


def result_fields(result: Any) -> list[str]:  # noqa: ANN401
    """Names of the tensors that a result is for."""
    tensors = [name for name, value in result.items() if isinstance(value, Tensor)]
    outer = [name for name in tensors if not name.endswith(_INNER)]
    whole = [name for name in tensors if name in ("last_hidden_state", "hidden_states")]
    return outer if outer and outer != ["pooler_output"] else [*whole, *outer]


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
    single = one_batch or len(sensors) == 1 or not _batches_differ(network, sensors, example)
    inputs: dict[str, Input] = {}
    dims: dict[str, Limits] = {}
    raw_inputs: list[RawInput] = []
    has_layout = any(sensor.modality == "layout" for sensor in sensors)
    for sensor in sensors:
        dynamic = {0: "batch" if single else f"{sensor.modality}_batch"}
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
                dims["tokens"] = (1, longest)
                tokenizer = None if has_layout else tokenizer_file(checkpoint, longest)
        elif sensor.modality == "audio" and value.ndim == 2:
            dynamic[1] = "samples"
            dims["samples"] = (
                raw.length
                if raw is not None and raw.length is not None
                else (_shortest(network, sensor.name, example), None)
            )
        part = checkpoint.part("feature_extractor") if sensor.modality == "audio" else None
        inputs[name] = Input(
            value.numpy(),
            modality=sensor.modality,
            dynamic=dynamic,
            tokenizer=tokenizer,
            sample_rate_hz=getattr(part, "sampling_rate", None) if value.ndim == 2 else None,
        )
        if sensor.mask is not None:
            inputs[sensor.mask] = Input(
                example[sensor.mask].numpy(), modality=sensor.modality, dynamic=dynamic
            )
    return inputs, dims, Fronts(raw_inputs)


def _batches_differ(
    network: Any,  # noqa: ANN401
    sensors: Sequence[Sensor],
    example: Mapping[str, Tensor],
) -> bool:
    """Whether the network takes another number of one modality than of the others."""
    other = dict(example)
    first = sensors[0]
    for name in (first.name, first.mask):
        if name is not None:
            other[name] = torch.cat([example[name], example[name][:1]])
    return _takes(network, other)


def _takes(network: Any, example: Mapping[str, Tensor]) -> bool:  # noqa: ANN401
    try:
        runs(network, example)
    except Exception:  # noqa: BLE001 - whatever a foreign class raises
        return False
    return True


def longest_text(
    checkpoint: Checkpoint, sensor: Sensor, example: Mapping[str, Tensor]
) -> int | None:
    """The longest text that the network takes, found by running it near what it states."""
    places = look_up(checkpoint.config, "max_position_embeddings", "n_positions")
    if not isinstance(places, int):
        return None
    padding = look_up(checkpoint.config, "pad_token_id")
    sizes = [places, places - 1 - padding] if isinstance(padding, int) else [places]
    names = [n for n in (sensor.name, sensor.mask, "bbox") if n is not None and n in example]
    for size in (*sizes, places // 2):
        index = torch.arange(size) % example[sensor.name].shape[1]
        if size > 0 and _takes(
            checkpoint.network, {**example, **{name: example[name][:, index] for name in names}}
        ):
            return size
    return None


def _shortest(network: Any, name: str, example: Mapping[str, Tensor]) -> int:  # noqa: ANN401
    """The shortest sound of which the network makes more than one frame.

    A graph of one frame is another one: attention among a single frame takes another branch.
    """
    whole = runs(network, example)
    fields = [
        (field, axis)
        for field in result_fields(whole)
        for axis, size in enumerate(whole[field].shape)
        if axis and size != _sizes(network, name, example, example[name].shape[1] // 2, field)[axis]
    ]

    def is_long_enough(count: int) -> bool:
        try:
            result = runs(network, {**example, name: example[name][:, :count]})
        except Exception:  # noqa: BLE001 - whatever a foreign class raises
            return False
        return all(result[field].shape[axis] > 1 for field, axis in fields)

    least, most = 1, example[name].shape[1]
    while least < most:
        middle = (least + most) // 2
        if is_long_enough(middle):
            most = middle
        else:
            least = middle + 1
    return most


def _sizes(
    network: Any,  # noqa: ANN401
    name: str,
    example: Mapping[str, Tensor],
    count: int,
    field: str,
) -> Sequence[int]:
    result = runs(network, {**example, name: example[name][:, :count]})
    return tuple(result[field].shape)


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
