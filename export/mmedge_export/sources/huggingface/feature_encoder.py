"""The part of a network that makes features of a sensor's values, for any number of rows.

It is longer than most modules, since an encoder of a batch and one of a row are tried in turn.
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmedge.errors import ExportError
from mmedge_export.noise import quiet
from mmedge_export.sources.huggingface.candidates import ROWS, look_up, sensor_candidates
from mmedge_export.sources.huggingface.examples import sensor_values
from mmedge_export.sources.huggingface.features import (
    feature_function,
    has_feature_function,
    names_beside,
    read_layout,
    required_names,
)
from mmedge_export.sources.huggingface.fronts import Fronts
from mmedge_export.sources.huggingface.picture_rows import (
    further_pictures,
    is_picture,
    picture_rows,
)
from mmedge_export.sources.huggingface.places import traceable
from mmedge_export.sources.huggingface.real_pictures import AllPicturesAreReal
from mmedge_export.sources.huggingface.row_graph import RowGraph, trace_row
from mmedge_export.sources.huggingface.sensors import Sensor
from mmedge_export.sources.huggingface.sound_values import masks_beside, sound_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mmedge_export.sources.huggingface.checkpoint import Checkpoint
    from mmedge_export.sources.huggingface.features import FeatureLayout

__all__ = ["FeatureEncoder", "find_encoder", "find_encoders"]

#: How far features of rows may be from those of each row alone, as a share of the largest.
_NEAR = 1e-4


@dataclass(frozen=True)
class FeatureEncoder:
    """An encoder and an example of what it takes.

    Attributes:
        module: a sensor's values [rows, ...] to features, by name; it has ``fronts``.
        values: of the sensor, by name, for several rows.
        network_values: what the network's forward takes for the same; the likeliest first.
        constants: features of them, by name.
        layout: where they are in a result of the network's own encoder.
        texts: names among the values of what is a text, which the encoder sees beside the sensor.
    """

    module: Any
    values: Mapping[str, Tensor]
    network_values: Sequence[Mapping[str, Tensor]]
    constants: Mapping[str, Tensor]
    layout: FeatureLayout
    texts: tuple[str, ...] = ()


class _Encoder(nn.Module):
    """A sensor's values to what stands in the places of its tokens, [rows, tokens, width]."""

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.fronts = Fronts(())
        self._modality = modality

    def name(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Features by the names that they have in a bundle."""
        first = f"{self._modality}_features"
        return {f"{first}_{n}" if n else first: tensor for n, tensor in enumerate(tensors)}


class _BatchEncoder(_Encoder):
    """An encoder that takes several rows by itself."""

    def __init__(self, network: nn.Module, modality: str, *, all_real: bool) -> None:
        super().__init__(modality)
        self.network, self._all_real = network, all_real
        self.layout: FeatureLayout | None = None
        #: Whether the network would leave out what is padding.
        self.drops_padding = False

    def forward(self, **sensors: Tensor) -> dict[str, Tensor]:
        """The features."""
        values = self.fronts(sensors)
        rows = next(iter(values.values())).shape[0]
        mode = AllPicturesAreReal()
        with mode if self._all_real else contextlib.nullcontext():
            result = feature_function(self.network, self._modality)(**values, return_dict=True)
            self.layout = self.layout or read_layout(result, rows)
            tensors = self.layout.tensors(result, rows)
        self.drops_padding = mode.has_kept_rows
        return self.name(tensors)


class _CallCount(TorchFunctionMode):
    """Counts calls of torch: a network that goes through rows one by one calls it for each."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Call ``func``."""
        self.count += 1
        return func(*args, **(kwargs or {}))


class _RowEncoder(_Encoder):
    """An encoder of one row, of fixed size, that was made to take several."""

    def __init__(self, graph: RowGraph, modality: str) -> None:
        super().__init__(modality)
        self.graph = graph

    def forward(self, **sensors: Tensor) -> dict[str, Tensor]:
        """The features."""
        (values,) = self.fronts(sensors).values()
        return self.name(self.graph(values))


def find_encoder(checkpoint: Checkpoint, sensor: Sensor) -> FeatureEncoder:
    """The first of :func:`find_encoders`.

    Raises:
        ExportError: it takes nothing that was made up for it.
    """
    return next(find_encoders(checkpoint, sensor))


def find_encoders(checkpoint: Checkpoint, sensor: Sensor) -> Iterator[FeatureEncoder]:
    """Encoders of a sensor, for each form of its values that is taken; there is one at least.

    What is fixed of an encoder goes to the checkpoint's remarks before it comes.

    Raises:
        ExportError: the network takes nothing that was made up for it.
    """
    has_any = False
    reasons: list[str] = []
    row_reasons: list[str] = []
    names = names_beside(checkpoint.network, sensor)
    sounds = list(sound_values(checkpoint, sensor, names))
    required = required_names(checkpoint.network, sensor)
    texts = _texts_beside(checkpoint, required)
    beside = {**further_pictures(checkpoint, sensor, required), **texts}
    values = sounds or [
        {sensor.name: each[sensor.name], **beside} for each in sensor_values(checkpoint, sensor)
    ]
    for value, all_real in itertools.product(values, (True, False)):
        try:
            encoder = _try_batch(checkpoint, sensor, value, all_real=all_real)
        except Exception as error:  # noqa: BLE001 - whatever a foreign class raises
            if not all_real:  # else it may be what is changed for it here
                reasons.append(_first_line(error))
            continue
        has_any = True
        yield replace(encoder, texts=tuple(texts))
    sound_rows = [{name: each[:1] for name, each in value.items()} for value in sounds]
    rows = [*sound_rows, *picture_rows(checkpoint, sensor, names)]
    needs_more = any(len(row) > 1 for row in rows)
    for row in rows:
        try:
            if "input_ids" in required:
                row.update(_own_tokens(checkpoint.network, sensor, row))
            encoder = _try_row(checkpoint, sensor, row)
        except Exception as error:  # noqa: BLE001 - whatever a foreign class raises
            shapes = {name: list(value.shape) for name, value in row.items()}
            reason = f"{shapes}: {_first_line(error)}"
            # What the network took, and no graph could follow, says more than a wrong shape.
            row_reasons.insert(0 if isinstance(error, ExportError) else len(row_reasons), reason)
            continue
        has_any = True
        yield encoder
    if has_any:
        return
    what = f"{type(checkpoint.network).__name__}.get_{sensor.modality}_features"
    raise ExportError(
        f"{what} takes no {sensor.name!r} that was made up for it: "
        f"{(row_reasons if needs_more else reasons)[0]}; write a factory with mmedge init"
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _own_tokens(network: Any, sensor: Sensor, row: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ANN401
    """A prompt in which tokens stand for the features of ``row``, for a function that counts them.

    A prompt with one such token tells how many features there are.
    """
    word = torch.tensor([[3]])
    token = look_up(network.config, f"{sensor.modality}_token_id", f"{sensor.modality}_token_index")
    with quiet(), torch.no_grad(), traceable():
        prompt = torch.cat([word, torch.tensor([[token]]), word], 1)
        function = feature_function(network, sensor.modality)
        result = function(**_copies(row), input_ids=prompt, return_dict=True)
        count = read_layout(result, 1).tensors(result, 1)[0].shape[1]
    return {"input_ids": torch.cat([word, torch.full((1, count), token), word], 1)}


def _texts_beside(checkpoint: Checkpoint, names: Sequence[str]) -> dict[str, Tensor]:
    """Texts among what the function of features cannot be called without, by name."""
    return {
        name: next(sensor_candidates(checkpoint, Sensor(name, name.split("_")[0])))
        for name in names
        if name.endswith("_input_ids")
    }


def _try_batch(
    checkpoint: Checkpoint, sensor: Sensor, values: Mapping[str, Tensor], *, all_real: bool
) -> FeatureEncoder:
    module = _BatchEncoder(checkpoint.network, sensor.modality, all_real=all_real).eval()
    one = {name: value[:1] for name, value in values.items()}
    with quiet(), torch.no_grad():
        module(**_copies(one))  # what is made once is made
        with _CallCount() as calls:
            constants = module(**_copies(values))
        with _CallCount() as calls_alone:
            alone = module(**_copies(one))
    _compare(alone, constants)
    if calls.count != calls_alone.count:
        raise ExportError("it goes through rows one by one, which no graph can")
    masks = [name for name in values if name != sensor.name and not is_picture(name)]
    if masks:
        _check_tracing(module, values)
    masks = [name for name in masks if not name.endswith("_input_ids")]
    if masks:
        checkpoint.remarks.append(
            f"{', '.join(masks)} says what of the {sensor.modality} is no padding; a prompt has "
            "as many places as that makes"
        )
    elif module.drops_padding:
        checkpoint.remarks.append(
            f"each {sensor.modality} of a call counts: one of zeros alone, which the network would "
            "leave out as padding, is not"
        )
    assert module.layout is not None  # noqa: S101 - it ran
    beside: dict[str, Tensor] = {}
    if not has_feature_function(checkpoint.network, sensor.modality):
        beside = masks_beside(checkpoint, sensor, values[sensor.name])
    return FeatureEncoder(module, values, [{**beside, **values}], constants, module.layout)


def _copies(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in values.items()}


class _ByPosition(nn.Module):
    """A module that takes its values in order, as torch.export names dimensions."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module, self._names = module, tuple(names)

    def forward(self, *values: Tensor) -> Any:  # noqa: ANN401
        """What the module gives."""
        return self.module(**dict(zip(self._names, values, strict=True)))


def _check_tracing(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Raise where a graph cannot follow what masks and sizes beside a sensor's values choose."""
    batch = torch.export.Dim("batch", max=ROWS * 4)
    with quiet(), torch.no_grad():
        torch.export.export(
            _ByPosition(module, list(values)),
            tuple(value.clone() for value in values.values()),
            dynamic_shapes={"values": tuple({0: batch} for _ in values)},
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def _try_row(checkpoint: Checkpoint, sensor: Sensor, row: Mapping[str, Tensor]) -> FeatureEncoder:
    """An encoder of rows of one size; ``row`` is what the network takes for one."""
    network, example = checkpoint.network, row[sensor.name]
    encode = feature_function(network, sensor.modality)
    fixed = {name: value for name, value in row.items() if name != sensor.name}
    is_batch = example.shape[0] == 1

    def encode_row(value: Tensor) -> Any:  # noqa: ANN401
        values = {sensor.name: value[None] if is_batch else value}
        return encode(**values, **_copies(fixed), return_dict=True)

    def features(value: Tensor) -> tuple[Tensor, ...]:
        return tuple(t[0] for t in layout.tensors(encode_row(value), 1))

    first = example[0] if is_batch else example
    with quiet(), torch.no_grad():
        layout = read_layout(encode_row(first), 1)
    graph = RowGraph(trace_row(features, first)).eval()
    module = _RowEncoder(graph, sensor.modality).eval()
    several = torch.stack([first, *(first.roll(n, -1) for n in range(1, ROWS))])
    with quiet(), torch.no_grad():
        constants = module(**{sensor.name: several})
        for at in range(ROWS):
            alone = module.name([t[None] for t in features(several[at])])
            _compare(alone, {name: value[at : at + 1] for name, value in constants.items()})
    further = {name: torch.cat([value] * ROWS) for name, value in fixed.items()}
    forms = [several] if is_batch else [several.flatten(0, 1), several]
    if is_batch and several.ndim == 3:  # some take the patches of all pictures one after another
        forms.append(several.flatten(0, 1))
    if is_batch and several.ndim == 4 and fixed:  # or in one strip of patches, side by side
        strip = several.movedim(0, 2)
        forms.append(strip.reshape(1, *strip.shape[:2], -1))
    if fixed:
        text = ", ".join(f"{name} {value.tolist()}" for name, value in _short(fixed).items())
        checkpoint.remarks.append(
            f"the {sensor.modality} has one size, that of {sensor.name} {list(first.shape)}"
            + (f" with {text}" if text else "")
            + "; another is refused by its shape"
        )
    network_values = [{**further, sensor.name: form} for form in forms]
    counted = {name: _counted_on(value) for name, value in fixed.items() if _counts(value)}
    network_values = [{**values, **counted} for values in network_values]
    return FeatureEncoder(module, {sensor.name: several}, network_values, constants, layout)


def _counts(value: Tensor) -> bool:
    """Whether a tensor numbers patches, each once."""
    return value.ndim > 1 and torch.equal(
        value.flatten().sort().values, torch.arange(value.numel())
    )


def _counted_on(value: Tensor) -> Tensor:
    """Numbers of one picture's patches, for several: they go on from picture to picture."""
    return torch.cat([value + n * value.numel() for n in range(ROWS)])


def _short(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if value.numel() <= 8}


def _compare(alone: Mapping[str, Tensor], together: Mapping[str, Tensor]) -> None:
    """Refuse features of rows that are others than those of a row alone."""
    for name, value in alone.items():
        other = together[name][: value.shape[0]]
        if other.shape != value.shape:
            raise ExportError(f"features of a row have another shape beside other rows: {name}")
        if float((value - other).abs().max()) > _NEAR * float(value.abs().max()):
            raise ExportError(f"features of a row differ beside other rows: {name}")
