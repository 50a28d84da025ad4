"""A network that runs once for an answer, as a model of mmedge."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmedge.errors import ExportError
from mmedge_export.inputs import Input
from mmedge_export.model import Model
from mmedge_export.noise import quiet
from mmedge_export.sources.huggingface.examples import (
    DECODER_TOKENS,
    main_part,
    options_of,
    result_fields,
)
from mmedge_export.sources.huggingface.features_by_row import FeaturesByRow
from mmedge_export.sources.huggingface.fronts import Fronts, find_front
from mmedge_export.sources.huggingface.known_values import KnownValues, read_known_values
from mmedge_export.sources.huggingface.places import traceable
from mmedge_export.sources.huggingface.size_limits import (
    batches_differ,
    free_axes,
    is_mask_over_text,
    longest_text,
    other_text,
    several_texts,
    shortest_sound,
    shortest_text,
)
from mmedge_export.sources.huggingface.text_places import add_places
from mmedge_export.sources.huggingface.tokenizer import tokenizer_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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
        has_places: whether tokens of a text stand for features.
        flags: parameters that are false in each call, with a value for some rows, by the parameter
            whose rows they have.
    """

    def __init__(
        self,
        network: nn.Module,
        flags: Mapping[str, tuple[str, Tensor]],
        *,
        has_places: bool = False,
    ) -> None:
        super().__init__()
        self._has_places = has_places
        self.network, self.fronts = network, Fronts(())
        #: Set where they are known.
        self.fields: Sequence[str] = ()
        self.known_values = KnownValues(())
        self._flags, self._options = dict(flags), options_of(network)

    def inputs_of(self, example: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What of an example is an input."""
        return {name: value for name, value in example.items() if name not in self._flags}

    def call(self, **values: Tensor) -> Any:  # noqa: ANN401
        """What the network returns for values of its own parameters."""
        flags = {
            name: torch.zeros((values[owner].shape[0], *value.shape[1:]), dtype=torch.bool)
            for name, (owner, value) in self._flags.items()
        }
        with _places_taken(self._has_places):
            result = self.network(**values, **flags, **self._options)
        return main_part(result) if hasattr(result, "items") else result

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The fields, by name."""
        result = self.known_values.run(self.call, self.fronts(inputs))
        return {name: result[name] for name in self.fields}


@contextlib.contextmanager
def _places_taken(has_places: bool) -> Iterator[None]:  # noqa: FBT001
    """Let features go to places of a text, whatever their number, if it has any."""
    if not has_places:
        yield
        return
    with FeaturesByRow(), traceable():
        yield


def single_run_model(
    checkpoint: Checkpoint,
    sensors: Sequence[Sensor],
    example: Mapping[str, Tensor],
    *,
    places: int = 0,
) -> Model:
    """The model of a network that does not generate.

    Args:
        checkpoint: the network.
        sensors: that it takes.
        example: a value for each.
        places: how many places for features the example's text has already.

    Raises:
        ExportError: it returns no tensors by name.
    """
    network = checkpoint.network
    what = type(network).__name__
    if not places:
        example, places = add_places(checkpoint, sensors, example)
    if (texts := several_texts(network, sensors, example)) is not None:
        example = texts
        checkpoint.remarks.append(
            f"a call has several texts and one of anything else: {what} takes as many texts for "
            "each"
        )
    flags = {
        name: (sensor.name, example[name])
        for sensor in sensors
        for name in sensor.companions
        if example[name].dtype == torch.bool
    }
    if flags:
        checkpoint.remarks.append(f"{', '.join(flags)} is false in each call")
        example = {**example, **{name: torch.zeros_like(example[name]) for name in flags}}
    module = SingleRun(network, flags, has_places=places > 0).eval()
    if (known := _read_known(module, sensors, example)) is None:
        checkpoint.remarks.append(
            f"a call has one row: {what} reads values that differ with the number of rows"
        )
        example = {name: value[:1] for name, value in example.items()}
        known = _read_known(module, sensors, example)
    if known is not None:
        module.known_values = known
        if known.is_random:
            checkpoint.remarks.append(
                f"{what} draws at random; the bundle always has one draw, in order"
            )
    with quiet(), torch.no_grad():
        result = module.known_values.run(module.call, module.inputs_of(example))
    fields = result_fields(result) if hasattr(result, "items") else []
    module.fields = [name for name in fields if name not in example]  # the rest is handed through
    if not module.fields:
        raise ExportError(f"{what} returns no tensors by name; write a factory with mmedge init")
    # Some decoders silently take rows apart that are no rows of what the encoder made.
    one_batch = DECODER_TOKENS in example or places > 0
    with _places_taken(places > 0):
        inputs, dims, module.fronts = make_inputs(checkpoint, sensors, example, one_batch=one_batch)
    inputs = {name: value for name, value in inputs.items() if name not in flags}
    if places:
        dims["tokens"] = (places, dims["tokens"][1])
    return Model(
        module,
        inputs=inputs,
        outputs=list(module.fields),
        dims=dims,
        labels=_labels(checkpoint, {name: result[name] for name in module.fields}),
        name=checkpoint.folder.resolve().name,
    )


def _read_known(
    module: SingleRun, sensors: Sequence[Sensor], example: Mapping[str, Tensor]
) -> KnownValues | None:
    """What the network reads of values that no input has a part in; None: it differs with sizes."""
    one_row = {name: value[:1] for name, value in example.items()}
    others = [other_text(sensor, example) for sensor in sensors if sensor.modality == "text"]
    with quiet():
        return read_known_values(
            lambda values: module.call(**values),
            [module.inputs_of(each) for each in (example, one_row, *others)],
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
    answers = next(
        (
            value.shape[1]
            for s in sensors
            if s.modality == "text" and (value := example[s.name]).ndim > 2
        ),
        None,
    )
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
        if answers is not None and value.shape[1] == answers:
            dynamic[1] = "choices"
            dims["choices"] = (1, MOST_ROWS)
        if sensor.modality in ("text", "layout"):
            dynamic[value.ndim - 1 if sensor.modality == "text" else 1] = "tokens"
            if sensor.modality == "text":
                longest = longest_text(checkpoint, sensor, example)
                dims["tokens"] = (shortest_text(network, sensor, example), longest)
                tokenizer = None if has_layout else tokenizer_file(checkpoint, longest)
        elif sensor.name == DECODER_TOKENS:
            dynamic[1] = "decoder_tokens"
            dims["decoder_tokens"] = (1, longest_text(checkpoint, sensor, example))
        elif sensor.name.endswith("_input_ids"):
            dynamic[1] = f"{sensor.modality}_tokens"
            dims[dynamic[1]] = (1, longest_text(checkpoint, sensor, example))
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
                }
                | ({1: "tokens"} if is_mask_over_text(companion, example) else {})
                | ({1: "positions"} if companion.endswith("_position") else {}),
            )
            if companion.endswith("_position"):
                dims["positions"] = (1, _MOST_REGIONS)
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
