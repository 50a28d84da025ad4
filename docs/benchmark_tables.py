"""Tables of the benchmarks' pages, each from a file in benchmarks/results/.

It is long, since each table is a function of its own and nothing is shared but reading a file.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from mmedge.testing import CASES

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


def overhead() -> str:
    """What mmedge costs beside a bare ONNX Runtime session."""
    data = load("overhead.json")
    lines = [
        (
            f"Measured on {data['device']['cores']} cores of {data['device']['cpu']}, "
            f"onnxruntime {data['device']['libraries']['onnxruntime']}, {data['date']}; "
            "95 % intervals in brackets, calls interleaved in one process "
            "(`benchmarks/overhead.py`):"
        ),
        "",
        "| graph, batch 1 | threads | bare ORT median | mmedge median | ratio | overhead |",
        "|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        low, high = row["ratio_95"]
        least, most = row["difference_us_95"]
        lines.append(
            f"| {row['graph']} | {row['threads']} | {row['median_us']['bare']:.1f} us "
            f"| {row['median_us']['mmedge']:.1f} us | {row['ratio']:.3f} [{low:.3f}, {high:.3f}] "
            f"| {row['difference_us']:.1f} us [{least:.1f}, {most:.1f}] |"
        )
    return "\n".join(lines)


def zoo() -> str:
    """Accuracy of the reference networks by which modalities are given."""
    networks = load("zoo_accuracy.json")["networks"]
    subsets = list(networks[0]["accuracy"])
    head = ["fusion", "parameters", "epochs", "training", *subsets]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for network in networks:
        cells = [
            network["recipe"]["fusion"],
            f"{network['parameters'] / 1e6:.2f} M",
            str(network["recipe"]["epochs"]),
            f"{network['train_seconds'] / 60:.0f} min",
            *(f"{network['accuracy'][name]:.2%}" for name in subsets),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def bundle_accuracy() -> str:
    """The exported reference network beside torch."""
    data = load("bundle_accuracy.json")
    lines = ["| given | torch | bundle on ONNX Runtime |", "|---|---|---|"]
    lines += [
        f"| {row['given']} | {row['torch']:.2%} | {row['bundle']:.2%} |" for row in data["rows"]
    ]
    return "\n".join(lines)


def import_time() -> str:
    """What importing costs."""
    lines = ["| statement, in a fresh process | processor time | ratio |", "|---|---|---|"]
    lines += [
        f"| `{row['statement']}` | {row['cpu_ms']:.0f} ms | {row['ratio']:.2f} |"
        for row in load("import_time.json")["rows"]
    ]
    return "\n".join(lines)


def plans() -> str:
    """Default exports, which hold both plans, beside a bare ONNX Runtime session."""
    data = load("plans.json")
    device = data["device"]
    lines = [
        (
            f"Batch 1, one thread, {device['cores']} cores of {device['cpu']}, onnxruntime "
            f"{device['libraries']['onnxruntime']}, {data['date']} (`benchmarks/plans.py`):"
        ),
        "",
        (
            "| network | weights on disk | single call: bare | mmedge, `whole` | ratio "
            "| work of the stream | as the rates promise |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        call, disk = row["single_call"], row["disk"]
        low, high = call["ratio_95"]
        lines.append(
            f"| {row['network']} | {disk['both'] / disk['whole_alone']:.3f} of `whole` alone "
            f"| {call['median_us']['bare']:.0f} us | {call['median_us']['mmedge']:.0f} us "
            f"| {call['ratio']:.3f} [{low:.3f}, {high:.3f}] "
            f"| {row['stream']['work']:.0%} | {row['stream']['promised']:.0%} |"
        )
    if data["realtime"]:
        lines += [
            "",
            (
                "Fresh processes ran before all others (SCHED_FIFO), since the machine was in use "
                f"(load {device['load_average'][0]:.1f}); the single calls above did not."
            ),
        ]
    lines += [
        "",
        (
            "| in a fresh process | bare: to the first result | mmedge | ratio | bare: memory "
            "| mmedge | ratio |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    processes = [
        (row["network"] + ending, row[key])
        for row in data["rows"]
        for key, ending in (
            ("fresh_process", ", from a text" if "fresh_process_arrays" in row else ""),
            ("fresh_process_arrays", ", from token ids"),
        )
        if key in row
    ]
    for name, process in processes:
        time, memory = process["total_ms"], process["peak_bytes"]
        lines.append(
            f"| {name} | {time['bare']:.0f} ms | {time['mmedge']:.0f} ms "
            f"| {time['ratio']:.2f} [{time['range'][0]:.2f}, {time['range'][1]:.2f}] "
            f"| {memory['bare'] / 2**20:.0f} MiB | {memory['mmedge'] / 2**20:.0f} MiB "
            f"| {memory['ratio']:.2f} |"
        )
    return "\n".join(lines)


def streaming() -> str:
    """A stream beside the uncut network run for every frame."""
    data = load("streaming.json")
    lines = [
        (
            f"Camera at 30 Hz, the other sensors at their rates, the prompt once; batch 1, "
            f"{data['device']['cores']} cores of {data['device']['cpu']}, onnxruntime "
            f"{data['device']['libraries']['onnxruntime']}, {data['date']} "
            "(`benchmarks/streaming.py`; the range is over blocks of both in turn). In real time "
            "both sleep until the next sample, so that each finds the caches cold; back to back "
            "neither does:"
        ),
        "",
        (
            "| network | threads | samples come | CPU time per result: uncut, every frame | stream "
            "| times less | work removed | CPU time removed |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in data["streams"]:
        for kind in ("real_time", "back_to_back"):
            found = row[kind]
            low, high = found["times_less_range"]
            spent = found["cpu_ms_per_result"]
            lines.append(
                f"| {row['network']} | {row['threads']} | {kind.replace('_', ' ')} "
                f"| {spent['uncut']:.2f} ms | {spent['stream']:.2f} ms "
                f"| {found['times_less']:.2f} [{low:.2f}, {high:.2f}] "
                f"| {found['flops_removed']:.0%} | {found['cpu_removed']:.0%} |"
            )
    lines += [
        "",
        "| single calls, nothing kept | threads | uncut | cut | ratio |",
        "|---|---|---|---|---|",
    ]
    for row in data["single_calls"]:
        low, high = row["ratio_95"]
        spent = row["median_us"]
        lines.append(
            f"| {row['network']} | {row['threads']} | {spent['uncut']:.0f} us "
            f"| {spent['cut']:.0f} us | {row['ratio']:.3f} [{low:.3f}, {high:.3f}] |"
        )
    return "\n".join(lines)


def attention() -> str:
    """The CPU kernel beside the attention of other libraries."""
    data = load("attention.json")
    found: dict[tuple[int, str, int, int], float] = {}
    for row in (*data["rows"], *load("attention_large.json")["rows"]):  # the latter for more rounds
        key = row["threads"], row["kind"], row["rows"], row["keys"]
        found[key] = row["times_faster"]["mmedge"]["median"]
    kinds = list(dict.fromkeys(row["kind"] for row in data["rows"]))
    sizes = list(dict.fromkeys(row["keys"] for row in data["rows"]))
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    lines = [
        (
            f"Times as fast as the best of ONNX Runtime, torch and OpenVINO on one buffer with a "
            f"mask (8 heads of 64, float32, {' / '.join(map(str, sizes))} keys; "
            f"{data['device']['cpu']}, {versions}, {data['date']}, `benchmarks/attention.py`):"
        ),
        "",
        f"| queries | threads | {' | '.join(kinds)} |",
        f"|---|---|{'---|' * len(kinds)}",
    ]
    for rows in dict.fromkeys(row["rows"] for row in data["rows"]):
        for threads in dict.fromkeys(row["threads"] for row in data["rows"]):
            cells = (
                " / ".join(f"{found[threads, kind, rows, keys]:.2f}" for keys in sizes)
                for kind in kinds
            )
            lines.append(f"| {rows} | {threads} | {' | '.join(cells)} |")
    return "\n".join(lines)


def quantization() -> str:
    """Gated int8 beside other ways to int8: metric, and times as fast as float32."""
    data = load("quantize.json")
    ways = list(
        dict.fromkeys(w for rows in data["tasks"].values() for row in rows for w in row["ways"])
    )
    ways.sort(key=lambda way: not way.startswith("mmedge"))
    versions = {
        k: v for rows in data["tasks"].values() for r in rows for k, v in r["versions"].items()
    }
    lines = [
        (
            f"Metric, and how many times as fast as ONNX Runtime in float32 [quartiles], batch 1, "
            f"all called with new inputs each time; "
            f"{data['device']['cpu']}, "
            + ", ".join(f"{name} {version}" for name, version in versions.items())
            + f", {data['date']}, `benchmarks/quantize.py`:"
        ),
        "",
    ]
    columns = [
        f"{task}, {row['threads']} thread{'s' if row['threads'] > 1 else ''}"
        for task, rows in data["tasks"].items()
        for row in rows
    ]
    head = [f"| way | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    rows = [row for found in data["tasks"].values() for row in found]
    lines += head
    for way in ways:
        cells = [_way(row["ways"].get(way)) for row in rows]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    made = [row["mmedge"] for row in rows]
    for backend in dict.fromkeys(name for row in made for name in row["backends"]):
        cells = [_made(row, backend) for row in made]
        lines.append(f"| size of mmedge int8 for {backend} | {' | '.join(cells)} |")
    lines += ["", "The same graphs with inputs and outputs bound beforehand:", "", *head]
    for way in ways:
        cells = [_times(row["ways"].get(way, {}).get("bound")) for row in rows]
        if any(cell != "-" for cell in cells):
            lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _made(row: dict[str, Any], backend: str) -> str:
    """Size over float32 of a backend's int8 variant, and whether it is the one that is loaded."""
    found = row["backends"][backend]
    if not found.get("variant"):
        return "none kept"
    taken = ", taken" if found["variant"] == row["variant"] else ""
    return f"{found['size']:.3f}{taken}"


