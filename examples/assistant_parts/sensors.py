"""What the assistant sees, hears and says: pictures and WAV files, a camera, a microphone.

Camera and microphone need libraries that mmedge does not: OpenCV and sounddevice. This code has
been tried with stand-ins of both and with no real device.
"""

from __future__ import annotations

import io
import threading
import wave
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mmedge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = [
    "RATE",
    "SAMPLES",
    "Camera",
    "fit",
    "read_picture",
    "read_voice",
    "record",
    "write_voice",
]

SAMPLES = Path(__file__).parents[2] / "zoo/mmedge_zoo/samples"
"""Pictures and spoken requests of mmedge-zoo, in a folder for each task."""

RATE = 16_000
"""Samples of sound a second."""

FRAME_HZ = 30.0
MAX_PIXELS = 20_000_000


def read_picture(data: bytes) -> NDArray[np.uint8]:
    """The content of a PNG or JPEG file as uint8 ``[height, width, 3]``.

    Raises:
        InputError: it is none, or has more than 20 million pixels.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        if image.width * image.height > MAX_PIXELS:
            raise InputError(
                f"the picture has {image.width} x {image.height} pixels, expected at most "
                f"{MAX_PIXELS:,}; scale it down"
            )
        return np.asarray(image.convert("RGB"))
    # What Pillow raises on damaged files, and on those of far too many pixels.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"expected a picture as PNG or JPEG: {error}") from error


def fit(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The middle of a picture in the shape that a network takes, uint8 ``[1, height, width, 3]``.

    What lies beside the middle is cut off, and the rest is scaled, unless the size is right.
    """
    rows, columns = picture.shape[:2]
    scale = min(columns / width, rows / height)
    left, top = (columns - scale * width) / 2, (rows - scale * height) / 2
    box = (left, top, left + scale * width, top + scale * height)
    if (columns, rows) == (width, height):
        return picture[None]
    return np.asarray(Image.fromarray(picture).resize((width, height), box=box))[None]


def read_voice(data: bytes) -> NDArray[np.float32]:
    """The content of a WAV file, 16-bit PCM of one channel at 16 kHz, as float32 ``[1, samples]``.

    Raises:
        InputError: it is another kind of file; the message says which.
    """
    try:
        with wave.open(io.BytesIO(data)) as file:
            form = file.getnchannels(), 8 * file.getsampwidth(), file.getframerate()
            pcm = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise InputError(f"expected a WAV file of PCM: {error}") from error
    if form != (1, 16, RATE):
        raise InputError(
            f"expected a WAV file of channels, bits, Hz {(1, 16, RATE)}, got {form}; convert it, "
            "such as by ffmpeg -i IN -ac 1 -ar 16000 OUT.wav"
        )
    return (np.frombuffer(pcm, "<i2") / 32768).astype(np.float32)[None]


def write_voice(sound: NDArray[np.float32]) -> bytes:
    """Sound of -1 to 1 at 16 kHz, ``[samples]``, as a WAV file that :func:`read_voice` takes."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.rint(32767 * sound.clip(-1, 1)).astype("<i2").tobytes())
    return buffer.getvalue()


def _device_library(name: str, package: str) -> Any:  # noqa: ANN401
    try:
        return import_module(name)
    except (ImportError, OSError) as error:  # sounddevice without PortAudio is an OSError
        raise SystemExit(
            f"this needs {package}, which cannot be imported ({error}); pip install {package}"
        ) from error


def record(seconds: float) -> NDArray[np.float32]:
    """Sound of the default microphone, float32 ``[1, samples]`` at 16 kHz.

    Raises:
        SystemExit: sounddevice is not installed.
    """
    library = _device_library("sounddevice", "sounddevice")
    pcm = library.rec(int(seconds * RATE), samplerate=RATE, channels=1, dtype="float32")
    library.wait()
    return np.asarray(pcm, np.float32).reshape(1, -1)


class Camera:
    """Hands every frame of a camera to ``push``, from a thread of its own.

    Args:
        index: OpenCV's number of the camera.
        push: called with each frame, uint8 RGB ``[height, width, 3]``.

    Raises:
        SystemExit: OpenCV is not installed, or opens no such camera.
    """

    def __init__(self, index: int, push: Callable[[NDArray[np.uint8]], object]) -> None:
        library = _device_library("cv2", "opencv-python-headless")
        self._device = library.VideoCapture(index)
        if not self._device.isOpened():
            raise SystemExit(f"OpenCV opens no camera {index}; choose another by --camera NUMBER")
        self._device.set(library.CAP_PROP_FPS, FRAME_HZ)
        self._push, self._stop = push, threading.Event()
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            there, frame = self._device.read()
            if not there:
                print("the camera gives no more frames", flush=True)
                return
            self._push(np.ascontiguousarray(frame[:, :, ::-1]))  # OpenCV has BGR

    def close(self) -> None:
        """Stop reading, and free the camera."""
        self._stop.set()
        self._thread.join()
        self._device.release()
