"""Every class of transformers with two or more modalities, through the source ``hf:``.

Each class gets a tiny random checkpoint and no code of a user. What becomes of it:

- *taken*: export proved its bundle, which then agrees with torch on inputs of other sizes;
- *in part*: the same, but the bundle takes text alone;
- *read*: the source takes it, with the tokens of `generate()` in torch; its export was not run;
- *refused*: export says why it cannot;
- *wrong*: a bundle differs from torch, or something else than an error of mmedge is raised;
- *not tried*: no tiny checkpoint could be made, or time or memory ran out.

    python benchmarks/families.py --progress progress.jsonl -o benchmarks/results/families.json

Each class runs in a process of its own. Results go to the file of ``--progress`` one by one, so
that a run can go on with ``--resume``, and classes be tried again with ``--again RESULT``.
"""

from __future__ import annotations

import argparse
import collections
import gc
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from multimodal_classes import Candidate

HERE = Path(__file__).resolve().parent
#: Most bytes of memory that a class may take.
MEMORY = 14 << 30
RESULTS = ("taken", "in part", "read", "refused", "wrong", "not tried")
#: Words of a message that say what to do.
ADVICE = ("factory", "mmedge init", "--", "save ", "install ", "What to do")
#: Where checkpoints and libraries lie on this machine, which is nothing to a reader.
_PLACES = re.compile(r"/\S*/(?:site-packages|work)/")

#: What became of a class, as JSON has it.
Result = dict[str, Any]


def run_apart(work: Callable[[Path], Result], seconds: float) -> Result:
    """Do ``work`` with an empty folder, in a child process.

    Args:
        work: gives the result.
        seconds: of processor time, after which the child is ended; or of waiting, ten times that.
    """
    folder = Path(tempfile.mkdtemp(prefix="mmedge-families-"))
    answer = folder / "answer.json"
    child = os.fork()
    if child == 0:
        _work_in_child(work, folder, answer, seconds)
    begin = time.monotonic()
    while (ended := os.wait4(child, os.WNOHANG))[0] == 0:
        if time.monotonic() - begin > 10 * seconds:
            os.killpg(child, signal.SIGKILL)
            ended = os.wait4(child, 0)
            break
        time.sleep(0.05)
    _, status, usage = ended
    if answer.is_file():
        result: Result = json.loads(answer.read_text(encoding="utf-8"))
    elif os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        result = {"result": "not tried", "reason": f"no end after {seconds:g} s of processor time"}
    else:
        result = {"result": "wrong", "reason": "its process ended without an answer"}
    shutil.rmtree(folder, ignore_errors=True)
    result["reason"] = _PLACES.sub("", result["reason"])
    return {**result, "seconds": round(usage.ru_utime + usage.ru_stime, 1)}


def _work_in_child(
    work: Callable[[Path], Result], folder: Path, answer: Path, seconds: float
) -> None:
    """Never returns."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 5))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(null, stream)
    try:
        place = folder / "work"
        place.mkdir()
        try:
            result = work(place)
        except MemoryError:
            result = {"result": "not tried", "reason": f"more than {MEMORY >> 30} GiB of memory"}
        except BaseException:  # noqa: BLE001 - the parent must hear of it
            last = traceback.format_exc().strip().splitlines()[-1]
            result = {"result": "wrong", "reason": f"the trial itself: {last}"}
        part = answer.with_suffix(".part")
        part.write_text(json.dumps(result), encoding="utf-8")
        part.rename(answer)
    finally:
        os._exit(0)


def read_progress(path: Path) -> dict[str, Result]:
    """The last result of each class in a file."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {entry["name"]: entry for line in lines if (entry := json.loads(line))}


