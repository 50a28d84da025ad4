"""Files that a command line names become arrays: pictures, sound, NumPy and safetensors files.

Nothing is resized, resampled or rescaled to fit: preprocessing is part of the network's graph, and
a picture of another size or a recording at another rate is an error that says so.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import InputError
from mmedge.media.wav import read_wav
from mmedge.schema.tokenizer import MAX_TEXT_CHARACTERS
from mmedge.spec import DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from PIL import Image

    from mmedge.spec import Array, Manifest, Modality, TensorSpec

__all__ = ["READERS", "read_file", "read_inputs"]

#: Sizes of a colour axis: grey, RGB, RGBA.
CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
#: Pillow's modes that convert to 8-bit RGB, and to 8-bit grey, without loss.
PICTURE_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
GREY_MODES = ("1", "L", "LA")
#: EXIF tag of the rotation that a viewer should apply; 1 is none (EXIF 2.32, table 4).
ORIENTATION = 0x0112
#: Bytes of an array in a file.
MAX_FILE_BYTES = 1 << 31
#: What a picture may be, whatever its name says.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
SUFFIXES_IMAGE = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def read_inputs(manifest: Manifest, assignments: Sequence[str]) -> dict[str, Array | str]:
    """Inputs of a network from ``name=value`` words.

    A value is a file, told by its suffix (.png .jpg .jpeg .bmp .webp .wav .npy .safetensors .txt),
    or, for a modality with a tokenizer, the text itself. A file's array that lacks only a first
    axis that may have size 1 (the batch) gets it.

    Raises:
        InputError: a word is malformed, names nothing known, or its file does not fit.
    """
    specs = manifest.inputs()
    values: dict[str, Array | str] = {}
    for word in assignments:
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise InputError(f"--input {word!r}: expected name=value, such as image=photo.png")
        modality = _modality(manifest, name)
        target = name if name in specs else modality.inputs[0]
        if target in values or name in values:
            raise InputError(f"--input {name!r} is given twice")
        suffix = Path(value).suffix.lower()
        # "what is in photo.png" is a question; "questoin.txt" is a file that is not there.
        words = suffix not in READERS or (" " in value and not _is_file(value))
        if modality.tokenizer is not None and words:
            values[name] = value
            continue
        if suffix not in READERS:
            raise InputError(f"--input {name}={value}: {_unread(value, suffix, modality)}")
        path = Path(value)
        if not _is_file(value):
            raise InputError(f"--input {name}={value}: no such file: {path}")
        content = read_file(path, specs[target], modality)
        values[name if isinstance(content, str) else target] = content
    return values


def read_file(path: Path, spec: TensorSpec, modality: Modality) -> Array | str:
    """What a file holds for one input, by its suffix.

    Args:
        path: one of :data:`READERS`.
        spec: of the input.
        modality: of the input.

    Raises:
        InputError: its suffix has no reader, or the file does not fit.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: {_unread(str(path), path.suffix.lower(), modality)}")
    content = reader(path, spec, modality)
    return content if isinstance(content, str) else _with_batch(content, spec)


def _is_file(value: str) -> bool:
    return stat.S_ISREG(_mode(value))


def _mode(value: str) -> int:
    """Kind of the file of that name; 0: there is none, or it is a text that can be no name."""
    try:
        return Path(value).stat().st_mode
    except (OSError, ValueError):
        return 0


def _unread(value: str, suffix: str, modality: Modality) -> str:
    """Why no reader takes what stands behind a modality without a tokenizer."""
    files = f"give a file that ends in one of {' '.join(sorted(READERS))}"
    if stat.S_ISDIR(_mode(value)):
        return f"a folder; {files}"
    if suffix:
        return f"no reader for {suffix!r}; {files}"
    if _is_file(value):
        return f"its name has no suffix to tell what it holds; {files}"
    return f"no such file, and modality {modality.name!r} takes no text: no tokenizer; {files}"


def _modality(manifest: Manifest, name: str) -> Modality:
    for modality in manifest.modalities:
        if name in (modality.name, *modality.inputs):
            return modality
    raise InputError(f"--input {name!r}: unknown; this bundle takes {', '.join(manifest.inputs())}")


def _with_batch(array: Array, spec: TensorSpec) -> Array:
    return array[np.newaxis] if _lacks_batch(array, spec) else array


def _lacks_batch(array: Array, spec: TensorSpec) -> bool:
    """Whether ``array`` has all but a first axis that may have size 1."""
    one = isinstance(spec.shape[0], str) or spec.shape[0] == 1 if spec.shape else False
    return one and array.ndim == len(spec.shape) - 1


def _read_image(path: Path, spec: TensorSpec, _modality: Modality) -> Array:
    from PIL import Image

    frame = spec.shape[-3:]
    last = frame[-1] in CHANNELS
    if spec.dtype != "uint8" or len(frame) != 3 or not (last or frame[0] in CHANNELS):
        raise InputError(
            f"{path}: input {spec} takes no picture (a picture is uint8 [..., height, width, "
            "channels] or [..., channels, height, width]); save the array it needs as .npy"
        )
    channels = frame[-1] if last else frame[0]
    height, width = (frame[0], frame[1]) if last else (frame[1], frame[2])
    try:
        with Image.open(path, formats=FORMATS) as image:
            for what, size, pixels in (
                ("high", height, image.height),
                ("wide", width, image.width),
            ):
                if isinstance(size, int) and size != pixels:
                    raise InputError(
                        f"{path}: the picture is {pixels} pixels {what}, input {spec} takes "
                        f"{size}; resize it as the network was trained"
                    )
            _check_picture(path, image, int(channels))
            array = np.asarray(image.convert(CHANNELS[int(channels)]), np.uint8)
    except InputError:
        raise
    except Exception as error:  # what damaged bytes make of Pillow's parsing
        raise InputError(f"{path}: cannot be read as a picture: {error}") from error
    if array.ndim == 2:
        array = array[..., np.newaxis]
    return array if last else np.ascontiguousarray(np.moveaxis(array, -1, 0))


