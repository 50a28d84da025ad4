from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmedge_export.zoo import weight_file
from mmedge_export.zoo.logmel import FLOOR, HOP, RATE, WINDOW
from mmedge_export.zoo.spectrum import BANDS, BINS, FIRST, LogSpectrum, bands
from mmedge_export.zoo.vqa.classical import (
    PROTOTYPES,
    SIGMA,
    XYZ,
    Classical,
    ColorSegmentation,
    Sobel,
    lab,
)
from mmedge_export.zoo.vqa.image import ResNet, normalise
from mmedge_export.zoo.vqa.network import VqaNet

# What easy-vqa 1.0 calls each color, and paints shapes with.
PAINT = {
    "blue": (0, 0, 255), "red": (255, 0, 0), "brown": (165, 42, 42), "yellow": (255, 255, 0),
    "black": (0, 0, 0), "teal": (0, 128, 128), "lime": (0, 255, 0), "gray": (128, 128, 128),
}  # fmt: skip


def random_frame(seed: int, height: int = 13, width: int = 17) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, 3), np.float32)


def chw(frame: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frame).permute(2, 0, 1)[None]


def test_gradients_are_those_of_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    frame = random_frame(0).astype(np.float64)
    found = Sobel()(chw(frame.astype(np.float32)))[0].numpy()
    luma = frame @ [0.299, 0.587, 0.114]
    right, down = (ndimage.sobel(luma, axis, mode="nearest") / 4 for axis in (1, 0))
    squares = [
        (ndimage.sobel(frame[:, :, color], axis, mode="nearest") / 4) ** 2
        for color in range(3)
        for axis in (0, 1)
    ]
    np.testing.assert_allclose(found, [right, down, np.sqrt(np.sum(squares, 0))], atol=1e-6)


def test_a_step_has_gradient_1_and_a_plain_frame_none():
    frame = np.zeros((8, 8, 3), np.float32)
    frame[:, 4:] = 1
    right, down, magnitude = Sobel()(chw(frame))[0]
    np.testing.assert_allclose(right[:, 3:5], 1, atol=1e-6)
    assert right[:, :3].abs().max() < 1e-6
    assert right[:, 5:].abs().max() < 1e-6
    assert down.abs().max() < 1e-6
    np.testing.assert_allclose(magnitude, np.sqrt(3) * right, atol=1e-6)
    assert Sobel()(torch.full((1, 3, 8, 8), 0.7)).abs().max() < 1e-6


def test_two_colors_of_one_luma_have_an_edge():
    frame = np.zeros((4, 8, 3), np.float32)
    frame[:, :4, 0] = 0.587
    frame[:, 4:, 1] = 0.299
    right, down, magnitude = Sobel()(chw(frame))[0]
    assert right.abs().max() < 1e-6
    assert down.abs().max() < 1e-6
    np.testing.assert_allclose(magnitude[:, 3:5], np.hypot(0.587, 0.299), atol=1e-6)


def test_lab_is_that_of_scikit_image():
    color = pytest.importorskip("skimage.color")
    frame = random_frame(1)
    frame[0, 0], frame[0, 1] = 0, 1
    found = lab(chw(frame), ColorSegmentation().xyz)[0].permute(1, 2, 0).numpy()
    # scikit-image rounds the white otherwise and has more digits in the matrix.
    np.testing.assert_allclose(found, color.rgb2lab(frame), atol=0.03)
    np.testing.assert_allclose(found[0, 0], 0, atol=1e-4)
    np.testing.assert_allclose(found[0, 1], [100, 0, 0], atol=1e-3)


def test_memberships_are_a_softmax_of_squared_distances():
    frame = random_frame(2)
    net = ColorSegmentation()
    found = net(chw(frame))[0].flatten(1).T.double()
    assert found.shape == (13 * 17, len(PROTOTYPES))
    torch.testing.assert_close(found.sum(1), torch.ones(13 * 17, dtype=torch.float64))
    palette = np.array(list(PROTOTYPES.values()), np.float64)[None] / 255
    xyz = torch.tensor(XYZ, dtype=torch.float64)
    xyz = xyz / xyz.sum(1, keepdim=True)
    points, centers = (
        lab(chw(colors), xyz)[0].flatten(1).T for colors in (frame.astype(np.float64), palette)
    )
    distance = torch.cdist(points, centers)
    want = torch.softmax(-(distance**2) / (2 * SIGMA**2), dim=1)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", PAINT)
