"""Files become arrays as they are, or are refused with the reason."""

from __future__ import annotations

import wave

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from mmedge.errors import InputError
from mmedge.media import read_inputs
from mmedge.spec import Manifest, Modality, Stage, TensorSpec, Tokenizer

SPECS = (
    TensorSpec("front", "uint8", ("batch", 4, 6, 3)),
    TensorSpec("planes", "uint8", ("batch", 3, 4, 6)),
    TensorSpec("pcm", "float32", ("batch", "samples")),
    TensorSpec("ids", "int64", ("batch", 8)),
)
MANIFEST = Manifest(
    name="m",
    modalities=(
        Modality("camera", ("front",)),
        Modality("side", ("planes",)),
        Modality("voice", ("pcm",), sample_rate_hz=16000),
        Modality("text", ("ids",), tokenizer=Tokenizer("assets/t.json", "ids")),
    ),
    stages=(Stage("model", "onnx/model.onnx", SPECS, ()),),
    outputs=(),
    variants=(),
    files={},
)


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png", pixels


def write_wav(path, samples, *, rate=16000, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(samples.dtype.itemsize)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


def test_a_picture_in_both_layouts(picture):
    path, pixels = picture
    found = read_inputs(MANIFEST, [f"front={path}", f"planes={path}"])
    np.testing.assert_array_equal(found["front"], pixels[np.newaxis])
    np.testing.assert_array_equal(found["planes"], pixels.transpose(2, 0, 1)[np.newaxis])
    assert found["planes"].flags.c_contiguous


def test_a_modality_name_stands_for_its_first_input(picture):
    assert set(read_inputs(MANIFEST, [f"camera={picture[0]}"])) == {"front"}


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_sound_is_scaled_to_one(tmp_path, dtype):
    full = np.iinfo(dtype)
    path = write_wav(tmp_path / "a.wav", np.array([full.min, full.max], dtype))
    found = read_inputs(MANIFEST, [f"pcm={path}"])["pcm"]
    assert found.dtype == np.float32
    assert found.shape == (1, 2)
    assert found[0, 0] == -1.0
    assert 0.99 < found[0, 1] <= 1.0


def test_numpy_and_safetensors(tmp_path):
    pcm = np.linspace(-1, 1, 5, dtype=np.float32)
    np.save(tmp_path / "a.npy", pcm)
    save_file({"pcm": pcm}, tmp_path / "a.safetensors")
    for name in ("a.npy", "a.safetensors"):
        np.testing.assert_array_equal(
            read_inputs(MANIFEST, [f"pcm={tmp_path / name}"])["pcm"], pcm[None]
        )


def test_text_as_it_is_or_from_a_file(tmp_path):
    (tmp_path / "q.txt").write_text("what is this?\n")
    question = "what is in photo.png"
    assert read_inputs(MANIFEST, [f"text={question}"]) == {"text": question}
    assert read_inputs(MANIFEST, ["text=what is this?"]) == {"text": "what is this?"}
    assert read_inputs(MANIFEST, [f"text={tmp_path / 'q.txt'}"]) == {"text": "what is this?"}


def test_refusals(tmp_path, picture):
    path, _ = picture
    other = write_wav(tmp_path / "cd.wav", np.zeros(4, np.int16), rate=44100)
    stereo = write_wav(tmp_path / "st.wav", np.zeros(4, np.int16), channels=2)
    broken = tmp_path / "broken.png"
    broken.write_bytes(path.read_bytes()[:40])
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([{}], object), allow_pickle=True)
    for word, message in [
        ("front", "expected name=value"),
        ("=x", "expected name=value"),
        ("nose=a.png", "unknown; this bundle takes front"),
        ("front=none.png", "no such file"),
        ("front=x.tiff", "no reader for '.tiff'"),
        (f"front={broken}", "cannot be read as a picture"),
        (f"pcm={path}", "takes no picture"),
        (f"pcm={other}", "expected 16000 Hz, got 44100 Hz"),
        (f"pcm={stereo}", "expected one channel, got 2"),
        (f"front={stereo}", "takes no sound"),
        (f"pcm={objects}", "cannot be read as .npy"),
    ]:
        with pytest.raises(InputError, match=message):
            read_inputs(MANIFEST, [word])
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 6), 40000, np.uint16)).save(deep)
    clear = tmp_path / "clear.png"
    Image.fromarray(np.full((4, 6, 4), 128, np.uint8)).save(clear)
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(turned, exif=exif)
    cut = tmp_path / "cut.wav"
    cut.write_bytes(write_wav(tmp_path / "whole.wav", np.zeros(4, np.int16)).read_bytes()[:-1])
    many = tmp_path / "many.npy"
    with many.open("wb") as file:
        np.savez(file, a=np.zeros(1), b=np.zeros(1))
    for word, message in [
        (f"front={deep}", "do not fit 3 channels of 8 bits"),
        (f"front={clear}", "partly transparent"),
        (f"front={turned}", "EXIF orientation 6"),
        (f"pcm={cut}", "cannot be read as PCM WAV"),
        (f"pcm={many}", "an archive of arrays"),
        ("text=missing.txt", "no such file"),
    ]:
        with pytest.raises(InputError, match=message):
            read_inputs(MANIFEST, [word])
    with pytest.raises(InputError, match="given twice"):
        read_inputs(MANIFEST, [f"front={path}", f"camera={path}"])
