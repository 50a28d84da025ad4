"""Spoken sentences: synthesised by espeak-ng, cached as int16 PCM at 16 kHz."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import wave
from dataclasses import astuple, dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from mmedge.errors import ExportError
from mmedge_export.zoo.pcm import to_float, to_int16
from mmedge_export.zoo.resample import resample
from mmedge_export.zoo.voices import Utterance, plan

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RATE = 16_000
"""Sampling rate of every clip, Hz."""

_EDGE_MS = 20  # silence kept before the first and after the last sample above the threshold
_THRESHOLD = 1e-3  # of full scale


@dataclass(frozen=True)
class Corpus:
    """Clips of one split.

    Attributes:
        pcm: int16, all clips end to end.
        starts: int64 ``[clips + 1]``; clip ``i`` is ``pcm[starts[i]:starts[i + 1]]``.
        utterances: who says what in each clip.
    """

    pcm: NDArray[np.int16]
    starts: NDArray[np.int64]
    utterances: list[Utterance]

    def __len__(self) -> int:
        return len(self.utterances)

    def clip(self, index: int) -> NDArray[np.int16]:
        """The int16 samples of one clip, 16 kHz."""
        return self.pcm[self.starts[index] : self.starts[index + 1]]

    def by_question(self) -> dict[str, list[int]]:
        """Clip numbers of each question."""
        clips: dict[str, list[int]] = {}
        for index, utterance in enumerate(self.utterances):
            clips.setdefault(utterance.text, []).append(index)
        return clips

    def draw(self, share: float, seed: int) -> Corpus:
        """A share of the readings of each question, drawn uniformly.

        By one seed, a smaller share is part of a larger one.

        Args:
            share: of each question's readings, rounded to whole ones and at least one of them.
            seed: of the draw.
        """
        rng = np.random.default_rng(seed)
        kept: list[int] = []
        for readings in self.by_question().values():
            order = rng.permutation(readings)
            kept += order[: max(1, round(share * len(order)))].tolist()
        kept.sort()
        clips = [self.clip(index) for index in kept]
        starts = np.concatenate([[0], np.cumsum([len(c) for c in clips])]).astype(np.int64)
        return Corpus(np.concatenate(clips), starts, [self.utterances[index] for index in kept])


def synthesise(utterance: Utterance) -> NDArray[np.int16]:
    """Say one sentence.

    Returns:
        int16 ``[samples]`` at 16 kHz, with the silence at both ends cut to 20 ms.

    Raises:
        ExportError: when espeak-ng is missing or fails.
    """
    if shutil.which("espeak-ng") is None:
        raise ExportError("speech synthesis needs the program espeak-ng: apt-get install espeak-ng")
    command = ["espeak-ng", "--stdout", "-v", f"{utterance.accent}+{utterance.variant}"]
    command += ["-s", str(utterance.speed), "-p", str(utterance.pitch), utterance.text]
    process = subprocess.run(  # noqa: S603 - arguments are a list, no shell
        command, capture_output=True, check=False
    )
    if process.returncode or not process.stdout:
        raise ExportError(
            f"{' '.join(command)} failed: {process.stderr.decode(errors='replace').strip()}"
        )
    # A stream has no known length: its header claims 2 GB, so read to the end of the data.
    with wave.open(io.BytesIO(process.stdout)) as reader:
        rate, raw = reader.getframerate(), reader.readframes(len(process.stdout))
    pcm = resample(to_float(np.frombuffer(raw, "<i2")), rate, RATE)
    loud = np.flatnonzero(np.abs(pcm) > _THRESHOLD)
    if loud.size == 0:
        raise ExportError(f"{' '.join(command)} gave silence")
    edge = RATE * _EDGE_MS // 1000
    pcm = pcm[max(0, loud[0] - edge) : loud[-1] + edge]
    return to_int16(pcm)


def version() -> str:
    """What espeak-ng says of itself; that it is unknown where the program is missing."""
    unknown = "espeak-ng of unknown version"
    program = shutil.which("espeak-ng")
    if program is None:
        return unknown
    process = subprocess.run(  # noqa: S603 - arguments are a list, no shell
        [program, "--version"], capture_output=True, check=False, text=True
    )
    # The version stands before the folder of its data.
    return process.stdout.split("Data at")[0].strip() or unknown


def corpus(
    split: str, questions: list[str], cache: Path, *, takes: int, seed: int = 0, processes: int = 2
) -> Corpus:
    """Every clip of a split, from the cache or synthesised into it.

    Args:
        split: ``train``, or ``test`` for the held-out voices.
        questions: the distinct sentences.
        cache: directory for the clips; a change of any utterance makes a new file.
        takes: readings of each question by each voice.
        seed: of accents, speeds and pitches.
        processes: synthesisers at work at a time.

    Raises:
        ExportError: when espeak-ng is missing or fails.
    """
    return record(plan(split, questions, takes, seed), split, cache, processes=processes)


def record(utterances: list[Utterance], name: str, cache: Path, *, processes: int = 2) -> Corpus:
    """A clip of each utterance, from the cache or synthesised into it.

    Args:
        utterances: who says what.
        name: in the file's name, beside a hash of the utterances.
        cache: directory for the clips; a change of any utterance makes a new file.
        processes: synthesisers at work at a time.

    Raises:
        ExportError: when espeak-ng is missing or fails.
    """
    key = hashlib.sha256(json.dumps([astuple(u) for u in utterances]).encode()).hexdigest()[:12]
    path = cache / f"speech-{name}-{key}.npz"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with get_context("spawn").Pool(processes) as pool:
            work = pool.imap(synthesise, utterances, chunksize=32)
            clips = list(
                tqdm(
                    work,
                    total=len(utterances),
                    desc=f"synthesising {name}",
                    unit="clip",
                    mininterval=2,
                )
            )
        starts = np.concatenate([[0], np.cumsum([len(c) for c in clips])]).astype(np.int64)
        # Written beside and renamed, so that a broken run leaves no half cache.
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, pcm=np.concatenate(clips), starts=starts)
        partial.rename(path)
    with np.load(path) as arrays:
        return Corpus(arrays["pcm"], arrays["starts"], utterances)
