"""Examples for a network's sensors, found by running it on one candidate after another."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from mmedge.errors import ExportError
from mmedge_export.noise import quiet
from mmedge_export.sources.huggingface.candidates import (
    ROWS,
    companion_candidates,
    processed_values,
    sensor_candidates,
    stated_shape,
)
from mmedge_export.sources.huggingface.sensors import (
    companion_sets,
    parameters_of,
    possible_companions,
    required_parameters,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from mmedge_export.sources.huggingface.checkpoint import Checkpoint
    from mmedge_export.sources.huggingface.sensors import Sensor

__all__ = [
    "DECODER_TOKENS",
    "find_example",
    "main_part",
    "options_of",
    "result_fields",
    "runs",
    "sensor_values",
]

#: What a network with an encoder and a decoder calls the tokens of the latter.
DECODER_TOKENS = "decoder_input_ids"
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
    "attention_mask",
)
#: Positions of an example: as many as of nothing else, so that none is taken for another.
POSITIONS = 4
#: Most runs until an example is given up.
_MOST_TRIES = 100


def find_example(
    checkpoint: Checkpoint, sensors: Sequence[Sensor]
) -> tuple[list[Sensor], dict[str, Tensor]]:
    """Sensors with the companions that the network needs, and a tensor for each parameter.

    It has several rows, or one where the network takes no more.

    Raises:
        ExportError: it takes none of what was tried.
    """
    network = checkpoint.network
    candidates = {sensor.name: sensor_values(checkpoint, sensor) for sensor in sensors}
    failure: Exception | None = None
    for rows, (sensors_tried, values) in itertools.product(
        (ROWS, 1), itertools.islice(_examples(checkpoint, sensors, candidates), _MOST_TRIES)
    ):
        example = {name: value[:rows] for name, value in values.items()}
        try:
            runs(network, example)
        except Exception as error:  # noqa: BLE001 - whatever a foreign class raises
            failure = failure or error
            continue
        if rows == 1:
            checkpoint.remarks.append(f"a call has one row: {type(network).__name__} takes no more")
        return _with_stated_masks(network, sensors_tried, example)
    first = {name: values[0][name] for name, values in candidates.items()}
    _refuse_needed(checkpoint, sensors, first)
    shapes = {
        name: [list(value[name].shape) for value in each] for name, each in candidates.items()
    }
    raise ExportError(
        f"{type(network).__name__} takes none of the inputs that were made up for it "
        f"({shapes}): {type(failure).__name__}: {failure}; write a factory with mmedge init, which "
        "knows an example"
    ) from failure


def _refuse_needed(
    checkpoint: Checkpoint, sensors: Sequence[Sensor], example: Mapping[str, Tensor]
) -> None:
    """Refuse a network that cannot be called without what nothing is known of."""
    network = checkpoint.network
    (tried,) = itertools.islice(companion_sets(network, sensors), 1)
    known = {name for sensor in tried for name in (sensor.name, sensor.mask)}
    for sensor in tried:
        known |= {
            name
            for name in sensor.companions
            if any(True for _ in companion_candidates(checkpoint, name, example[sensor.name]))
        }
    needed = [name for name in required_parameters(network) if name not in known]
    if needed:
        raise ExportError(
            f"{type(network).__name__}.forward needs {', '.join(needed)}, of which nothing is "
            "known here; write a factory with mmedge init"
        )


def sensor_values(checkpoint: Checkpoint, sensor: Sensor) -> list[Mapping[str, Tensor]]:
    """Candidates for a sensor, each with what the processor makes beside it."""
    processed = processed_values(checkpoint, sensor)
    if sensor.name in processed:
        return [processed]
    return [{sensor.name: value} for value in sensor_candidates(checkpoint, sensor)]


def _examples(
    checkpoint: Checkpoint,
    sensors: Sequence[Sensor],
    candidates: Mapping[str, Sequence[Mapping[str, Tensor]]],
) -> Iterator[tuple[list[Sensor], dict[str, Tensor]]]:
    for tried in companion_sets(checkpoint.network, sensors):
        for values in itertools.product(*candidates.values()):
            example: dict[str, Tensor] = {}
            companions: dict[str, list[Tensor]] = {}
            for sensor, value in zip(tried, values, strict=True):
                example[sensor.name] = value[sensor.name]
                if sensor.mask is not None:
                    example[sensor.mask] = _mask(checkpoint, example[sensor.name])
                for name in sensor.companions:
                    companions[name] = (
                        [value[name]]
                        if name in value
                        else [
                            *companion_candidates(checkpoint, name, value[sensor.name]),
                            *_masks_over_text(name, tried, example, value[sensor.name]),
                            *_positions_in_all(checkpoint.network, name, value[sensor.name]),
                        ]
                    )
            for further in itertools.product(*companions.values()):
                yield tried, {**example, **dict(zip(companions, further, strict=True))}


def _masks_over_text(
    name: str, sensors: Sequence[Sensor], example: Mapping[str, Tensor], value: Tensor
) -> Iterator[Tensor]:
    """A mask [rows, tokens, pictures] that lets each token look at each picture of its row."""
    text = next((sensor for sensor in sensors if sensor.modality == "text"), None)
    if "mask" in name.split("_") and value.ndim > 4 and text is not None and text.name in example:
        yield torch.ones((*example[text.name].shape, *value.shape[1:-3]), dtype=torch.int64)


def _positions_in_all(network: Any, name: str, value: Tensor) -> Iterator[Tensor]:  # noqa: ANN401
    """Positions in a text and what stands beside it; -1 is none."""
    words = stated_shape(network, name) or []
    if name.endswith("_position") and words[1:] == ["total_sequence_length"]:
        # No more than are there at the smallest sizes, one token beside one region.
        yield (torch.arange(POSITIONS) % 3 - 1).expand(value.shape[0], POSITIONS).clone()


def _with_stated_masks(
    network: Any,  # noqa: ANN401
    sensors: list[Sensor],
    example: dict[str, Tensor],
) -> tuple[list[Sensor], dict[str, Tensor]]:
    """With masks over a text that the documentation states, as the processor gives them.

    Networks do run without, and some then let a token look at less.
    """
    for at, sensor in enumerate(sensors):
        for name in possible_companions(network, sensors):
            words = stated_shape(network, name) or ["", ""]
            if name in example or not words[1].startswith("seq"):
                continue
            for mask in _masks_over_text(name, sensors, example, example[sensor.name]):
                with contextlib.suppress(Exception):
                    runs(network, {**example, name: mask})
                    owner = replace(sensor, companions=(*sensor.companions, name))
                    sensors = [*sensors[:at], owner, *sensors[at + 1 :]]
                    example = {**example, name: mask}
    return sensors, example


def options_of(network: Any) -> dict[str, Any]:  # noqa: ANN401
    """What to say beside tensors: results by name, no cache for steps that never come, no loss."""
    options = {"return_dict": True, "use_cache": False, "return_loss": False}
    names = parameters_of(network)
    return {name: value for name, value in options.items() if name in names}


def runs(network: Any, example: Mapping[str, Tensor]) -> Any:  # noqa: ANN401
    """What a network returns for an example. Raises what it raises.

    One that generates chooses its decoder's tokens by itself: here it gets a first one.
    """
    values = {name: value.clone() for name, value in example.items()}
    if network.can_generate() and DECODER_TOKENS in parameters_of(network):
        rows = next(iter(values.values())).shape[0]
        values[DECODER_TOKENS] = torch.zeros((rows, 1), dtype=torch.int64)
    with quiet(), torch.no_grad():
        return network(**values, **options_of(network))


def main_part(result: Any) -> Any:  # noqa: ANN401
    """A result, or the last of its parts that has tensors where it has none by itself."""
    if any(isinstance(value, torch.Tensor) for value in result.values()):
        return result
    parts = [value for value in result.values() if hasattr(value, "items")]
    return next((part for part in reversed(parts) if result_fields(part)), result)


def result_fields(result: Any) -> list[str]:  # noqa: ANN401
    """Names of the tensors that a result is for."""
    tensors = [name for name, value in result.items() if isinstance(value, torch.Tensor)]
    outer = [name for name in tensors if not name.endswith(_INNER)]
    whole = [name for name in tensors if name in ("last_hidden_state", "hidden_states")]
    return outer if outer and outer != ["pooler_output"] else [*whole, *outer]


def _mask(checkpoint: Checkpoint, ids: Tensor) -> Tensor:
    """The last row is shorter, on the side where the tokenizer pads."""
    mask = torch.ones_like(ids, dtype=torch.int64)
    side = getattr(checkpoint.part("tokenizer"), "padding_side", "right")
    if ids.shape[-1] > 3:
        mask[-1, ..., slice(-2, None) if side == "right" else slice(0, 2)] = 0
    return mask
