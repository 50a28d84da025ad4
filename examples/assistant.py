"""An assistant that looks, listens, speaks and draws, made of five reference networks.

A camera's picture runs through a stream of ``zoo:vqa-attention`` with a deadline for each frame;
questions are typed or spoken. ``zoo:hear`` writes what was said, ``zoo:draw`` draws what comes
after "draw", ``zoo:label-translate`` reads a label, ``zoo:speak`` says the answer. Picture and
question are encoded when they change, and kept otherwise.

    python examples/assistant.py                         # shipped pictures and recordings
    python examples/assistant.py --serve                 # a page on http://127.0.0.1:8000
    python examples/assistant.py --camera --microphone   # typed and spoken questions, live

Bundles that are missing are exported first, which needs torch; nothing else here does. Answers are
text, pictures and sound. Sound is written as WAV files and played by the page; what a label says is
not spoken, for the voice learned the words of requests and no names.

The networks know pictures of one colored shape, labels in print and the voices of a synthesizer.
Of what a real camera or microphone brings they make some answer, and not a good one. ``--camera``
and ``--microphone`` were tried with stand-ins of OpenCV and sounddevice, and with no real device.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant_parts.answers import Answer, Assistant
from assistant_parts.networks import Networks
from assistant_parts.sensors import (
    SAMPLES,
    Camera,
    read_picture,
    read_voice,
    record,
    write_voice,
)
from assistant_parts.web import make_server
from PIL import Image

from mmedge import ExportError, MMEdgeError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["demonstrate", "main", "talk"]

RECORD_S = 3.0


def sample(task: str, number: int) -> tuple[dict[str, Any], Path]:
    """What is known of a shipped sample, and the folder that it is in."""
    rows = json.loads((SAMPLES / task / "samples.json").read_text(encoding="utf-8"))["samples"]
    return rows[number], SAMPLES / task


def picture_of(task: str, number: int) -> NDArray[np.uint8]:
    """A shipped picture, uint8 ``[height, width, 3]``."""
    row, folder = sample(task, number)
    return read_picture((folder / row["image"]).read_bytes())


def show(answer: Answer, folder: Path, number: int, expected: str = "") -> None:
    """Print an answer and how it came about; drawing and sound are files with its number."""
    print(f"\n> {answer.request}\n  {answer.text}  ({answer.ms:.0f} ms)", end="")
    print(f"  [the sample says: {expected}]" if expected else "")
    path = folder / "-".join([f"{number:02d}", *re.findall(r"\w+", answer.request)])
    folder.mkdir(parents=True, exist_ok=True)
    if answer.picture is not None:
        Image.fromarray(answer.picture).save(path.with_suffix(".png"))
        print(f"  written to {path.with_suffix('.png')}")
    if answer.sound is not None:
        path.with_suffix(".wav").write_bytes(write_voice(answer.sound))
        print(f"  spoken in {path.with_suffix('.wav')}")
    for fact in answer.facts:
        print(f"  - {fact}")


def demonstrate(
    assistant: Assistant, folder: Path, wait: Callable[[float], None], seconds: float = 1.0
) -> list[Answer]:
    """Requests of every kind about shipped files; their answers, printed as they come.

    A request whose network is missing is left out, and the reason is printed.

    Args:
        assistant: who answers.
        folder: where drawings are written.
        wait: waits until a time of the stream's clock.
        seconds: for how long the first picture is shown as a camera's.
    """
    answers: list[Answer] = []

    def ask(
        request: str | NDArray[np.float32], picture: NDArray[np.uint8], expected: str = ""
    ) -> Answer | None:
        try:
            answers.append(assistant.reply(request, picture))
        except ExportError as error:  # its bundle is missing
            print(f"\n> {request if isinstance(request, str) else '(spoken)'}\n  left out: {error}")
            return None
        show(answers[-1], folder, len(answers), expected)
        return answers[-1]

    for number in (3, 5):  # the same question twice: the second time it is kept
        row, _ = sample("vqa", number)
        ask(row["question"], picture_of("vqa", number), row["answer"])
        if number == 3:
            print(f"  {assistant.watch(picture_of('vqa', number), seconds, wait)}")
    row, where = sample("vqa", 4)
    ask(read_voice((where / row["voice"]).read_bytes()), picture_of("vqa", 4), row["answer"])
    spoken, where = sample("hear", 4)
    blank = picture_of("vqa", 4)
    for request in (
        "draw a big teal triangle at the left",
        read_voice((where / spoken["audio"]).read_bytes()),
    ):
        drawn = ask(request, blank)
        for question in ("what shape is in the image?", "what color is the shape?"):
            if drawn is not None and drawn.picture is not None:
                ask(question, drawn.picture)
    row, _ = sample("label-translate", 1)
    for language in ("English", "Chinese", "German"):
        expected = row["text"] if language == "Chinese" else ""
        ask(f"read in {language}", picture_of("label-translate", 1), expected)
    return answers


def talk(assistant: Assistant, folder: Path, *, camera: int | None, microphone: bool) -> None:
    """Answer what is typed, or said after an empty line, until the end of input."""
    with ExitStack() as stack:
        picture = picture_of("vqa", 3) if camera is None else None
        if camera is not None:
            stack.callback(Camera(camera, assistant.see).close)
        print("Type a question or 'draw ...'", end="")
        print(f"; an empty line records {RECORD_S:g} s." if microphone else ".")
        for number in count(1):
            try:
                line = input("? ").strip()
            except EOFError:
                return
            if not line and not microphone:
                continue
            try:
                show(assistant.reply(line or record(RECORD_S), picture), folder, number)
            except MMEdgeError as error:
                print(f"  {error}")


def main(arguments: list[str] | None = None) -> int:
    """Load the networks and answer: on shipped files, on a page, or from devices."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    folder = Path("build/assistant")
    for flag, words in (
        ("bundles", "folder of the bundles; those that are missing are exported"),
        ("output", "folder of drawings and sound"),
    ):
        options.add_argument(f"--{flag}", type=Path, default=folder, metavar="FOLDER", help=words)
    for flag, const, words in (
        ("camera", 0, "ask about the frames of a camera; needs opencv-python-headless"),
        ("serve", 8000, "a page on 127.0.0.1 instead, on this port"),
    ):
        options.add_argument(f"--{flag}", type=int, nargs="?", const=const, metavar="N", help=words)
    options.add_argument(
        "--microphone", action="store_true", help="ask by voice: needs sounddevice"
    )
    chosen = options.parse_args(arguments)
    with (
        Networks(chosen.bundles) as networks,
        Assistant(networks, still=chosen.camera is None) as assistant,
    ):
        if chosen.serve is not None:
            networks.load_all()
            with make_server(assistant, chosen.serve) as server:
                print(f"http://127.0.0.1:{server.server_port}", flush=True)
                server.serve_forever()
        elif chosen.camera is not None or chosen.microphone:
            talk(assistant, chosen.output, camera=chosen.camera, microphone=chosen.microphone)
        else:
            demonstrate(
                assistant, chosen.output, lambda t: time.sleep(max(t - time.monotonic(), 0.0))
            )
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except MMEdgeError as error:
        raise SystemExit(f"error: {error}") from error
