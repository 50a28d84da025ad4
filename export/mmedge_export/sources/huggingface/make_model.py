"""A checkpoint becomes a :class:`Model`, by what its class says of itself."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from mmedge.errors import ExportError
from mmedge_export.loops import Generate
from mmedge_export.sources.huggingface.example_prompt import first_tensor
from mmedge_export.sources.huggingface.examples import DECODER_TOKENS, find_example, runs
from mmedge_export.sources.huggingface.sensors import (
    Sensor,
    find_sensors,
    parameters_of,
    tell_left_out,
)
from mmedge_export.sources.huggingface.single_run import MOST_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from mmedge_export.model import Model
    from mmedge_export.sources.huggingface.checkpoint import Checkpoint
    from mmedge_export.sources.source import SourceOptions

__all__ = ["make_model", "without_idle"]


def make_model(checkpoint: Checkpoint, options: SourceOptions) -> Model:
    """The model of a checkpoint; what a user may notice of it goes to the checkpoint's remarks.

    Args:
        checkpoint: what was read.
        options: of the user.

    Raises:
        ExportError: the class cannot be taken; the message has the reason.
    """
    model = _make(checkpoint)
    if options.frame is not None and "image" not in model.inputs:
        raise ExportError(f"--frame: {type(checkpoint.network).__name__} takes no pictures")
    batch = next((name for name in model.dims if name.endswith("batch")), None)
    if batch:
        checkpoint.remarks.append(
            f"a call has up to {MOST_ROWS} rows; --dim {batch}=1:MOST changes it"
        )
    checkpoint.remarks.append(
        "samples are made up"
        if checkpoint.processor is None
        else "samples are what the processor makes of made-up data"
    )
    loop = model.loop
    if isinstance(loop, Generate):
        changes: dict[str, Any] = {}
        if options.limit is not None:
            changes["limit"] = options.limit
        if options.stop is not None:
            changes["stop"] = tuple(options.stop)
        model = replace(model, loop=replace(loop, **changes))
    return model


def _make(checkpoint: Checkpoint) -> Model:
    network: Any = checkpoint.network
    if not network.can_generate():
        _keep_no_cache(network)
    sensors = find_sensors(network, checkpoint.processor)
    joins = len(sensors) > 1 and network.can_generate() and sensors[0].modality == "text"
    from mmedge_export.sources.huggingface.places_by_mask import (
        masked_places_model,
        position_mask_of,
    )
    from mmedge_export.sources.huggingface.prefixed import placed_sensor, prefixed_model

    if (mask := position_mask_of(network)) is not None:
        return masked_places_model(checkpoint, sensors, mask)
    placed = placed_sensor(network, sensors)
    if placed is not None and network.config.is_encoder_decoder:
        from mmedge_export.sources.huggingface.placed_encoder import placed_encoder_model

        tell_left_out(checkpoint, sensors)
        return placed_encoder_model(checkpoint, *placed)
    if not network.config.is_encoder_decoder and (joins or placed is not None):
        if placed is None and (model := _decoder_behind(checkpoint, sensors)) is not None:
            return model
        if placed is None and (model := _text_after(checkpoint, sensors)) is not None:
            return model
        if network.can_generate():
            return prefixed_model(checkpoint, sensors)
        try:
            return prefixed_model(checkpoint, sensors)
        except ExportError:
            if (whole := _whole(checkpoint, sensors)) is None:
                raise
            return whole
    sensors, example = _find_example(checkpoint, sensors)
    tell_left_out(checkpoint, sensors)
    if not network.can_generate():
        from mmedge_export.sources.huggingface.single_run import single_run_model

        return single_run_model(checkpoint, sensors, example)
    if not network.config.is_encoder_decoder and {s.modality for s in sensors} == {"text"}:
        from mmedge_export.sources.huggingface.decoder_only import decoder_only_model

        return decoder_only_model(checkpoint, example)
    from mmedge_export.sources.huggingface.encoder_decoder import encoder_decoder_model

    sensors = without_idle(checkpoint, sensors, example)
    example = {
        name: example[name]
        for sensor in sensors
        for name in (sensor.name, sensor.mask, *sensor.companions)
        if name in example
    }
    if sensors[0].modality != "text" and any(sensor.modality == "text" for sensor in sensors):
        checkpoint.remarks.append("a run begins without a text of the caller's")
        sensors = [sensor for sensor in sensors if sensor.modality != "text"]
        example = {sensor.name: example[sensor.name] for sensor in sensors}
    return encoder_decoder_model(checkpoint, sensors, example)


def _keep_no_cache(network: Any) -> None:  # noqa: ANN401
    """Nothing for steps that never come: a cache of the last tokens alone wants a longest text."""
    for part in network.modules():
        if getattr(getattr(part, "config", None), "use_cache", None):
            part.config.use_cache = False


def _decoder_behind(checkpoint: Checkpoint, sensors: Sequence[Sensor]) -> Model | None:
    """The model of a network whose decoder looks at what all sensors gave, text too; None: not so.

    Its configuration does not say so, and neither does its class: it is tried, and its tokens are
    those of ``generate()``.
    """
    from mmedge_export.sources.huggingface.encoder_decoder import encoder_decoder_model
    from mmedge_export.sources.huggingface.generation import read_generation

    remarks = len(checkpoint.remarks)
    try:
        tried, example = find_example(checkpoint, sensors)
        if not read_generation(checkpoint.network, example).rules.is_whole:
            return None
        model = encoder_decoder_model(checkpoint, tried, example)
    except Exception:  # noqa: BLE001 - whatever a foreign class raises: it is another kind
        del checkpoint.remarks[remarks:]
        return None
    tell_left_out(checkpoint, tried)
    return model


def without_idle(
    checkpoint: Checkpoint, sensors: Sequence[Sensor], example: Mapping[str, Tensor]
) -> list[Sensor]:
    """Sensors that have a part in the answer where all are there; others are left out."""
    network = checkpoint.network
    if len(sensors) == 1:
        return list(sensors)

    def answer(values: Mapping[str, Tensor]) -> Tensor:
        return first_tensor(runs(network, values))

    expected = answer(example)
    idle: list[str] = []
    for sensor in sensors:
        own = (sensor.name, sensor.mask, *sensor.companions)
        changed = {**example, sensor.name: example[sensor.name].flip(0, -1)}
        without = {name: value for name, value in example.items() if name not in own}
        with contextlib.suppress(Exception):  # it needs the sensor
            if torch.equal(answer(changed), expected) and torch.equal(answer(without), expected):
                idle.append(sensor.name)
    if idle:
        checkpoint.remarks.append(
            f"{', '.join(idle)} has no part in what {type(network).__name__} does beside the rest, "
            "and is left out"
        )
    return [sensor for sensor in sensors if sensor.name not in idle]


def _text_after(checkpoint: Checkpoint, sensors: Sequence[Sensor]) -> Model | None:
    """The model of a network that keeps of a sensor what is the same for any text; None: not so."""
    from mmedge_export.sources.huggingface.text_after import text_after_model

    remarks = len(checkpoint.remarks)
    try:
        tried, example = find_example(checkpoint, sensors)
        model = text_after_model(checkpoint, tried, example)
    except Exception:  # noqa: BLE001 - whatever a foreign class raises: it is another kind
        del checkpoint.remarks[remarks:]
        return None
    tell_left_out(checkpoint, tried)
    return model


def _whole(checkpoint: Checkpoint, sensors: Sequence[Sensor]) -> Model | None:
    """The model of a network that runs once on a text with places; None: it does not run so."""
    from mmedge_export.sources.huggingface.single_run import single_run_model

    remarks = len(checkpoint.remarks)
    try:
        tried, example = _find_example(checkpoint, sensors)
        model = single_run_model(checkpoint, tried, example)
    except Exception:  # noqa: BLE001 - whatever a foreign class raises: the first reason counts
        del checkpoint.remarks[remarks:]
        return None
    tell_left_out(checkpoint, tried)
    return model


def _find_example(
    checkpoint: Checkpoint, sensors: Sequence[Sensor]
) -> tuple[list[Sensor], dict[str, Tensor]]:
    """As :func:`find_example`; with tokens of the decoder where no loop gives them."""
    network = checkpoint.network
    if network.can_generate() and network.config.is_encoder_decoder and len(sensors) > 1:
        return _example_of_one(checkpoint, sensors)
    if network.can_generate() or DECODER_TOKENS not in parameters_of(network):
        return find_example(checkpoint, sensors)
    try:
        return find_example(checkpoint, sensors)
    except ExportError:
        return find_example(checkpoint, [*sensors, Sensor(DECODER_TOKENS, "decoder")])


def _example_of_one(
    checkpoint: Checkpoint, sensors: Sequence[Sensor]
) -> tuple[list[Sensor], dict[str, Tensor]]:
    """As :func:`find_example`; of one sensor where an encoder takes that in place of a text."""
    try:
        return find_example(checkpoint, sensors)
    except ExportError:
        for sensor in sensors:
            if sensor.modality == "text":
                continue
            with contextlib.suppress(ExportError):
                tried, example = find_example(checkpoint, [sensor])
                others = [each.modality for each in sensors if each is not sensor]
                checkpoint.remarks.append(
                    f"{', '.join(others)} is left out: {type(checkpoint.network).__name__} takes "
                    f"it in place of {sensor.modality}"
                )
                return tried, example
        raise
