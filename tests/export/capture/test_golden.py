"""What a graph is held against, and what becomes proof: absences, every sample, other batches."""

from __future__ import annotations

import networks
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mmedge
from mmedge.errors import ExportError
from mmedge.execution.verify import verify
from mmedge_export import Input, Model, export
from mmedge_export.capture import probe_inputs


class Masked(nn.Module):
    """Mean over the valid steps of a sequence; where none is valid, NaN or nothing."""

    def __init__(self, *, safe: bool) -> None:
        super().__init__()
        self.safe = safe
        self.score = nn.Linear(4, 1)

    def forward(self, image: Tensor, audio: Tensor, text: Tensor) -> Tensor:
        return image + self.pool(audio) + self.pool(text)

    def pool(self, x: Tensor) -> Tensor:
        valid = x.abs().sum(-1, keepdim=True) > 0
        if self.safe:
            valid = valid | ~valid.any(1, keepdim=True)
        return (self.score(x).masked_fill(~valid, -torch.inf).softmax(1) * x).sum(1)


def masked(*, safe: bool, **audio) -> Model:
    torch.manual_seed(0)
    steps = {0: "batch", 1: "steps"}
    return Model(
        Masked(safe=safe),
        {
            "image": Input(networks.floats(2, 4), dynamic={0: "batch"}),
            "audio": Input(networks.floats(2, 5, 4), dynamic=steps, **{"required": False, **audio}),
            "text": Input(networks.floats(2, 3, 4), dynamic={0: "batch"}, required=safe),
        },
        ["y"],
        dims={"steps": (2, 9), "batch": (1, 8)},
    )


def test_an_absence_that_gives_nan_is_refused(tmp_path):
    with pytest.raises(
        ExportError,
        match=r"modality 'audio' is optional, but with audio absent \(the zeros standing in for "
        r"'audio' \[2, 2, 4\]\) output 'y' of the network has NaN. Say required=True",
    ):
        export(masked(safe=False), tmp_path / "b")


@pytest.mark.parametrize("token", [None, np.full((1, 1, 4), 0.5, np.float32)])
def test_an_absence_is_a_golden_sample_that_the_runtime_replays(token, tmp_path):
    given = {} if token is None else {"absent": "token", "absent_token": token}
    model = masked(safe=True, **given)
    with export(model, tmp_path / "b", samples_limit=1) as bundle:
        _, absent = bundle.samples()
    stand_in = np.broadcast_to(0 if token is None else token, (2, 2, 4))
    np.testing.assert_array_equal(absent.inputs["audio"], stand_in)
    image, text = (model.inputs[name].example for name in ("image", "text"))
    with mmedge.load(tmp_path / "b", backend="ort") as pipe:
        # The runtime puts the very same in, at sizes of its own finding.
        np.testing.assert_array_equal(
            np.asarray(pipe(image=image, text=text)["y"]),
            np.asarray(pipe(**absent.inputs)["y"]),
        )
        found = verify(pipe)
    assert found.ok
    assert found.samples == 2


