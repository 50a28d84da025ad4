"""Files become arrays as they are, or are refused with the reason."""

from __future__ import annotations

import contextlib
import json
import struct
import wave
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from mmedge.errors import InputError
from mmedge.media.decode import read_inputs
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
    long = "what is this? " * 400 + "photo.png"  # no name of a file can be as long
    assert read_inputs(MANIFEST, [f"text={long}"]) == {"text": long}
    with pytest.raises(InputError, match="takes no text"):
        read_inputs(MANIFEST, ["front=" + "word " * 1000])


def test_refusals(tmp_path, picture):
    path, _ = picture
    other = write_wav(tmp_path / "cd.wav", np.zeros(4, np.int16), rate=44100)
    stereo = write_wav(tmp_path / "st.wav", np.zeros(4, np.int16), channels=2)
    broken = tmp_path / "broken.png"
    broken.write_bytes(path.read_bytes()[:40])
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([{}], object), allow_pickle=True)
    junk, bare = tmp_path / "junk.npy", tmp_path / "bare"
    junk.write_bytes(b"junk")
    bare.write_bytes(b"junk")
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
        (f"pcm={objects}", "cannot be read as .npy: no array of numbers$"),
        (f"pcm={junk}", "cannot be read as .npy: no array of numbers$"),
        ("front=hello there", "no such file, and modality 'camera' takes no text: no tokenizer"),
        (f"front={tmp_path}", "a folder; give a file that ends in one of"),
        (f"front={bare}", "its name has no suffix"),
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


def sound(path, samples, *, fmt=None, riff=None, data=None, after=b""):
    """A WAV file whose header may lie."""
    body = samples.tobytes()
    fmt = struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16) if fmt is None else fmt
    blocks = b"WAVE" + b"fmt " + struct.pack("<I", len(fmt)) + fmt
    blocks += b"data" + struct.pack("<I", len(body) if data is None else data) + body
    size = len(blocks) + len(after) if riff is None else riff
    path.write_bytes(b"RIFF" + struct.pack("<I", size) + blocks + after)
    return path


SIXTEEN = np.arange(100, dtype=np.int16)
GUID = bytes.fromhex("000000001000800000aa00389b71")


def extensible(kind, valid=16):
    head = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 16000, 32000, 2, 16, 22, valid, 4)
    return head + struct.pack("<H", kind) + GUID


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": 20_000}, "its header says 20044 bytes, but the file has 244"),
        ({"data": 0xFFFFFFFF, "riff": 0xFFFFFFFF}, "its header says 4294967303 bytes"),
        ({"data": 0, "riff": 0}, "its header says 8 bytes, but the file has 244"),
        ({"riff": 100}, "its header says 108 bytes, but the file has 244"),
        ({"data": 100}, "but the file has|bytes after the last block"),
        ({"after": b"data" + struct.pack("<I", 4) + b"1234"}, "more than one block 'data'"),
        ({"after": b"junk!"}, "5 bytes after the last block"),
        ({"fmt": struct.pack("<HHIIHH", 3, 1, 16000, 64000, 4, 32)}, "float samples"),
        ({"fmt": struct.pack("<HHIIHH", 1, 2, 16000, 64000, 4, 16)}, "one channel, got 2"),
        ({"fmt": struct.pack("<HHIIHH", 1, 1, 16000, 64000, 4, 16)}, "16 bits in steps of 4"),
        ({"fmt": struct.pack("<HHIIHH", 1, 1, 16000, 48000, 3, 24)}, "24-bit samples"),
        ({"fmt": struct.pack("<HHIIHH", 7, 1, 16000, 8000, 1, 8)}, "format 7"),
        ({"fmt": extensible(3)}, "float samples"),
        ({"fmt": extensible(1, valid=12)}, "12 bits in 16"),
        ({"fmt": b"fmt?"}, "no block of format"),
    ],
)
def test_a_sound_whose_header_is_not_the_file_is_refused(tmp_path, changes, message):
    path = sound(tmp_path / "a.wav", SIXTEEN, **changes)
    with pytest.raises(InputError, match=message):
        read_inputs(MANIFEST, [f"pcm={path}"])


@pytest.mark.parametrize("samples", [np.zeros(0, np.int16)])
def test_a_sound_without_samples_is_refused(tmp_path, samples):
    with pytest.raises(InputError, match="no samples"):
        read_inputs(MANIFEST, [f"pcm={sound(tmp_path / 'a.wav', samples)}"])


@pytest.mark.parametrize(
    "changes",
    [{}, {"fmt": extensible(1)}, {"after": b"LIST" + struct.pack("<I", 4) + b"INFO"}],
)
def test_every_sample_of_a_sound_is_read(tmp_path, changes):
    found = read_inputs(MANIFEST, [f"pcm={sound(tmp_path / 'a.wav', SIXTEEN, **changes)}"])["pcm"]
    np.testing.assert_array_equal(found, [SIXTEEN.astype(np.float32) / 32768])