@pytest.mark.parametrize("light", [0.94, 1.0, 1.06])
def test_a_shape_of_easy_vqa_is_of_its_color(name, light):
    rng = np.random.default_rng(0)
    painted = np.full((8, 8, 3), PAINT[name]) * light + rng.normal(0, 4, (8, 8, 3))
    frame = np.clip(painted, 0, 255).astype(np.float32) / 255
    membership = ColorSegmentation()(chw(frame))[0].mean((1, 2))
    assert list(PROTOTYPES)[int(membership.argmax())] == name
    assert membership.max() > 0.6


def test_the_shapes_of_the_data_have_those_colors():
    pytest.importorskip("easy_vqa", reason="needs easy-vqa")
    from mmedge_export.zoo.vqa import questions
    from mmedge_export.zoo.vqa.network import ANSWERS

    data = questions.load("test")
    said = {text: n for n, text in enumerate(data.texts)}["what color is the shape?"]
    pairs = np.flatnonzero(data.text == said)[:200]
    frames = torch.from_numpy(data.images[data.image[pairs]]).float().permute(0, 3, 1, 2) / 255
    names = list(PROTOTYPES)
    membership = ColorSegmentation()(frames)
    # The background is any light tint, from 230 to 255 in each channel.
    membership[:, [names.index(tint) for tint in ("white", "silver", "pink")]] = 0
    found = [names[n] for n in membership.sum((2, 3)).argmax(1)]
    want = [ANSWERS[n].replace("green", "lime") for n in data.answer[pairs]]
    assert found == want
    assert len(set(found)) == 8


@pytest.mark.parametrize("hz", [100.0, 1_000.0, 3_210.0, 6_350.0])
def test_a_sine_peaks_in_its_band(hz):
    pcm = torch.sin(2 * torch.pi * hz * torch.arange(8_000) / RATE)[None]
    power, _ = LogSpectrum()(pcm)
    assert power.shape == (1, BANDS, 8_000 // HOP + 1)
    lowest = (FIRST - 0.5) * RATE / WINDOW
    band = int((hz - lowest) // (BINS * RATE / WINDOW))
    assert int(power[0, :, 10].argmax()) == band


@settings(max_examples=10, deadline=None)
@given(samples=st.integers(1_600, 9_000), decibels=st.floats(-50, 0), seed=st.integers(0, 2**16))
def test_the_spectrum_agrees_with_a_float64_fft(samples, decibels, seed):
    rng = np.random.default_rng(seed)
    pcm = (rng.standard_normal(samples) * 0.2 * 10 ** (decibels / 20)).astype(np.float32)
    found, valid = LogSpectrum()(torch.from_numpy(pcm)[None])
    padded = np.concatenate([pcm.astype(np.float64), np.zeros(WINDOW)])
    window = np.hanning(WINDOW + 1)[:-1]
    frames = np.stack([padded[n * HOP : n * HOP + WINDOW] for n in range(samples // HOP + 1)])
    power = np.abs(np.fft.rfft(frames * window / window.sum(), axis=1)) ** 2
    pairs = power[:, FIRST : FIRST + BANDS * BINS].reshape(len(power), BANDS, BINS).sum(2)
    np.testing.assert_allclose(found[0].numpy().T, np.log(np.maximum(pairs, FLOOR)), atol=5e-3)
    assert (valid[0].numpy() == frames.any(axis=1)).all()


def test_bands_share_no_bin_and_leave_the_mean_out():
    bank = bands()
    assert (bank.sum(1) == BINS).all()
    assert bank.sum(0).max() == 1
    assert bank[:, 0].sum() == 0


def test_the_body_is_the_residual_network_on_other_maps():
    torch.manual_seed(0)
    net = Classical(32).eval()
    frame = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    maps = net.features(frame)
    assert maps.shape == (2, 3 + len(PROTOTYPES), 64, 64)
    plain = ResNet(32, channels=maps.shape[1])
    plain.load_state_dict(net.state_dict())
    plain.eval().features = lambda given: given
    with torch.inference_mode():
        assert torch.equal(net(frame)[0], plain(maps)[0])
        assert torch.equal(ResNet(32).features(frame), normalise(frame))


def test_weight_files_hold_no_constants_of_the_features(tmp_path):
    torch.manual_seed(0)
    net = VqaNet(image="classical", audio="spectrum-cnn").eval()
    path = tmp_path / "vqa-attention.safetensors"
    weight_file.save(net, {}, path)
    again = weight_file.load(path, VqaNet)
    assert again.parts == net.parts
    assert not [n for n in net.state_dict() if "sobel" in n or "segm" in n or ".features." in n]
    given = {
        "image": torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8),
        "text": torch.arange(16)[None],
        "audio": torch.randn(1, 3_000) * 0.1,
    }
    with torch.inference_mode():
        assert torch.equal(net(**given)["answer"], again(**given)["answer"])