class Either(nn.Module):
    """Weighs two modalities by what they hold; without both there is nothing to weigh."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        weights = torch.stack([a.abs().sum(-1), b.abs().sum(-1)])
        weights = weights / weights.sum(0)
        return weights[0, :, None] * a + weights[1, :, None] * b


def test_a_network_may_need_one_of_its_optional_modalities(tmp_path):
    inputs = {
        name: Input(networks.floats(2, 4), dynamic={0: "batch"}, required=False) for name in "ab"
    }
    said: list[str] = []
    with export(Model(Either(), inputs, ["y"]), tmp_path / "b", progress=said.append) as bundle:
        absent = bundle.samples()[4:]
    assert [sorted(n for n, v in s.inputs.items() if not v.any()) for s in absent] == [["a"], ["b"]]
    assert [line for line in said if "not checked" in line] == [
        "not checked: a and b absent: output 'y' of the network has NaN; one of them must be given"
    ]


class Odd(nn.Module):
    """Is traced as another function than it is for large values."""

    def __init__(self, *, large: float) -> None:
        super().__init__()
        self.large = large

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return x * 2
        return torch.where(x > self.large, x * 3, x * 2)


def test_every_sample_is_checked_and_only_the_first_are_kept(tmp_path):
    taken = []

    def samples(last: float):
        for value in (*[0.5] * 249, last):
            taken.append(value)
            yield {"x": np.full((1, 3), value, np.float32)}, None

    inputs = {"x": Input(networks.floats(1, 3), dynamic={0: "batch"})}
    said: list[str] = []
    good = Model(Odd(large=9), inputs, ["y"], samples(1.0))
    with export(good, tmp_path / "b", samples_limit=2, progress=said.append) as bundle:
        assert len(bundle.samples()) == 2
    assert len(taken) == 250
    assert [line for line in said if "checked" in line] == [
        "checked 100 samples",
        "checked 200 samples",
    ]
    with pytest.raises(ExportError, match="output 'y' differs by up to .* for sample 249 "):
        export(Model(Odd(large=9), inputs, ["y"], samples(10.0)), tmp_path / "c")


class OddBatch(nn.Module):
    """Is traced as another function than it is for a batch of four."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting() or x.shape[0] != 4:
            return x * 2
        return x * 3


def test_every_sample_is_checked_at_another_batch_size(tmp_path):
    inputs = {"x": Input(networks.floats(1, 3), dynamic={0: "batch"})}
    samples = [({"x": networks.floats(n, 3)}, None) for n in (1, 3)]
    with pytest.raises(ExportError, match="output 'y' differs .* for sample 1 at batch=4"):
        export(Model(OddBatch(), inputs, ["y"], samples), tmp_path / "b")


def test_another_batch_size_takes_a_row_of_another_sample():
    shapes = {"x": (2, 3), "scale": (1,)}
    inputs = {
        "x": Input(networks.floats(2, 3), dynamic={0: "batch"}),
        "scale": Input(networks.floats(1)),
    }
    model = Model(nn.Identity(), inputs, ["y"], dims={"batch": (1, 3)})
    one, two = ({n: networks.floats(*shape) for n, shape in shapes.items()} for _ in range(2))
    found = probe_inputs.rebatch(model, one, two)
    assert found is not None
    said, values = found
    assert said == "batch=3"
    np.testing.assert_array_equal(values["x"], np.concatenate([one["x"], two["x"][:1]]))
    np.testing.assert_array_equal(values["scale"], one["scale"])
    alone = probe_inputs.rebatch(model, one, None)
    assert alone is not None
    np.testing.assert_array_equal(alone[1]["x"], one["x"][[0, 1, 0]])
    largest = probe_inputs.rebatch(model, values, None)
    assert largest is not None
    assert largest[0] == "batch=2"
    static = Model(nn.Identity(), {"x": Input(networks.floats(2, 3), dynamic={1: "t"})}, ["y"])
    assert probe_inputs.rebatch(static, {"x": one["x"]}, None) is None


class Detector(nn.Module):
    """The boxes whose score is above a half: any number of them, or none."""

    def forward(self, boxes: Tensor) -> Tensor:
        return boxes[torch.nonzero(boxes[:, 0] > 0.5)[:, 0]]


def test_there_may_be_none_of_what_only_comes_out(tmp_path):
    boxes = np.linspace(0, 1, 30, dtype=np.float32).reshape(6, 5)
    samples = [({"boxes": boxes}, None), ({"boxes": boxes * 0}, None)]
    model = Model(Detector(), {"boxes": Input(boxes, dynamic={0: "n"})}, ["found"], samples)
    with export(model, tmp_path / "b") as bundle:
        dimension = bundle.manifest.dimensions["found_0"]
        assert [s.outputs["found"].shape for s in bundle.samples()] == [(3, 5), (0, 5)]
    assert (dimension.min, dimension.max) == (0, None)
    with mmedge.load(tmp_path / "b", backend="ort") as pipe:
        assert verify(pipe).ok
        assert np.asarray(pipe(boxes=boxes * 0)["found"]).shape == (0, 5)
