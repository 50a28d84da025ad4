"""What became of a random network or file: right, refused with a reason, or a fault."""

from __future__ import annotations

import json
import os
import re
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mmedge
from mmedge.errors import MMEdgeError

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Verdict:
    """``kind`` is ok, refused, told, wrong, error (a call within the stated domain) or crash.

    ``told``: it answers otherwise on integers far from its samples, or after more calls than were
    tried of a network that keeps something between them, and its manifest says so.
    """

    kind: str
    text: str = ""

    @property
    def fault(self) -> bool:
        return self.kind in ("wrong", "error", "crash")


def differ(got: np.ndarray, wanted: np.ndarray, noise: np.ndarray | None) -> str:
    """Where two arrays differ, element by element; empty where they agree.

    ``noise`` is by how much float32 itself is off where it was computed with more digits: what the
    reference does not know of itself, nobody can be held to.
    """
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return f"{got.dtype}{list(got.shape)} for {wanted.dtype}{list(wanted.shape)}"
    exact = not np.issubdtype(wanted.dtype, np.inexact)
    if exact:
        bad = got != wanted
        if noise is not None:
            bad &= noise == 0
    else:
        a, b = got.astype(np.float64), wanted.astype(np.float64)
        digits = 1e-3 if wanted.dtype != np.float16 else 4e-3
        allowed = 1e-5 + digits * np.abs(b)
        if noise is not None:
            allowed = allowed + 100 * noise
        with np.errstate(invalid="ignore"):
            bad = ~((np.abs(a - b) <= allowed) | (a == b) | (np.isnan(a) & np.isnan(b)))
    if not bad.any():
        return ""
    at = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{int(bad.sum())} of {got.size} differ, first at {at}: {got[at]!r}, not {wanted[at]!r}"


def judge(
    export: Callable[[Path], object],
    reference: Callable[[Arrays], tuple[Arrays, Mapping[str, np.ndarray | None]] | None],
    cases: Iterable[Arrays],
    *,
    prepare: Callable[[Path], object] = lambda _: None,
    compare: Callable[[np.ndarray, np.ndarray, np.ndarray | None], str] = differ,
    **load: object,
) -> Verdict:
    """Export, load and hold the bundle against ``reference`` on ``cases``.

    ``reference`` gives the outputs and their noise, or None where the network itself refuses the
    case. ``prepare`` adds a variant first.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle.mmedge"
        try:
            export(path)
            prepare(path)
        except MMEdgeError as error:
            return Verdict("refused", str(error))
        except Exception:  # noqa: BLE001 - that is what is looked for
            return Verdict("crash", "at export\n" + traceback.format_exc(limit=-6))
        try:
            with mmedge.load(path, **load) as pipe:
                for number, case in enumerate(cases):
                    wanted = reference(case)
                    if wanted is None:
                        continue
                    verdict = _one(pipe, number, case, *wanted, compare)
                    if verdict is not None:
                        return verdict
        except MMEdgeError as error:
            return Verdict("error", f"at load: {error}")
        except Exception:  # noqa: BLE001
            return Verdict("crash", "at run\n" + traceback.format_exc(limit=-6))
    return Verdict("ok")


def _one(pipe, number, case, wanted, noise, compare) -> Verdict | None:
    shapes = {name: list(value.shape) for name, value in case.items()}
    manifest = pipe.bundle.manifest
    # By position: a name that a bundle cannot have is exchanged for one that it can.
    case = dict(zip(manifest.inputs(), case.values(), strict=True))
    try:
        got = dict(zip(wanted, pipe.run(case).values(), strict=True))
    except MMEdgeError as error:
        # OpenVINO computes int64 in 32 bits, and the runtime refuses what does not fit: no fault.
        if "expected integers of 32 bits" in str(error):
            return None
        return Verdict("error", f"case {number} {shapes}: {error}")
    for name, value in wanted.items():
        if text := compare(got[name], value, noise.get(name)):
            text = f"case {number} {shapes}, output {name}: {text}"
            # Integers far beyond the samples may be another function, if the bundle says so.
            lines = manifest.not_checked
            said = any("another function" in line for line in lines)
            far = any(
                v.dtype.kind in "iu" and v.size and abs(v).max() > 2**24 for v in case.values()
            )
            kept = any(line.startswith("state: a call changes") for line in lines)
            return Verdict("told" if (said and far) or kept else "wrong", text)
    return None


def reason(text: str) -> str:
    """A refusal without the names and numbers that differ from network to network."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`", "'...'", text.splitlines()[0])
    return re.sub(r"-?\d[\d.e+-]*", "#", text)[:160]


class Collector:
    """Counts verdicts; with MMEDGE_PROMISE naming a file, writes them there and raises nothing."""

    def __init__(self, name: str) -> None:
        self.name, self.counts = name, Counter()
        self.reasons: Counter[str] = Counter()
        self.faults: list[dict[str, object]] = []
        self.refusals: list[dict[str, object]] = []

    def take(self, verdict: Verdict, what: object) -> None:
        self.counts[verdict.kind] += 1
        if verdict.kind == "refused":
            self.reasons[reason(verdict.text)] += 1
            self.refusals.append({"text": verdict.text, "what": str(what)})
        if verdict.fault:
            self.faults.append({"kind": verdict.kind, "text": verdict.text, "what": str(what)})
        file = os.environ.get("MMEDGE_PROMISE")
        if file:
            Path(f"{file}.{self.name}.json").write_text(
                json.dumps(
                    {
                        "counts": dict(self.counts),
                        "refusals": dict(self.reasons.most_common()),
                        "faults": self.faults,
                        "texts": self.refusals,
                    },
                    indent=1,
                )
            )
        else:
            assert not verdict.fault, f"{verdict.kind}: {verdict.text}\n{what}"