def _way(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    if "failed" in found:
        return "failed"
    return f"{found['metric']:.4f}, {_times(found['called'])}"


def _times(found: dict[str, Any] | None) -> str:
    """How many times as fast as float32, with quartiles."""
    if found is None:
        return "-"
    times = found["times_faster"]
    return f"{times['median']:.2f} [{times['low']:.2f}, {times['high']:.2f}]"


def hostile() -> str:
    """The gate against networks with a layer that int8 breaks."""
    data = load("hostile.json")
    count = len(data["rows"])
    whole, search = (data["totals"][mode] for mode in ("everything", "search"))
    found = search["found, with at most 10 % of the others"]
    return (
        f"Of {count} networks with one planted layer that int8 breaks (`benchmarks/hostile.py`, "
        f"{data['date']}), the gate keeps the limit of {100 * data['limit']:g} points on "
        f"{whole['passed']}, with at most 10 % of the other weights in float32 on "
        f"{whole['at most 10 % of the others']}. By search alone, without smoothing and with only "
        f"the forms that the layers were made to break, it keeps the limit on {search['passed']} "
        f"and finds the planted layer, with at most 10 % of the others, on {found}."
    )


def agreement() -> str:
    """Whether pairs of runs agree, apart and in turn, and whether a planted slowdown is found."""
    rows = {
        "two runs of `mmedge bench`, one after the other": load("agreement.json"),
        "`mmedge compare` of two bundles, calls in turn": load("agreement_turns.json"),
    }
    machine = next(iter(rows.values()))["device"]
    columns = (
        "how", "sessions and calls of a run", "pairs of the same thing",
        "the interval of the p50's ratio holds 1",
        "`--gate p50=3%` breaks", "p50 differs by up to", "half of the interval, median",
        "pairs of which one is slowed by 5 %", "`--gate p50=3%` breaks",
    )  # fmt: skip
    kind = "virtual cores" if machine["virtual"] else "cores"
    lines = [
        (
            f"The reference network with one thread, on {machine['cores']} {kind} of "
            f"{machine['cpu']} with nothing else to do (`benchmarks/agreement.py`):"
        ),
        "",
        f"| {' | '.join(columns)} |",
        "|" + "---|" * len(columns),
    ]
    for how, data in rows.items():
        rates = data["rates"]
        null = [one for one in data["pairs"] if not one["planted"]]
        most = max(abs(one["ratio"] - 1.0) for one in null)
        half = statistics.median((one["ratio_95"][1] - one["ratio_95"][0]) / 2.0 for one in null)
        cells = (
            f"{how}, {data['date']}", f"{data['sessions']}, {data['calls']}",
            rates["null_pairs"], f"{rates['agree']:.0%}",
            f"{rates['null_broken']:.0%}", f"{most:.1%}", f"{half:.1%}",
            rates["planted_pairs"], f"{rates['planted_broken']:.0%}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def soak() -> str:
    """Latency and memory of a long stream."""
    data = load("soak.json")
    windows, trend = data["windows"], data["trend"]
    lines = ["| minute | p50 | p99 | resident memory |", "|---|---|---|---|"]
    for window in windows[:: max(1, len(windows) // 6)]:
        tail = "-" if window["p99_ms"] is None else f"{window['p99_ms']:.2f} ms"
        lines.append(
            f"| {window['minute']:.0f} | {window['p50_ms']:.2f} ms | {tail} "
            f"| {window['resident_mib']:.1f} MiB |"
        )
    memory = trend["resident_mib"]
    health = data["health"]
    lines += [
        "",
        (
            f"{health['results']} results of {health['triggers']} triggers in "
            f"{data['seconds']:.0f} s; memory changes by {memory['per_hour']:.2f} MiB an hour "
            f"(standard error {memory['standard_error']:.2f}); counts that do not add up: "
            f"{len(data['faults'])}."
        ),
    ]
    return "\n".join(lines)


def peers() -> str:
    """Networks beside other frameworks: times, and means with their losses."""
    if not (data := load("peers.json", missing={})):
        return "No results yet: run `python benchmarks/peers.py`."
    versions: dict[str, str] = {}
    lines = [
        (
            "| network | threads | way | precision | median | times torch eager | times best peer "
            "| times the floor | output error or metric |"
        ),
        "|" + "---|" * 9,
    ]
    for name, net in data["nets"].items():
        for run in net.get("runs", ()):
            versions |= run["versions"]
            for way, row in run["ways"].items():
                marks = [what for what, taken in run["picked"].items() if taken == way]
                shown = f"**{way}** (load: {', '.join(marks)})" if marks else way
                start = f"| {name} | {run['threads']} | {shown} | {row.get('precision', '')} "
                lines.append(start + _peer(row, run["floor_us"]))
    summary = [
        f"- mmedge ({row['mmedge']}) is {row['geomean']:.2f} times as fast as {row['against']} "
        f"(geometric mean of {row['cases']}); slower on "
        + (
            ", ".join(
                f"{case['net']} with {case['threads']} (x{case['times']:.2f}, {case['against']})"
                for case in row["losses"]
            )
            or "none"
        )
        for row in data["summary"]
    ]
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    head = (
        f"One call at batch 1; {data['device']['cores']} cores of "
        f"{data['device']['cpu']}, {used}, {data['date']} (`benchmarks/peers.py`):"
    )
    kinds = [
        f"{name}: {net.get('weights', net.get('failed'))}; "
        f"{net.get('processes', 1)} x {net.get('rounds', data['rounds'])} rounds"
        for name, net in data["nets"].items()
    ]
    return "\n".join(
        [
            head,
            "",
            *summary,
            "",
            "Weights, and rounds (with each of so many processes of a framework):",
            "",
            *(f"- {kind}" for kind in kinds),
            "",
            *lines,
        ]
    )


def peers_short() -> str:
    """One line for each network and number of threads: the best of others, and mmedge."""
    if not (data := load("peers.json", missing={})):
        return "No results yet: run `make bench`."
    others = {"torch": "torch eager", "ONNX Runtime": "ort fp32", "OpenVINO": "openvino fp32"}
    lines = [
        (
            f"| network, threads | {' | '.join(others)} | best other at equal metric "
            "| mmedge float32 | mmedge, what `load` takes | which |"
        ),
        "|" + "---|" * (len(others) + 5),
    ]
    for name, net in data["nets"].items():
        for run in net.get("runs", ()):
            ways, picked = run["ways"], run["picked"]
            best = ways[picked["best"]]
            rival = best.get("any_peer") or ways[EAGER_WAY]["any_peer"]
            times = [_ms(ways[way]) for way in (*others.values(), rival, picked["fp32"])]
            times[-2] += f" ({rival})"
            taken = f"**{_ms(best)}**"
            if "us" in best:
                spread = best["times_any_peer"]
                taken += f", {spread['median']:.2f} [{spread['low']:.2f}, {spread['high']:.2f}]"
            cells = (f"{name}, {run['threads']}", *times, taken, picked["best"].split()[-1])
            lines.append(f"| {' | '.join(cells)} |")
    head = (
        f"Milliseconds of one call at batch 1 on {data['device']['cores']} cores of "
        f"{data['device']['cpu']}, {data['date']}, all ways of a row in turn; behind mmedge's "
        "how many times as fast it is as the best other of equal metric, with quartiles."
    )
    return "\n".join([head, "", *lines])


EAGER_WAY = "torch eager"


def _ms(row: dict[str, Any]) -> str:
    return f"{row['us'] / 1e3:.2f}" if "us" in row else "none"


def _peer(row: dict[str, Any], floor_us: float) -> str:
    if "us" not in row:
        return f"| none | | | | {' '.join(row['failed'].split())[:120].replace('|', '/')} |"
    spreads = (
        f"{times['median']:.2f} [{times['low']:.2f}, {times['high']:.2f}]"
        for times in (row["times_eager"], row["times_best_peer"])
    )
    judged = f"{row['metric']:.4f}" if "metric" in row else f"{row['error']:.1e}"
    judged += "" if row["within_limit"] else ", beyond the limit"
    shown = f"{row['us'] / 1e3:.2f} ms", *spreads, f"{row['us'] / floor_us:.1f}", judged
    return f"| {' | '.join(shown)} |"


def attention_gpu() -> str:
    """The CUDA kernel beside torch's kernels, and torch's operator beside standard operators."""
    data = load("attention_gpu.json")
    cases = {case.name: case for case in CASES}
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for row in data["named"]:
        if "us" in row:
            cells.setdefault((row["case"], row["cache"]), {})[row["way"]] = row["us"]
    lines = [
        (
            f"{data['gpu']}, CUDA {data['cuda']}, torch {data['torch']}, {data['date']}, bfloat16, "
            f"`benchmarks/attention_gpu.py`: microseconds of a call in the replay of a CUDA graph "
            f"of {data['calls']}, inputs in the second-level cache / not."
        ),
        "",
        (
            "| shape | mmedge | concatenated, torch's choice | one buffer, torch's best kernel | "
            "times as fast as concatenated | as one buffer |"
        ),
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(case for case, _ in cells):
        case, hot, cold = cases[name], cells[name, "hot"], cells[name, "cold"]
        best = min((way for way in hot if way.startswith("sliced")), key=hot.__getitem__)
        ours, theirs, one = (
            f"{hot[way]:.1f} / {cold[way]:.1f}" for way in ("mmedge", "concat", best)
        )
        shape = (
            f"{name}: {case.batch} x {case.rows} queries, {case.heads} heads of {case.dim}, "
            f"{' + '.join(map(str, case.lengths))} keys"
        )
        lines.append(
            f"| {shape} | {ours} | {theirs} | {one} ({best.removeprefix('sliced, ')}) | "
            + " | ".join(
                " / ".join(f"{cell[way] / cell['mmedge']:.2f}" for cell in (hot, cold))
                for way in ("concat", best)
            )
            + " |"
        )
    ratios = {
        (row["dtype"], how): [
            r[how]["over_standard"] for r in data["grid"] if r["dtype"] == row["dtype"]
        ]
        for row in data["grid"]
        for how in ("captured", "called")
    }
    spans = "; ".join(
        f"{dtype}, {'in graphs' if how == 'captured' else 'called from Python'}: "
        f"{min(found):.1f} to {max(found):.1f} times as fast ({len(found)} shapes)"
        for (dtype, how), found in ratios.items()
    )
    made = ["", f"Of the file: {data['note']}."] if "note" in data else []
    return "\n".join(
        [*lines, *made, "", f"torch's operator with the kernel beside standard operators: {spans}."]
    )


def load(name: str, missing: Any = None) -> Any:  # noqa: ANN401
    """One result file; ``missing`` where it was not made yet."""
    if missing is not None and not (RESULTS / name).exists():
        return missing
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))
