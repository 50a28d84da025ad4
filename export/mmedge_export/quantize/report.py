"""What was decided of each stage, as a table and for the manifest."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mmedge.bench.machine.neighbours import busy_words
from mmedge.schema.names import MAX_TEXT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge_export.quantize.accuracy_gate import Verdict

__all__ = ["QuantizationReport", "StageReport"]

#: Nodes named of each reason in a table; the manifest has all.
SHOWN = 4


@dataclass(frozen=True, slots=True)
class StageReport:
    """What became of one stage.

    Attributes:
        name: of the stage.
        forms: how many nodes are in each form.
        kept: nodes that stay float, by name, and why.
        reduce_range: nodes with weights of 7 bits, since products with 8 would exceed 16 bits.
        speed: how it was timed, in words.
        bytes_before: of the stage by itself: graph and weights in float32.
        bytes_after: the same now.
    """

    name: str
    forms: Mapping[str, int]
    kept: Mapping[str, str]
    reduce_range: tuple[str, ...]
    speed: str
    bytes_before: int
    bytes_after: int

    @property
    def form(self) -> str:
        """The forms in words."""
        counts = Counter(self.forms)
        words = [f"{count} {form}" for form, count in counts.most_common() if count]
        seven = f" ({len(self.reduce_range)} with 7-bit weights)" if self.reduce_range else ""
        return ", ".join(words) + seven if words else "no node to quantise"

    def reasons(self) -> list[str]:
        """Why nodes stay float, each reason once, with some of the nodes."""
        nodes: dict[str, list[str]] = {}
        for node, why in self.kept.items():
            nodes.setdefault(why, []).append(node)
        return [
            f"{why}: {', '.join(names[:SHOWN])}"
            + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
            for why, names in nodes.items()
        ]

    def record(self) -> dict[str, str]:
        """For the variant's ``build``."""
        entries = {self.name: f"{self.form}; {self.speed}"}
        if self.kept:
            entries[f"{self.name} kept float32"] = "; ".join(
                f"{n}: {w}" for n, w in self.kept.items()
            )
        return {key: _short(text) for key, text in entries.items()}


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """What :func:`mmedge_export.quantize.quantize` did.

    Attributes:
        variants: ids of those that were made, several for several GPUs; empty where nothing was
            worth keeping.
        stages: one each.
        verdict: of the network as it was kept; None where nothing was.
        metric: of the float network; None without a metric.
        limit: of the drop, or of the error where there is no metric.
        samples: that were judged.
        attempts: candidates that were judged.
        latency_ms: median of one call in float32, and of the variant.
        speedup: of a call: median of the ratios and its confidence interval.
        bytes_before: of the float32 variant (:meth:`mmedge.Bundle.size`).
        bytes_after: of the new one.
        remarks: what else is to be known, in words.
        not_checked: what the judgement leaves open, in words; the variant's too.
        others_share: largest share of the cores' time that other processes took while something was
            timed, 0 to 1; None: they left the cores alone, or it cannot be told.
        first_ms: as ``latency_ms``, up to the first token of a loop that generates; else None.
        token_ms: the same of each token after it.
        tokens: that the call has which was timed; 0 where no loop generates.
    """

    variants: tuple[str, ...]
    stages: tuple[StageReport, ...]
    verdict: Verdict | None
    metric: float | None
    limit: float
    samples: int
    attempts: int
    latency_ms: tuple[float, float] | None
    speedup: tuple[float, float, float] | None
    bytes_before: int
    bytes_after: int
    remarks: tuple[str, ...] = ()
    not_checked: tuple[str, ...] = ()
    others_share: float | None = None
    first_ms: tuple[float, float] | None = None
    token_ms: tuple[float, float] | None = None
    tokens: int = 0

    @property
    def variant(self) -> str | None:
        """The first of the variants; None where there is none."""
        return self.variants[0] if self.variants else None

    @property
    def warning(self) -> str | None:
        """What a reader must know before believing the times."""
        words = busy_words(self.others_share)
        if words is None:
            return None
        consequence = "" if self.variant else ": a variant that would pay may have been given up"
        return (
            f"{words}, at times, and measuring again did not help{consequence}. Run it again on a "
            "quiet machine; --resume keeps what was not disturbed, and measures the rest again"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which has no infinity: None stands for it."""
        plain: dict[str, Any] = _finite(asdict(self))
        return {"variant": self.variant, **plain}

    def record(self) -> dict[str, str]:
        """For the variant's ``build``."""
        entries: dict[str, str] = {}
        for key, words in self.summary()[1:]:
            if key == "size":  # the files say so themselves
                continue
            count = sum(other.split(" ")[0] == key for other in entries)
            entries[f"{key} {count + 1}" if count else key] = _short(words)
        for stage in self.stages:
            entries |= stage.record()
        return entries

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Stage, forms, what stays float32 and why, speed, and bytes after over before."""
        return [
            (
                stage.name,
                stage.form,
                "; ".join(stage.reasons()) or "-",
                stage.speed,
                f"{stage.bytes_after / max(stage.bytes_before, 1):.2f}",
            )
            for stage in self.stages
        ]

    def summary(self) -> list[tuple[str, str]]:
        """What holds of the whole network, as pairs of words."""
        rows = [("variant", ", ".join(self.variants) or "none: nothing was worth keeping")]
        verdict = self.verdict
        if verdict is not None and verdict.metric is not None and verdict.drop is not None:
            rows.append(("metric", f"{self.metric:.4f} -> {verdict.metric:.4f}"))
            drop = verdict.drop
            most = f"at most {drop.bound:.4f} with confidence {drop.level:.4g}"
            likely = f"{drop.drop:.4f} [{drop.low:.4f}, {drop.high:.4f}]"
            rows.append(("drop", f"{likely}, {most} (limit {self.limit:g})"))
        elif verdict is not None:
            worst, mean = f"{verdict.worst:.3g} at most", f"{verdict.error:.3g} on average"
            rows.append(("error", f"{worst}, {mean} of the scale (limit {self.limit:g})"))
            for name, (changed_rows, count) in verdict.changed.items():
                words = f"the largest element is another in {changed_rows} of {count} rows"
                rows.append((f"choices of {name}", f"{words}, of no weight in the decision"))
        if self.latency_ms is not None and self.speedup is not None:
            before, after = self.latency_ms
            middle, low, high = self.speedup
            times = f"{middle:.2f} [{low:.2f}, {high:.2f}] times as fast"
            call = f" (a call of {self.tokens} tokens)" if self.tokens else ""
            rows.append(("latency", f"{before:.3g} -> {after:.3g} ms{call}, {times}"))
        for what, pair in (("first token", self.first_ms), ("each token after it", self.token_ms)):
            if pair is not None:
                faster = pair[0] / pair[1] if pair[1] else math.inf
                words = f"{pair[0]:.3g} -> {pair[1]:.3g} ms, {faster:.2f} times as fast"
                rows.append((what, words))
        before, after = self.bytes_before, self.bytes_after
        share = after / max(before, 1)
        size = f"{before:,} -> {after:,} bytes, {share:.3f} of it"
        rows += [
            ("size", size),
            ("judged", f"{self.samples} samples, {self.attempts} candidates"),
            *(("remark", remark) for remark in self.remarks),
        ]
        return rows


def _short(text: str) -> str:
    """As much of a list as a record holds."""
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 4].rpartition(";")[0] + "; ..."


def _finite(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