@given(st.data())
def test_damaged_sounds_are_refused_or_whole(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("wav") / "a.wav"
    whole = bytearray(sound(path, SIXTEEN).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + 1] = data.draw(st.binary(max_size=2))
    path.write_bytes(whole)
    with contextlib.suppress(InputError):
        read_inputs(MANIFEST, [f"pcm={path}"])


FRAMES = [Image.fromarray(np.full((4, 6, 3), n, np.uint8)) for n in (10, 200)]


@pytest.mark.parametrize(("name", "form"), [("a.png", "PNG"), ("a.webp", "WEBP"), ("a.jpg", "MPO")])
def test_more_than_one_picture_in_a_file_is_refused(tmp_path, name, form):
    FRAMES[0].save(tmp_path / name, form, save_all=True, append_images=FRAMES[1:])
    with pytest.raises(InputError, match="holds 2 pictures"):
        read_inputs(MANIFEST, [f"front={tmp_path / name}"])
    FRAMES[0].save(tmp_path / name, "JPEG" if form == "MPO" else form)
    assert read_inputs(MANIFEST, [f"front={tmp_path / name}"])["front"].shape == (1, 4, 6, 3)


@pytest.mark.parametrize("form", ["GIF", "PPM"])
def test_a_form_that_is_not_read_is_refused_under_another_name(tmp_path, form):
    FRAMES[0].save(tmp_path / "a.png", form)
    with pytest.raises(InputError, match="cannot be read as a picture"):
        read_inputs(MANIFEST, [f"front={tmp_path / 'a.png'}"])


def png16(path, channels):
    """A PNG of 16 bits a colour, which Pillow reads and does not write."""

    def block(name, data):
        crc = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + crc

    kind = {1: 0, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + bytes(range(6 * channels * 2)) for _ in range(4))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + block(b"IHDR", struct.pack(">IIBBBBB", 6, 4, 16, kind, 0, 0, 0))
        + block(b"IDAT", zlib.compress(rows))
        + block(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_not_cut_to_eight(tmp_path, channels):
    path = png16(tmp_path / "a.png", channels)
    with pytest.raises(InputError, match="16 bits|I;16.* do not fit"):
        read_inputs(MANIFEST, [f"front={path}"])


def test_a_picture_of_another_size_is_refused_before_it_is_decoded(tmp_path):
    Image.fromarray(np.zeros((4, 7, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="is 7 pixels wide, input .* takes 6"):
        read_inputs(MANIFEST, [f"front={tmp_path / 'a.png'}"])


@given(st.data())
@pytest.mark.filterwarnings("ignore")
def test_damaged_pictures_are_input_errors(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("png") / data.draw(st.sampled_from(["a.png", "a.jpg", "a.webp"]))
    FRAMES[1].save(path)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + 1] = data.draw(st.binary(max_size=2))
    path.write_bytes(whole)
    with contextlib.suppress(InputError):
        read_inputs(MANIFEST, [f"front={path}"])


def npy(path, header, data=b""):
    text = repr(header).encode() if isinstance(header, dict) else header
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data)
    return path


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "header",
    [
        {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)},
        {"descr": "<f4", "fortran_order": False, "shape": (1 << 70,)},
        {"descr": "<f4", "fortran_order": False, "shape": (-1,)},
        {"descr": "<f4", "fortran_order": False, "shape": (1,) * 70},
        {"descr": "O", "fortran_order": False, "shape": (1,)},
        {"descr": "<M8[ns]", "fortran_order": False, "shape": (1,)},
        {"descr": [("a", "<f4")], "fortran_order": False, "shape": (1,)},
        {"descr": ">f4", "fortran_order": False, "shape": (2,)},
        {"descr": "<f4", "fortran_order": False, "shape": (1, 2, 1)},
        {"descr": "nothing", "fortran_order": False, "shape": (1,)},
        {"descr": 3, "fortran_order": 4, "shape": 5},
        b"{" * 200,
        b"(" * 9000,
        b"\xff\xfe",
    ],
)
def test_odd_arrays_are_input_errors(tmp_path, header):
    path = npy(tmp_path / "a.npy", header, bytes(16))
    with pytest.raises(InputError, match=r"cannot be read as \.npy|expected pcm"):
        read_inputs(MANIFEST, [f"pcm={path}"])


@pytest.mark.parametrize(
    "header",
    [
        {"pcm": {"dtype": "F32", "shape": [1] * 70, "data_offsets": [0, 4]}},
        {"pcm": {"dtype": "F32", "shape": [1 << 63, 0], "data_offsets": [0, 0]}},
        {"pcm": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}},
        {"pcm": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}},
        {"other": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        {"pcm": {"dtype": "F64", "shape": [], "data_offsets": [0, 8]}},
    ],
)
def test_odd_safetensors_are_input_errors(tmp_path, header):
    text = json.dumps(header).encode()
    size = max(entry["data_offsets"][1] for entry in header.values())
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    with pytest.raises(InputError):
        read_inputs(MANIFEST, [f"pcm={path}"])


def test_a_text_file_is_read_without_its_mark_and_within_limits(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfgo left\n")
    assert read_inputs(MANIFEST, [f"text={path}"]) == {"text": "go left"}
    path.write_bytes(b"a" * 100_000)
    with pytest.raises(InputError, match="100000 bytes of text"):
        read_inputs(MANIFEST, [f"text={path}"])
