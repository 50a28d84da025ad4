"""mmedge beside its peers in loops: time to the first token, between tokens, and of whole runs.

Networks with real weights (``networks/``): SmolLM2-135M after a prompt, whisper-tiny.en on a clip,
a recurrent speller; of the reference networks that write, a label in English and a spoken request.
Each engine runs alone in a process of its own (``generate_engines.py``), with one thread and with
two. It first has to give the tokens that torch gives: one that gives others is timed, but is
nobody's rival, and the result says where it differs and how many tokens are the same. Our own
variants in fewer bits are those that the network's task lets pass (``generate_job.py``).
Then all engines run the same number of tokens in turn, in random order; ratios are of each round's
medians, with quartiles. All processes are started anew some times: where memory lies makes 4 % of a
token's time.

The floor of a token is the bytes of the step's weights over the bandwidth at which as many threads
read memory here: what no engine that reads all weights for each token can go below.

Run: ``python benchmarks/generate.py``; peers may lie in another environment (``--peers-python``),
and Optimum in one of its own (``--optimum-python``). An engine whose library is not there is left
out with the reason.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any

import numpy as np
from generate_job import job_of, tell
from peer_process import PeerProcess

import mmedge
from mmedge.bench.machine import host

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "generate.json"
OURS, EAGER = "mmedge", "torch eager"
#: Our own in fewer bits, by precision: variants that the network's task let pass.
OURS_BY_BITS = {"int8": "mmedge int8", "int4": "mmedge int4"}
#: Engines of every network, and of some.
COMMON = (OURS, *OURS_BY_BITS.values(), "onnxruntime, NumPy loop", EAGER, "torch.compile")
MORE = {
    "smollm2": (
        "transformers", "Optimum", "onnxruntime-genai", "onnxruntime-genai int4",
        "OpenVINO GenAI, 4 and 8 bits",
    ),
    "whisper_tiny": ("CTranslate2", "CTranslate2 int8"),
    "g2p": (),
    "label_translate": (),
    "hear": (),
}  # fmt: skip
#: Engines whose weights have fewer bits than float32: other tokens may be right, too.
FEWER_BITS = (
    *OURS_BY_BITS.values(), "onnxruntime-genai int4", "OpenVINO GenAI, 4 and 8 bits",
    "CTranslate2 int8",
)  # fmt: skip
ROUNDS, PROCESSES = 3, 3
#: Bytes that are read to measure memory.
READ_BYTES = 512 << 20


def bandwidth(threads: int) -> float:
    """Bytes a second at which threads read memory together: sums of squares of large arrays."""
    parts = np.split(np.ones(READ_BYTES // 4, np.float32), threads)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(7):
            start = time.perf_counter()
            list(pool.map(_read, parts))
            best = max(best, READ_BYTES / (time.perf_counter() - start))
    return best


def _read(part: np.ndarray[Any, Any]) -> float:
    total = 0.0
    for piece in np.split(part, 16):
        total += float(np.dot(piece, piece))  # lets other threads run meanwhile
    return total


def measure(
    job: dict[str, Any],
    folder: Path,
    threads: int,
    *,
    peers: str,
    elsewhere: Mapping[str, str],
    rounds: int,
    processes: int,
    only: Sequence[str],
    patience: float,
) -> dict[str, Any]:
    """All engines on one network with as many threads."""
    network, count = job["network"], len(job["tokens"])
    names = [name for name in (*COMMON, *MORE[network]) if not only or name in (*only, OURS, EAGER)]
    answers: dict[str, list[dict[str, Any]]] = {}
    left_out: dict[str, str] = {
        OURS_BY_BITS[precision]: why for precision, why in job["kept_out"].items()
    }
    versions: dict[str, dict[str, str]] = {}
    differs: dict[str, int | None] = {}
    equal: dict[str, float] = {}
    cached: list[float] = []
    generator = random.Random(0)  # noqa: S311 - an order
    for _ in range(processes):
        with ExitStack() as stack:
            engines: dict[str, PeerProcess] = {}
            for name in (name for name in names if name not in left_out):
                python = sys.executable if name in COMMON else elsewhere.get(name, peers)
                command = [
                    python, str(HERE / "generate_engines.py"), name, str(threads),
                    str(folder / "job.json"),
                ]  # fmt: skip
                start = time.monotonic()
                try:
                    engine = stack.enter_context(PeerProcess(command, folder=HERE))
                    limit = Timer(patience, engine.process.kill)
                    limit.start()
                    first = engine.ask(count=count, cached=False)
                    limit.cancel()
                except (RuntimeError, OSError):
                    is_late = time.monotonic() - start >= patience
                    left_out[name] = (
                        f"no tokens after {patience:g} s"
                        if is_late
                        else "its process ended, with its errors on standard error"
                    )
                    tell(f"  {name}: left out: {left_out[name]}")
                    continue
                engines[name], versions[name] = engine, engine.version
                differs[name] = first_other(first["tokens"], job["tokens"])
                equal[name] = equal_share(first["tokens"], job["tokens"])
                answers.setdefault(name, [])
            for engine in engines.values():
                engine.ask(count=count, cached=False)
            for _ in range(rounds):
                order = list(engines)
                generator.shuffle(order)
                for name in order:
                    answers[name].append(engines[name].ask(count=count, cached=False))
                # What a prompt or a clip that came before costs, alone: others have nothing like
                # it.
                engines[OURS].ask(count=1, cached=True)
                cached.append(engines[OURS].ask(count=1, cached=True)["token_ms"][0])
    rows = [
        {
            "engine": name,
            "version": versions[name],
            "same_tokens": differs[name] is None,
            "differs_at": differs[name],
            "equal_share": equal[name],
            "float32": name not in FEWER_BITS,
            **figures(answers[name], count),
        }
        for name in answers
    ]
    return {
        "network": network,
        "threads": threads,
        "tokens": count,
        "rounds": rounds,
        "processes": processes,
        "bytes_per_s": (rate := bandwidth(threads)),
        "step_bytes": job["step_bytes"],
        "floor_ms": 1e3 * job["step_bytes"] / rate,
        "audio_s": job.get("seconds"),
        "first_cached_ms": spread(cached),
        "engines": rows,
        "left_out": left_out,
        "ratios": ratios(answers, cached),
    }


def first_other(got: Sequence[int], right: Sequence[int]) -> int | None:
    """The first place at which tokens differ; None where they are the same."""
    for place, (one, other) in enumerate(zip(got, right, strict=False)):
        if one != other:
            return place
    return None if len(got) == len(right) else min(len(got), len(right))


def equal_share(got: Sequence[int], right: Sequence[int]) -> float:
    """The share of tokens that are the same in their place."""
    same = sum(one == other for one, other in zip(got, right, strict=False))
    return same / max(len(got), len(right), 1)


def first_ms(answer: Mapping[str, Any]) -> float | None:
    """Time to the first token; None where tokens do not come one by one."""
    return answer["token_ms"][0] if answer["token_ms"] else None


def between_ms(answer: Mapping[str, Any]) -> float | None:
    """Median time between the tokens of one run; None as for :func:`first_ms`."""
    times = answer["token_ms"]
    return float(np.median(np.diff(times))) if len(times) > 2 else None


def total_ms(answer: Mapping[str, Any]) -> float | None:
    """Time of a whole run."""
    return float(answer["total_ms"])


#: What is compared, by its key.
KINDS: Mapping[str, Callable[[Mapping[str, Any]], float | None]] = {
    "first_ms": first_ms,
    "between_ms": between_ms,
    "total_ms": total_ms,
}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def figures(answers: Sequence[Mapping[str, Any]], count: int) -> dict[str, Any]:
    """What one engine took, over rounds."""
    found: dict[str, Any] = {}
    for key, figure in KINDS.items():
        values = [value for answer in answers if (value := figure(answer)) is not None]
        found[key] = spread(values) if values else None
    between = [float(b) for a in answers for b in np.diff(a["token_ms"])]
    found["between_p99_ms"] = float(np.percentile(between, 99)) if len(between) >= 100 else None
    found["tokens_per_s"] = 1e3 * count / found["total_ms"]["median"]
    return found


def ratios(
    answers: Mapping[str, Sequence[Mapping[str, Any]]], cached: Sequence[float]
) -> dict[str, Any]:
    """Times of mmedge as shares of each other engine's, round by round."""
    found: dict[str, Any] = {}
    for name, theirs in answers.items():
        if name == OURS:
            continue
        found[name] = {}
        for key, figure in KINDS.items():
            pairs = [
                (a, b)
                for x, y in zip(answers[OURS], theirs, strict=True)
                if (a := figure(x)) is not None and (b := figure(y)) is not None
            ]
            found[name][key] = spread([a / b for a, b in pairs]) if pairs else None
        firsts = [first for answer in theirs if (first := first_ms(answer)) is not None]
        found[name]["first_cached"] = (
            spread([a / b for a, b in zip(cached, firsts, strict=True)]) if firsts else None
        )
    return found