def _check_picture(path: Path, image: Image.Image, channels: int) -> None:
    """Refuse what a conversion to ``channels`` of 8 bits would change or leave out unseen."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise InputError(
            f"{path}: holds {frames} pictures (an animation, or several of a camera); save the one "
            "that is meant"
        )
    # Pillow opens a PNG of 16 bits a colour as one of 8 and drops the rest.
    deep = image.format == "PNG" and _png_bits(path) > 8
    if deep or image.mode not in (GREY_MODES if channels == 1 else PICTURE_MODES):
        mode = f"{image.mode} with 16 bits" if deep else image.mode
        raise InputError(
            f"{path}: pixels of mode {mode} do not fit {channels} channels of 8 bits without "
            "loss; convert the picture, or save the array as .npy"
        )
    clear = image.has_transparency_data and channels != 4
    if clear and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise InputError(f"{path}: the picture is partly transparent; flatten it first")
    orientation = image.getexif().get(ORIENTATION, 1)
    if orientation != 1:
        raise InputError(
            f"{path}: the picture is stored turned (EXIF orientation {orientation}); rotate its "
            "pixels"
        )


def _png_bits(path: Path) -> int:
    """Bits of each colour, which stand at a fixed place."""
    with path.open("rb") as file:
        return file.read(25)[24]


def _read_wav(path: Path, spec: TensorSpec, modality: Modality) -> Array:
    if spec.dtype != "float32":
        raise InputError(
            f"{path}: input {spec} takes no sound (PCM is float32 in [-1, 1]); "
            "save the array it needs as .npy"
        )
    sound = read_wav(path)
    if modality.sample_rate_hz is not None and sound.rate != modality.sample_rate_hz:
        raise InputError(
            f"{path}: expected {modality.sample_rate_hz} Hz, got {sound.rate} Hz; resample it first"
        )
    return sound.samples


def _read_npy(path: Path, spec: TensorSpec, _modality: Modality) -> Array:
    try:
        # Mapped, so that nothing is allocated for a size that the file does not have.
        array = np.load(path, allow_pickle=False, mmap_mode="r")
    except Exception as error:  # what damaged bytes make of NumPy's parsing
        # NumPy takes what it does not know for a pickle, and advises to load that.
        words = "no array of numbers" if _may_be_pickle(error) else str(error)
        raise InputError(f"{path}: cannot be read as .npy: {words}") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: an archive of arrays; save the one that is meant as .npy")
    _check_fits(path, array, spec)
    return np.array(array, order="C")


def _may_be_pickle(error: Exception) -> bool:
    return "pickle" in str(error) or "Python objects" in str(error)


def _read_safetensors(path: Path, spec: TensorSpec, _modality: Modality) -> Array:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = sorted(file.keys())
            array = file.get_tensor(spec.name) if spec.name in names else None
    except Exception as error:  # the library's own, and NumPy's on what its header says
        raise InputError(f"{path}: cannot be read as safetensors: {error}") from error
    if array is None:
        raise InputError(f"{path}: no tensor {spec.name!r}; it holds {', '.join(map(repr, names))}")
    _check_fits(path, array, spec)
    tensor: Array = array
    return tensor


def _check_fits(path: Path, array: Array, spec: TensorSpec) -> None:
    """Refuse an array before it is copied that no call would take."""
    sizes = spec.shape[1:] if _lacks_batch(array, spec) else spec.shape
    if (
        array.dtype != DTYPES[spec.dtype]
        or len(sizes) != array.ndim
        or any(isinstance(n, int) and n != m for n, m in zip(sizes, array.shape, strict=True))
    ):
        raise InputError(
            f"{path}: expected {spec}, got {array.dtype} {list(array.shape)}; convert it where it "
            "is made"
        )
    if array.nbytes > MAX_FILE_BYTES:
        raise InputError(f"{path}: {array.nbytes} bytes, expected at most {MAX_FILE_BYTES}")


def _read_text(path: Path, spec: TensorSpec, modality: Modality) -> str:
    if modality.tokenizer is None:
        raise InputError(f"{path}: input {spec} takes no text; this modality has no tokenizer")
    try:
        if (size := path.stat().st_size) > 4 * MAX_TEXT_CHARACTERS:
            raise InputError(
                f"{path}: {size} bytes of text, expected at most {MAX_TEXT_CHARACTERS} characters"
            )
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text: {error}") from error


READERS: Mapping[str, Callable[[Path, TensorSpec, Modality], Array | str]] = {
    **dict.fromkeys(SUFFIXES_IMAGE, _read_image),
    ".npy": _read_npy,
    ".safetensors": _read_safetensors,
    ".txt": _read_text,
    ".wav": _read_wav,
}
