"""Sentences read by espeak-ng's library, which also says when each phoneme begins."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import ExportError
from mmedge_export.zoo.pcm import to_float, to_int16
from mmedge_export.zoo.resample import resample
from mmedge_export.zoo.speech import RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LIBRARY", "PITCH", "SPEED_WPM", "VOICE", "Reading", "Sound", "is_installed", "read"]

LIBRARY = "libespeak-ng.so.1"
VOICE = "en-us"
"""The one voice that is learned."""

SPEED_WPM = 160
"""Words a minute."""

PITCH = 50
"""espeak-ng's setting of the mean pitch, 0 to 99."""

# Of speak_lib.h.
_SYNCHRONOUS = 2
_PHONEME_EVENTS, _NO_EXIT = 0x0001, 0x8000
_RATE, _PITCH = 1, 3
_AS_CHARACTERS, _UTF8 = 1, 1
_END_OF_LIST, _WORD, _PHONEME = 0, 1, 7


class _Id(ctypes.Union):
    _fields_ = (
        ("number", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("string", ctypes.c_char * 8),
    )


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True)
class Sound:
    """One phoneme of a reading.

    Attributes:
        phoneme: as espeak-ng writes it.
        word: where the word that it is of begins in the text, characters.
        start: when it begins, s.
        end: when the next one begins, s.
    """

    phoneme: str
    word: int
    start: float
    end: float


@dataclass(frozen=True)
class Reading:
    """One sentence, read.

    Attributes:
        text: the sentence.
        pcm: int16 ``[samples]``, 16 kHz.
        sounds: its phonemes one after the other, from 0 s to the end.
    """

    text: str
    pcm: NDArray[np.int16]
    sounds: tuple[Sound, ...]


def is_installed() -> bool:
    """Whether the library is there."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


@cache
def _library() -> tuple[Any, int]:
    """The library, with the voice set, and its sampling rate, Hz. A process has one."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise ExportError(
            f"speech synthesis needs the library {LIBRARY}: apt-get install espeak-ng"
        ) from error
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS | _NO_EXIT)
    if rate <= 0 or library.espeak_SetVoiceByName(VOICE.encode()):
        raise ExportError(f"{LIBRARY} does not have the voice {VOICE}: apt-get install espeak-ng")
    library.espeak_SetParameter(_RATE, SPEED_WPM, 0)
    library.espeak_SetParameter(_PITCH, PITCH, 0)
    return library, rate


def read(text: str) -> Reading:
    """Read a sentence by the one voice.

    Args:
        text: of ASCII letters and spaces.

    Raises:
        ExportError: espeak-ng is missing, fails, or gives no phonemes.
    """
    library, rate = _library()
    blocks: list[bytes] = []
    words: list[tuple[int, int]] = []
    phonemes: list[tuple[str, int, int]] = []

    def take(wav: Any, count: int, events: Any) -> int:  # noqa: ANN401 - pointers of ctypes
        if wav and count:
            blocks.append(ctypes.string_at(wav, 2 * count))
        number = 0
        while events[number].type != _END_OF_LIST:
            event = events[number]
            if event.type == _WORD:
                words.append((event.text_position - 1, event.sample))
            elif event.type == _PHONEME:
                name = event.id.string.decode()
                phonemes.append((name, event.text_position - 1, event.sample))
            number += 1
        return 0

    callback = _CALLBACK(take)
    library.espeak_SetSynthCallback(callback)
    data = text.encode("ascii")
    if library.espeak_Synth(data, len(data) + 1, 0, _AS_CHARACTERS, 0, _UTF8, None, None):
        raise ExportError(f"espeak-ng could not read {text!r}")
    library.espeak_Synchronize()
    # A pause at the end has a phoneme of its own, and ends the last one that is heard.
    heard = [phoneme for phoneme in phonemes if not phoneme[0].startswith("_")]
    if not heard:
        raise ExportError(f"espeak-ng gave no phonemes of {text!r}")
    last = next((sample for name, _, sample in phonemes if name == "_:"), phonemes[-1][2])
    # The closure before a word's first burst belongs to the word, and the event to the burst.
    opening = dict(words)
    starts, seen = [], set()
    for _, word, sample in heard:
        starts.append(sample if word in seen else min(sample, opening.get(word, sample)))
        seen.add(word)
    starts[0] = 0
    ends = [*starts[1:], last]
    sounds = tuple(
        Sound(name, word, start / rate, end / rate)
        for (name, word, _), start, end in zip(heard, starts, ends, strict=True)
    )
    pcm = resample(to_float(np.frombuffer(b"".join(blocks), "<i2")[:last]), rate, RATE)
    return Reading(text, to_int16(pcm), sounds)
