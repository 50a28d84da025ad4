"""Commands and programs of the page on fleets run, in order, on a robot's bundle."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import mmedge
from mmedge.cli.app import run

PAGE = Path(__file__).resolve().parent.parent / "docs/howto/fleet.md"


@pytest.fixture
def robot(tiny_zip, tmp_path, monkeypatch):
    shutil.copy(tiny_zip, tmp_path / "robot.mmedge")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(line: str, capfdbinary) -> str:
    """What a line of a shell prints; ``mmedge`` runs in this process, which takes less time."""
    words, _, file = line.partition(" # ")[0].partition(" > ")
    program, *arguments = shlex.split(words)
    if program == "mmedge":
        assert run(arguments) == 0, line
    else:
        subprocess.run([program, *arguments], check=True)
    printed = capfdbinary.readouterr().out
    if file:
        Path(file.strip()).write_bytes(printed)
    return printed.decode()


@pytest.mark.filterwarnings("default::UserWarning")  # which the command line shows
def test_commands_and_programs_of_the_page_run(robot, capfdbinary):
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert [language for language, _ in blocks] == [
        "sh", "sh", "python", "python", "sh", "sh", "sh",
    ]  # fmt: skip
    printed = []
    for language, text in blocks:
        if language == "sh":
            printed.append("".join(call(line, capfdbinary) for line in text.splitlines()))
        else:
            exec(compile(text, PAGE, "exec"), {"__name__": "page"})
            printed.append(capfdbinary.readouterr().out.decode())
    key_id = re.search(r"key id\s*│ (\w{64})", printed[0])[1]
    assert printed[2] == f"1 ('{key_id}',)\n"
    assert (robot / "lowest_version").read_text() == "1"
    assert printed[5].count("verified") == 2
    # What the page says of what is there now.
    keys = [robot / "release.pub", robot / "release-2.pub"]
    with pytest.raises(mmedge.SignatureError, match="no signature by a trusted key"):
        mmedge.load(robot / "robot.mmedge", trusted_keys=keys[:1])
    with mmedge.load(robot / "robot.mmedge", trusted_keys=keys, lowest_version=3) as pipe:
        release = pipe.bundle.signature.release
        assert (release.version, release.expires) == (3, 4102358400)
    with pytest.raises(mmedge.SignatureError, match="version 3, expected 4"):
        mmedge.load(robot / "robot.mmedge", trusted_keys=keys, lowest_version=4)
