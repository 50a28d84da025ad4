"""Ten short clips of read speech with their transcripts, and the word error rate of texts on them.

They lie in Debian's ``pocketsphinx-testdata`` (BSD-2-Clause): five sentences of a LibriVox reading
of "Sense and Sensibility", and five lines about playing cards. All are 16 kHz, mono, 16 bits.
``apt-get download`` gets the package, which is unpacked and not installed.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
import wave
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from package_files import PackageError, cache_folder

from mmedge_export.quantize.metrics import edit_distance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "PACKAGE",
    "RATE",
    "Clip",
    "load_clips",
    "normalize",
    "speech",
    "varied_clips",
    "word_error_rate",
]

PACKAGE = "pocketsphinx-testdata"
#: Samples a second.
RATE = 16000
#: Of all clips and transcripts, one after the other.
SHA256 = "04f29e7501153186858f61a2cb9eb12687d5034e4da4468f6ce3a1fecfa88a6e"

_DATA = Path("usr/share/pocketsphinx/test/data")
_LISTS = {"librivox": "librivox/transcription", "cards": "cards/cards.transcription"}
_LINE = re.compile(r"<s> (.*?) *</s> \((.*)\)")


@dataclass(frozen=True)
class Clip:
    """Speech: ``samples`` float32 from -1 to 1, at :data:`RATE`, and what is said."""

    name: str
    samples: NDArray[np.float32]
    transcript: str


def load_clips(cache: Path | None = None) -> list[Clip]:
    """The clips, in the order of the package's lists.

    Args:
        cache: folder to unpack the package into; None: the user's cache.

    Raises:
        PackageError: the package is not installed and cannot be had, or holds other clips.
    """
    folder = _unpack(cache or cache_folder())
    digest = hashlib.sha256()
    clips = []
    for part, name in _LISTS.items():
        transcripts = (folder / name).read_bytes()
        digest.update(transcripts)
        for transcript, clip in _LINE.findall(transcripts.decode()):
            file = folder / part / f"{clip}.wav"
            digest.update(file.read_bytes())
            clips.append(Clip(f"{part}/{clip}", _read_wave(file), transcript))
    if digest.hexdigest() != SHA256:
        raise PackageError(f"{folder}: SHA-256 {digest.hexdigest()}, expected {SHA256}")
    return clips


def speech(seconds: float, cache: Path | None = None) -> NDArray[np.float32]:
    """The clips one after the other with a second of silence between, again and again.

    Args:
        seconds: how long.
        cache: see :func:`load_clips`.
    """
    silence = np.zeros(RATE, np.float32)
    once = np.concatenate([part for clip in load_clips(cache) for part in (clip.samples, silence)])
    return np.resize(once, round(seconds * RATE))


def varied_clips(cache: Path | None = None) -> list[Clip]:
    """The clips, each also in noise, and each with the next one behind it: 30 in all.

    They are no independent draws of speech: ten readings are behind them.

    Args:
        cache: see :func:`load_clips`.
    """
    rng, clips = np.random.default_rng(0), load_clips(cache)
    noisy = [replace(clip, name=f"{clip.name} in noise", samples=_in_noise(clip.samples, rng))
             for clip in clips]  # fmt: skip
    pause = np.zeros(RATE // 2, np.float32)
    pairs = [
        Clip(
            f"{one.name}, {other.name}",
            np.concatenate([one.samples, pause, other.samples]),
            f"{one.transcript} {other.transcript}",
        )
        for one, other in zip(clips, clips[1:] + clips[:1], strict=True)
    ]
    # In an order in which any part holds some of each kind.
    return [clip for group in zip(clips, noisy, pairs, strict=True) for clip in group]


def _in_noise(samples: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """With white noise of a hundredth of its power."""
    loud = 0.1 * float(np.sqrt(np.mean(samples**2)))
    noise = rng.normal(scale=loud, size=samples.shape).astype(np.float32)
    noisy: NDArray[np.float32] = samples + noise
    return noisy


def _unpack(cache: Path) -> Path:
    for root in (Path("/"), cache / PACKAGE):
        if all((root / _DATA / name).is_file() for name in _LISTS.values()):
            return root / _DATA
    with tempfile.TemporaryDirectory() as folder:
        run = partial(subprocess.run, cwd=folder, check=True, capture_output=True, text=True)
        try:
            run(["apt-get", "download", "-qq", PACKAGE])
            run(["dpkg-deb", "-x", next(Path(folder).glob("*.deb")), "content"])
        except FileNotFoundError as error:
            raise PackageError(f"{PACKAGE} is a package of Debian: {error}") from error
        except subprocess.CalledProcessError as error:
            lines = str(error.stderr).strip().splitlines() or [str(error)]
            raise PackageError(f"apt-get cannot download {PACKAGE}: {lines[-1]}") from error
        cache.mkdir(parents=True, exist_ok=True)
        shutil.copytree(Path(folder) / "content", cache / PACKAGE, dirs_exist_ok=True)
    return cache / PACKAGE / _DATA


def _read_wave(file: Path) -> NDArray[np.float32]:
    with wave.open(str(file)) as reader:
        content = reader.readframes(reader.getnframes())
    return np.frombuffer(content, "<i2").astype(np.float32) / np.float32(32768)


_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
#: How a text may write what the transcripts spell out.
_SPELLED = {"mr": "mister", **{str(n): word for n, word in enumerate(_NUMBERS)}}


def normalize(text: str) -> list[str]:
    """Words of a text: small letters and apostrophes alone, Mr and numbers to ten spelled out."""
    words = re.findall(r"[a-z']+|\d+", text.lower())
    return [_SPELLED.get(word, word) for word in words]


def word_error_rate(pairs: Sequence[tuple[str, str]]) -> float:
    """Words put in, left out or changed, over the words of the transcripts.

    Args:
        pairs: a transcript and what was recognized in its place.
    """
    errors = sum(edit_distance(normalize(right), normalize(text)) for right, text in pairs)
    return errors / sum(len(normalize(right)) for right, _ in pairs)