def commit() -> str:
    """The commit of this tree; with a mark where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=8", "--exclude=*"]
    result = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def in_order(classes: Sequence[Candidate]) -> list[Candidate]:
    """Heads first, one of each family before the next of any."""
    counts: collections.Counter[tuple[str, bool]] = collections.Counter()
    keys: dict[str, tuple[bool, int, str]] = {}
    for each in classes:
        keys[each.name] = (not each.head, counts[each.family, each.head], each.name)
        counts[each.family, each.head] += 1
    return sorted(classes, key=lambda each: keys[each.name])


def summarize(classes: Sequence[Candidate], results: Mapping[str, Result]) -> dict[str, Any]:
    """Everything that the page has, as JSON."""
    multimodal = [each for each in classes if each.is_multimodal]
    rows = [
        {
            "class": each.name,
            "family": each.family,
            "modalities": list(each.modalities),
            **{
                "takes" if key == "modalities" else key: value
                for key, value in results.get(
                    each.name, {"result": "not tried", "reason": "not run yet"}
                ).items()
                if key != "name"
            },
        }
        for each in multimodal
    ]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: metadata.version(name) for name in ("transformers", "torch")},
        "classes": count(rows, lambda row: str(row["class"])),
        "families": count(rows, lambda row: str(row["family"])),
        "families_in_part": count(rows, lambda row: str(row["family"]), best=True),
        "one_modality": [each.name for each in classes if not each.is_multimodal],
        "rows": sorted(rows, key=lambda row: (str(row["family"]), str(row["class"]))),
    }


def count(
    rows: Sequence[Result], key: Callable[[Result], str], *, best: bool = False
) -> dict[str, int]:
    """How many groups have each result; a group counts as its worst row, or as its best."""
    order = ("wrong", "refused", "not tried", "in part", "read", "taken")
    groups: dict[str, list[int]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(order.index(row["result"]))
    ends = [order[max(places) if best else min(places)] for places in groups.values()]
    return {"all": len(groups), **{result: ends.count(result) for result in RESULTS}}


def kind_of_reason(reason: str) -> str:
    """A reason without the names and numbers that are of one class."""
    text = reason.splitlines()[0] if reason else ""
    text = re.sub(r"\b[A-Z]\w*(For|Model|Encoder|Config)\w*", "X", text)
    return re.sub(r"\d+(\.\d+)?(e-?\d+)?", "N", text)[:220]


def groups(results: Iterable[Result]) -> str:
    """Reasons and the classes that have them, the largest group first, as Markdown."""
    kinds: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        if result["result"] not in ("taken", "read"):
            key = (result["result"], kind_of_reason(result["reason"]))
            kinds.setdefault(key, []).append(result)
    every = list(results)
    totals = collections.Counter(result["result"] for result in every)
    lines = [f"# {dict(totals)} of {len(every)}", ""]
    for (name, kind), members in sorted(kinds.items(), key=lambda item: -len(item[1])):
        said = any(word in members[0]["reason"] for word in ADVICE)
        advice = "" if said or name != "refused" else " (says not what to write)"
        lines += [f"## {len(members)} {name}: {kind}{advice}", ""]
        lines += [
            f"- {each['name']} ({each.get('commit', '')}): {' '.join(each['reason'].split())[:500]}"
            for each in members
        ]
        lines.append("")
    done = [result for result in every if result["result"] in ("taken", "read")]
    lines += [f"- {each['result']}: {each['name']} ({each.get('kind')})" for each in done]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Try classes, and write what became of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--progress", type=Path, required=True, help="results, a line each")
    parser.add_argument("--only", default="", help="a pattern of names")
    parser.add_argument("--resume", action="store_true", help="leave out what has a result")
    parser.add_argument("--again", action="append", default=[], help="of those, try this result")
    parser.add_argument("--read-only", action="store_true", help="no export: a quick look")
    parser.add_argument("--limit", type=float, default=240, help="processor seconds of a class")
    parser.add_argument("--groups", type=Path, help="write reasons and their classes here")
    parser.add_argument("-o", "--output", type=Path, help="write all as JSON")
    options = parser.parse_args()

    os.environ.update(TRANSFORMERS_VERBOSITY="critical", HF_HUB_OFFLINE="1")
    sys.path.insert(0, str(HERE / "networks"))
    from torchvision_import import declare_torchvision

    declare_torchvision()
    from family_trial import try_class
    from multimodal_classes import candidates

    classes = candidates()
    results = read_progress(options.progress)
    waiting = [
        each
        for each in in_order([each for each in classes if each.is_multimodal])
        if re.search(options.only, each.name)
        and not (
            options.resume
            and each.name in results
            and results[each.name]["result"] not in options.again
        )
    ]
    version = commit()
    gc.freeze()  # what is loaded stays shared with the children
    for each in waiting:
        work = partial(try_class, each.name, read_only=options.read_only)
        result = run_apart(work, options.limit)
        results[each.name] = {"name": each.name, **result, "commit": version}
        with options.progress.open("a", encoding="utf-8") as file:
            file.write(json.dumps(results[each.name]) + "\n")
        print(f"{each.name}: {result['result']} {kind_of_reason(result['reason'])}", flush=True)
        if options.groups is not None:
            options.groups.write_text(groups(list(results.values())), encoding="utf-8")
    if options.output is not None:
        text = json.dumps(summarize(classes, results), indent=1, ensure_ascii=False)
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
