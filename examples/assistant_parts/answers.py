"""The assistant: a question, a request to draw or to read a label comes in, an answer goes out."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Self

import numpy as np

from assistant_parts.sensors import FRAME_HZ, RATE, fit
from mmedge import InputError
from mmedge.stream import Latest, Sanity

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from assistant_parts.networks import Networks
    from mmedge import Pipeline

__all__ = ["DEADLINE_MS", "DRAW_DEADLINE_MS", "Answer", "Assistant", "spoken_sentence"]

DEADLINE_MS = 50.0
"""From a frame to the answer about it."""

DRAW_DEADLINE_MS = 5000.0
"""After which a drawing is given up: the schedule of ``zoo:draw`` has nothing to show before its
end."""

PATIENCE_S = 5.0
SHAPES = ("circle", "rectangle", "triangle")
LANGUAGES = {"chinese": "zh", "german": "de", "english": "en"}


@dataclass(frozen=True)
class Answer:
    """What came of a request.

    Attributes:
        request: what was asked, as it was typed or heard.
        text: the answer; of a drawing, what was drawn.
        ms: from the request to the answer; of a spoken one, with the time to write it.
        facts: how it came about: deadlines, ages, what was encoded and what was kept.
        picture: what was drawn, uint8 ``[64, 64, 3]``; None: nothing was.
        sound: the answer spoken, float32 ``[samples]`` at 16 kHz, made after it and not part of
            ``ms``; None: it is not spoken.
        in_time: whether the deadline was kept; None: there is none.
    """

    request: str
    text: str
    ms: float
    facts: tuple[str, ...]
    picture: NDArray[np.uint8] | None = None
    in_time: bool | None = None
    sound: NDArray[np.float32] | None = None


def spoken_sentence(answer: str) -> str:
    """An answer about a picture as a sentence; ``zoo:hear`` gets the answer out of each of them."""
    if answer in ("yes", "no"):
        return answer
    return f"there is a {answer}" if answer in SHAPES else f"there is a {answer} shape"


def split_words(pipe: Pipeline, text: str) -> tuple[str, list[str]]:
    """The words of a text that a network knows, and a remark on the others, if there are any."""
    (tokenizer,) = (m.tokenizer for m in pipe.bundle.manifest.modalities if m.tokenizer)
    vocabulary = json.loads(bytes(pipe.bundle.read(tokenizer.file)))["model"]["vocab"]
    words = re.findall(r"\w+", text.lower())
    unknown = [word for word in words if word not in vocabulary]
    known = " ".join(word for word in words if word in vocabulary)
    remark = [f"words that it does not know: {', '.join(unknown)}"] if unknown else []
    return known or "something", remark


class Assistant:
    """Answers requests about what it sees. For one thread at a time, but for :meth:`see`.

    Questions run in a stream that each frame triggers, so that the picture and the question are
    encoded when they change, and not for each answer.

    Args:
        networks: the networks, loaded.
        clock: of the stream, such as a simulated one; None: the machine's.
        still: the frames are those of a picture, so that it is no fault if nothing moves.
        speaks: whether answers are spoken as well.
    """

    def __init__(
        self,
        networks: Networks,
        *,
        clock: Callable[[], float] | None = None,
        still: bool = True,
        speaks: bool = True,
    ) -> None:
        self._networks, self._speaks = networks, speaks
        self._answers = networks.vqa.bundle.labels("answer")
        self._stream = networks.vqa.stream(
            trigger="image",
            deadline_ms=DEADLINE_MS,
            # A question that just came is waited for while it is being encoded.
            align={name: Latest(wait_ms=DEADLINE_MS) for name in ("text", "audio")},
            sanity={"image": Sanity(frozen_after=None)} if still else None,
            clock=clock,
        )
        self._newest: NDArray[np.uint8] | None = None
        self._seed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def see(self, picture: NDArray[np.uint8]) -> int:
        """One frame of a camera, uint8 ``[height, width, 3]``; from any thread. Its number."""
        self._newest = picture
        return self._stream.push("image", fit(picture, 64, 64))

    def reply(
        self, request: str | NDArray[np.float32], picture: NDArray[np.uint8] | None = None
    ) -> Answer:
        """Answer what was typed or said.

        Args:
            request: a text, or speech as float32 ``[1, samples]`` at 16 kHz. It draws what follows
                "draw", reads a label if it begins with "read" (English, or "in German", "in
                Chinese"), and is a question otherwise.
            picture: what it is about, uint8 ``[height, width, 3]``; None: frames come by
                :meth:`see`.

        Raises:
            InputError: an empty question, a language that is not known, or a recording that is too
                short or too long for the networks.
        """
        if isinstance(request, str):
            return self._answer(request, request.strip(), picture)
        hear = self._networks.hear  # it may be loaded here, which is not timed
        start = perf_counter()
        heard, chinese = (
            hear(audio=request, language=language)["text"][0] for language in ("<en>", "<zh>")
        )
        ms = 1e3 * (perf_counter() - start)
        answer = self._answer(request, heard, picture)
        fact = f'heard "{heard}", in Chinese "{chinese}", in {ms:.0f} ms'
        return replace(answer, ms=ms + answer.ms, facts=(fact, *answer.facts))

    def watch(
        self, picture: NDArray[np.uint8], seconds: float, wait: Callable[[float], None]
    ) -> str:
        """Show a picture at 30 Hz as a camera does, and say what the stream did meanwhile.

        Args:
            picture: uint8 ``[height, width, 3]``.
            seconds: for how long.
            wait: waits until a time of :meth:`mmedge.Stream.now`.
        """
        before, start = self._stream.health(), self._stream.now()
        latencies: list[float] = []
        for frame in range(round(seconds * FRAME_HZ)):
            wait(start + frame / FRAME_HZ)
            self.see(picture)
            try:
                result = self._stream.result(1 / FRAME_HZ)
            except TimeoutError:
                continue
            if result.fresh:
                latencies.append(result.latency_ms)
        after = self._stream.health()
        one, other = (health.modalities["image"] for health in (before, after))
        times = (
            f"median {np.median(latencies):.1f} ms, most {max(latencies):.1f} ms"
            if latencies
            else "none in time"
        )
        return (
            f"{other.pushed - one.pushed} frames, {after.results - before.results} answers "
            f"({times}): {after.deadline_misses - before.deadline_misses} later than "
            f"{DEADLINE_MS:g} ms, {after.stale - before.stale} repeated in place of late ones; "
            f"the picture was encoded {other.encodes - one.encodes} times"
        )

    def _answer(
        self,
        request: str | NDArray[np.float32],
        words: str,
        picture: NDArray[np.uint8] | None,
    ) -> Answer:
        kind, _, rest = words.partition(" ")
        if kind.lower() == "draw":
            return self._draw(words, rest)
        label = self._newest if picture is None else picture
        if kind.lower() == "read" and label is not None:
            return self._read(words, label)
        return self._ask(request, words, picture)

    def _say(self, answer: Answer, sentence: str) -> Answer:
        """The answer with a sentence spoken."""
        if not self._speaks:
            return answer
        speak = self._networks.speak  # it may be loaded here, which is not timed
        most = speak.bundle.manifest.dimensions["tokens"].max
        if most is not None and len(sentence) > most:
            fact = f"not spoken: {len(sentence)} characters, and the voice takes {most}"
            return replace(answer, facts=(*answer.facts, fact))
        start = perf_counter()
        result = speak(text=sentence)
        ms = 1e3 * (perf_counter() - start)
        sound = result["audio"][0, : int(result["samples"][0])]
        fact = f'said "{sentence}", {len(sound) / RATE:.1f} s of sound, in {ms:.0f} ms more'
        return replace(answer, sound=sound, facts=(*answer.facts, fact))

    def _ask(
        self,
        question: str | NDArray[np.float32],
        words: str,
        picture: NDArray[np.uint8] | None,
    ) -> Answer:
        facts = split_words(self._networks.vqa, words)[1] if isinstance(question, str) else []
        stream = self._stream
        asked, other = ("text", "audio") if isinstance(question, str) else ("audio", "text")
        before, start = stream.health().modalities, stream.now()
        stream.forget(other)
        number = stream.push(asked, words if asked == "text" else question)
        first: int | None = None
        count, late, reason = 0, 0, ""
        while stream.now() < start + PATIENCE_S:
            if picture is not None:
                frame = self.see(picture)
                first = frame if first is None else first
            try:
                result = stream.result(1 / FRAME_HZ)
            except TimeoutError as error:
                reason = str(error)
                continue
            # A result may be of a frame before this picture, or of a question before this one.
            used = {name: one[-1].seq for name, one in result.samples.items()}
            is_this = used.get(asked, -1) == number and used.get("image", -1) >= (first or 0)
            if is_this and result.fresh and result.outputs is not None:
                break
            count, late, reason = count + 1, late + (result.met is False), result.reason
        else:
            text = f"no answer within {PATIENCE_S:g} s: of {count} results {late} were not in time"
            return Answer(words, text, 1e3 * PATIENCE_S, (reason,) if reason else (), in_time=False)
        after = stream.health().modalities
        for name, what in (("image", "picture"), (asked, "question")):
            runs = after[name].encodes - before[name].encodes
            facts.append(f"{what} encoded" if runs else f"{what} kept from before")
            facts[-1] += f", {result.ages_ms[name]:.0f} ms old"
        verdict = "in time" if result.met else "deadline missed"
        facts.append(f"frame to answer {result.latency_ms:.1f} of {DEADLINE_MS:g} ms: {verdict}")
        if late:
            facts.append(f"{late} results before it were not in time")
        facts += [f"{name}: {note}" for name, note in result.notes.items()]
        logits = result.outputs["answer"][0]
        best = int(logits.argmax())
        share = 1.0 / np.exp(logits - logits[best]).sum()  # softmax at its largest
        facts.append(f"probability {share:.2f} among the {len(logits)} answers that it knows")
        ms = 1e3 * (result.made - start)
        found = self._answers[best]
        answer = Answer(words, found, ms, tuple(facts), in_time=result.met)
        return self._say(answer, spoken_sentence(found))

    def _draw(self, words: str, caption: str) -> Answer:
        self._seed += 1
        draw, caption = self._networks.draw, caption or "a shape"
        known, unknown = split_words(draw, caption)
        kept, start = draw.cache_info()["text"].hits, perf_counter()
        run = draw.iterate({"text": caption}, seed=self._seed, deadline_ms=DRAW_DEADLINE_MS)
        steps = sum(1 for _ in run)
        try:
            result = run.result()
        except TimeoutError as error:
            ms = 1e3 * (perf_counter() - start)
            facts = (
                *unknown,
                f"{steps} steps, then the deadline of {DRAW_DEADLINE_MS:g} ms",
                str(error),
            )
            return Answer(words, "drew nothing", ms, facts, in_time=False)
        ms = 1e3 * (perf_counter() - start)
        in_time = ms <= DRAW_DEADLINE_MS  # the last step may begin before it and end after it
        is_kept = draw.cache_info()["text"].hits > kept
        facts = (
            *unknown,
            "caption kept from before" if is_kept else "caption encoded",
            f"{steps} steps, seed {self._seed}",
            f"{ms:.0f} of {DRAW_DEADLINE_MS:g} ms: {'in time' if in_time else 'deadline missed'}",
        )
        picture = np.rint(255 * result["image"][0]).astype(np.uint8)
        return self._say(
            Answer(words, f"drew {known}", ms, facts, picture, in_time), f"drew {known}"
        )

    def _read(self, words: str, picture: NDArray[np.uint8]) -> Answer:
        label = self._networks.label
        end = re.search(r"\bin (\w+)\W*$", words.lower())
        language = end[1] if end else "english"
        if language not in LANGUAGES:
            raise InputError(f"{words!r}: expected in {' or in '.join(LANGUAGES)}, got {language}")
        kept, start = label.cache_info()["image"].hits, perf_counter()
        result = label(image=fit(picture, 192, 32), language=f"<{LANGUAGES[language]}>")
        ms = 1e3 * (perf_counter() - start)
        is_kept = label.cache_info()["image"].hits > kept
        facts = ["picture kept from before" if is_kept else "picture encoded"]
        facts.append("not spoken: the voice learned the words of requests, and no names")
        if result["finish"][0] != "stop":
            facts.append(f"the text has no end: {result['finish'][0]}")
        return Answer(words, result["text"][0], ms, tuple(facts))