def main() -> int:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(MORE), default=list(MORE))
    parser.add_argument("--engines", nargs="+", default=())
    parser.add_argument("--threads", nargs="+", type=int, default=(1, 2))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--processes", type=int, default=PROCESSES, help="of each engine, one after another"
    )
    parser.add_argument(
        "--precisions", nargs="*", choices=list(OURS_BY_BITS), default=list(OURS_BY_BITS),
        help="that bundles get where they lack them; SmolLM2 takes a quarter of an hour for 8 bits",
    )  # fmt: skip
    parser.add_argument("--peers-python", default=sys.executable)
    # It asks for older versions of transformers than the others.
    parser.add_argument("--optimum-python", help="default: that of the peers")
    parser.add_argument(
        "--patience", type=float, default=300.0, help="seconds to an engine's first tokens"
    )
    parser.add_argument(
        "--bundles", type=Path, help="folder with bundles of an earlier run; they are kept in it"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    state, rows = host.state(), list[dict[str, Any]]()
    if options.output.exists():  # of networks that are not run now
        before = json.loads(options.output.read_text("utf-8"))
        told = {"date": before["date"], "cpu": before["device"]["cpu"]}
        rows = [told | row for row in before["rows"] if row["network"] not in options.networks]
    for network in options.networks:
        with tempfile.TemporaryDirectory(prefix="mmedge-generate-") as name:
            folder = Path(name)
            tell(f"{network}: exporting")
            job = job_of(network, folder, options.peers_python, options.bundles, options.precisions)
            for threads in options.threads:
                tell(f"{network}, {threads} threads")
                row = measure(
                    job,
                    folder,
                    threads,
                    peers=options.peers_python,
                    elsewhere={"Optimum": options.optimum_python or options.peers_python},
                    rounds=options.rounds,
                    processes=options.processes,
                    only=options.engines,
                    patience=options.patience,
                )
                row["date"], row["cpu"] = datetime.now(UTC).date().isoformat(), state["cpu"]
                rows.append(row)
                show(row)
    document = {
        "what": "greedy tokens beside peers, batch 1",
        "date": datetime.now(UTC).date().isoformat(),
        "device": host.describe(state, {}),
        "mmedge": mmedge.__version__,
        "rows": rows,
    }
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    return 0


def show(row: Mapping[str, Any]) -> None:
    """A network's figures in lines."""
    print(
        f"{row['network']}, {row['threads']} threads: floor {row['floor_ms']:.2f} ms a token "
        f"({row['bytes_per_s'] / 1e9:.1f} GB/s), first token from caches "
        f"{row['first_cached_ms']['median']:.2f} ms"
    )
    for engine in row["engines"]:
        parts = [f"{engine['engine']:32}"]
        for key in KINDS:
            value = engine[key]
            parts.append("      -" if value is None else f"{value['median']:9.3f}")
        share = f"{engine['equal_share']:.0%} the same"
        same = (
            "" if engine["same_tokens"] else f"  other tokens from {engine['differs_at']}, {share}"
        )
        print(" ".join(parts) + same)
    for name, why in row["left_out"].items():
        print(f"{name:32}  left out: {why}")


if __name__ == "__main__":
    sys.exit(main())
