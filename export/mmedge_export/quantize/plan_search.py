"""Lower precision is kept only while the task holds and where it pays.

It is long, since one search holds what was tried, what it cost and why it ended.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.bench.machine.neighbours import busy_words
from mmedge.bench.stats.block_timer import Disturbance, note_disturbance
from mmedge.errors import AccuracyError
from mmedge_export.calibration.checkpoint import digest
from mmedge_export.onnx_graph.runner import Runner
from mmedge_export.quantize.back_off import BudgetError, back_off, offenders
from mmedge_export.quantize.call_times import CallTimes, time_calls
from mmedge_export.quantize.choose_schemes import (
    NO_FASTER,
    candidates,
    choose_plan,
    graph_bytes,
    time_sites,
)
from mmedge_export.quantize.evaluate import BundleNetwork, Call, error
from mmedge_export.quantize.judged_calls import SENSITIVE as SENSITIVE_TOKENS
from mmedge_export.quantize.judged_calls import calibration_options, whole_calls
from mmedge_export.quantize.report import StageReport
from mmedge_export.quantize.saturate import saturating_nodes
from mmedge_export.quantize.stage_runs import StageRun
from mmedge_export.quantize.stage_work import quantised, quantised_forms
from mmedge_export.targets.onnxruntime.schemes import DYNAMIC, EXACT_FIRST, RANGED, WEIGHTS_ALONE
from mmedge_export.targets.quantizable import switches
from mmedge_export.targets.registry import find_target, quantizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from mmedge.bundle import Bundle
    from mmedge.spec import Array
    from mmedge_export.calibration.checkpoint import Checkpoint
    from mmedge_export.quantize.accuracy_gate import AccuracyGate, Verdict
    from mmedge_export.quantize.options import QuantizeOptions
    from mmedge_export.quantize.stage_work import Plan, StageWork
    from mmedge_export.quantize.task import Task
    from mmedge_export.targets.quantizable import QuantizableNode, QuantizationScheme

__all__ = ["PlanSearch"]

#: Samples that sensitivity is measured on, fewer of them where a loop runs on each, and those that
#: products are looked at for saturation on.
SENSITIVE, SENSITIVE_LOOPS, SATURATING = 24, 4, 4

#: Nodes that a message about failure names.
WORST = 8

#: Separates a stage from a node in the names that the search handles.
_BETWEEN = "\n"


class PlanSearch:
    """Finds the plan of every stage.

    Args:
        bundle: open.
        works: its stages, prepared and calibrated.
        task: what it is judged by.
        calls: of its samples, which the gate has the answers of float32 to.
        gate: of the task.
        options: what was asked for.
        tell: told what is being done, a line at a time.
        checkpoint: of what is known so far.

    Attributes:
        others: largest share of the cores' time that other processes took while something was
            timed; None: they left the cores alone, or it cannot be told.
    """

    def __init__(
        self,
        bundle: Bundle,
        works: Sequence[StageWork],
        task: Task,
        calls: Sequence[Call],
        gate: AccuracyGate,
        options: QuantizeOptions,
        *,
        tell: Callable[[str], None],
        checkpoint: Checkpoint,
    ) -> None:
        self._checkpoint = checkpoint
        self._backend, self._precision = options.backend, options.precision
        self._bundle, self._works, self._task, self._gate = bundle, works, task, gate
        self._calls, self._whole_calls = list(calls), whole_calls(task, bundle.manifest)
        self._budget, self._target = options.budget, quantizer(options.backend)
        # Where nothing can be timed, nothing is put back for its speed.
        self._goal = "size" if self._target.NOT_TIMED else options.goal
        self._threads, self._tell = options.threads, tell
        self._speed: dict[str, str] = {}
        self._harms: dict[str, float] = {}
        self.others: float | None = None
        self._changed: set[str] = set()  # stages with other forms than those that were timed

    def choose(self) -> None:
        """Give every stage the plan that is fastest on this device, or all that can be quantised.

        The latter for a target whose variants cannot be timed here.
        """
        schemes = find_target(self._backend).SCHEMES[self._precision]
        forms = [scheme.name for scheme in schemes]
        if self._target.NOT_TIMED:
            for work in self._works:
                work.plan = {
                    site.node: next(form for form in forms if form in site.forms)
                    for site in work.sites
                }
                work.speed = {site.node: {} for site in work.sites}
                words = f"not timed: {self._target.NOT_TIMED}" if work.sites else "-"
                self._speed[work.stage.name] = words
                self._tell(f"{work.stage.name}: {len(work.sites)} nodes can be quantised")
            return
        floats = self._network({})
        samples = [floats.stage_runs(call) for call in self._whole_calls[:SATURATING]]
        for work in self._works:
            name = work.stage.name
            if not work.sites:
                self._speed[name] = "-"
                continue
            self._tell(f"{name}: timing {len(work.sites)} nodes")
            finding = self._checkpoint.recall(
                f"forms of {name}",
                partial(self._choose_stage, work, forms, [runs[name] for runs in samples]),
                self._keep,
            )
            self._note(finding["others"])
            work.reduce_range = frozenset(finding["reduce_range"])
            work.speed, work.plan = finding["speed"], finding["plan"]
            self._speed[name] = finding["words"]
            for node, form in work.plan.items():
                if form == "float":
                    work.why[node] = "no smaller"
                    if self._goal == "speed":
                        doubtful = finding["others"] is not None
                        work.why[node] = "could not be judged" if doubtful else "no faster"
            self._tell(f"{name}: {self._speed[name]}")

    def _choose_stage(
        self,
        work: StageWork,
        forms: Sequence[QuantizationScheme],
        samples: Sequence[Sequence[StageRun]],
    ) -> dict[str, Any]:
        names = list(dict.fromkeys(site.activation for site in work.sites))
        with note_disturbance(patient=self._goal == "speed") as disturbance:
            finding = self._timed_stage(work, forms, samples, names)
        return {**finding, **self._doubted(finding["words"], disturbance)}

    def _timed_stage(
        self,
        work: StageWork,
        forms: Sequence[QuantizationScheme],
        samples: Sequence[Sequence[StageRun]],
        names: Sequence[str],
    ) -> dict[str, Any]:
        activations = Runner(work.prepared, names)
        inner = [[StageRun(activations(run.feeds), run.count) for run in runs] for runs in samples]
        if not WEIGHTS_ALONE.issuperset(forms):
            values = [run.feeds for runs in inner for run in runs]
            work.reduce_range = saturating_nodes(work.prepared, work.sites, values, work.ranges)
        alone = self._bundle.manifest.has_cores(work.stage)
        work.speed = time_sites(work, inner[0], forms, alone=alone, threads=self._threads)
        plan, words = self._fastest(work, candidates(work, forms), samples[0])
        return {
            "reduce_range": sorted(work.reduce_range),
            "speed": work.speed,
            "plan": plan,
            "words": words,
        }

    def meet_limit(self) -> Verdict | None:
        """Put back what the task does not bear; None where nothing is left in lower precision.

        Raises:
            AccuracyError: the limit holds for nothing that was tried, or the budget was used up.
        """
        if not any(quantised(work.plan) for work in self._works):
            return None
        verdict = self._evaluate({work.stage.name: work.plan for work in self._works})
        if not verdict.ok:
            verdict = self._refined(verdict)
        if not verdict.ok:
            self._tell(f"too much is lost: {_words(verdict)}; looking for the cause")
            verdict = self._back_off()
        return self._check_speed(verdict)

    def _refined(self, verdict: Verdict) -> Verdict:
        """Give weights a scale for each channel where they shared one: far less than float32 costs.

        The plans stay, whatever the verdict: if nodes are to be put back, fewer of these are.
        """

        def finer(work: StageWork) -> Plan:
            pays = {
                node
                for node in work.plan
                if self._goal != "speed" or work.speed[node].get("dynamic", 0.0) > 1.0
            }
            return {
                node: "dynamic" if form == "dynamic_tensor" and node in pays else form
                for node, form in work.plan.items()
            }

        refined_stages = {work.stage.name for work in self._works if finer(work) != work.plan}
        if not refined_stages or self._gate.attempts >= self._budget:
            return verdict
        for work in self._works:
            work.plan = finer(work)
        self._changed |= refined_stages
        verdict = self._evaluate({work.stage.name: work.plan for work in self._works})
        self._tell(f"with a scale for each channel: {_words(verdict)}")
        return verdict

    def _back_off(self) -> Verdict:
        ranked = self._ranked()
        verdicts: dict[frozenset[str], Verdict] = {}

        def plans(back: frozenset[str]) -> dict[str, Plan]:
            return {
                work.stage.name: work.without(
                    {node for node in work.plan if _name(work, node) in back}
                )
                for work in self._works
            }

        def passes(back: frozenset[str]) -> bool:
            verdict = self._evaluate(plans(back))
            verdicts[back] = verdict
            self._tell(f"{len(back)} of {len(ranked)} nodes put back: {_words(verdict)}")
            return verdict.ok

        budget = self._budget - self._gate.attempts
        try:
            back = back_off(ranked, passes, budget=budget)
        except BudgetError as stop:
            raise AccuracyError(
                f"nothing passed within {self._budget} evaluations; give a larger budget or limit."
                f"\n{self._table(verdicts)}"
            ) from stop
        if back is None:
            raise self._nothing(verdicts)
        before = {work.stage.name: work.plan for work in self._works}
        for work in self._works:
            mine = [node for node in quantised(work.plan) if _name(work, node) in back]
            work.plan = work.without(mine)
            work.why |= dict.fromkeys(mine, "the metric needs it")
        milder = [name for name in reversed(ranked) if name in back]
        verdict = self._milder(milder, before, verdicts[back])
        if not any(quantised(work.plan) for work in self._works):
            raise self._nothing(verdicts)
        return verdict

    def _nothing(self, verdicts: Mapping[frozenset[str], Verdict]) -> AccuracyError:
        return AccuracyError(
            "the limit is kept with no node in lower precision; give a larger limit, or more "
            f"samples.\n{self._table(verdicts)}"
        )

    def _milder(self, back: Sequence[str], before: Mapping[str, Plan], verdict: Verdict) -> Verdict:
        """Try other forms, the most exact first, on nodes that were put back, the mildest first."""
        works = {work.stage.name: work for work in self._works}
        for name in back:
            stage, node = name.split(_BETWEEN)
            work = works[stage]
            speeds = work.speed[node]
            for form in EXACT_FIRST:
                pays = self._goal != "speed" or speeds.get(form, 0.0) > 1.0
                if form not in speeds or form == before[stage][node] or not pays:
                    continue
                if self._gate.attempts >= self._budget:
                    return verdict
                plans = {other.stage.name: other.plan for other in self._works}
                verdict_with_node = self._evaluate({**plans, stage: {**work.plan, node: form}})
                self._tell(f"{stage} {node} as {form}: {_words(verdict_with_node)}")
                if verdict_with_node.ok:
                    work.plan, verdict = {**work.plan, node: form}, verdict_with_node
                    del work.why[node]
                    break
        return verdict

    def _table(self, verdicts: Mapping[frozenset[str], Verdict]) -> str:
        """What was tried, and the error that single nodes bring, for a message."""
        attempts = [
            f"  {len(back)} nodes put back: {_words(verdict)}" for back, verdict in verdicts.items()
        ]
        worst = sorted(self._harms, key=lambda name: -self._harms[name])[:WORST]
        alone = [
            f"  {' '.join(name.split(_BETWEEN))} alone: error {self._harms[name]:.3g}"
            for name in worst
        ]
        return "\n".join([*attempts, *alone])

    def _ranked(self) -> list[str]:
        """Quantised nodes of the stages that do harm, the most harmful first, then all others."""
        ranked: list[str]
        plans = " ".join(digest(work.plan) for work in self._works)
        key = f"harm of single nodes as {plans}"
        ranked, self._harms = self._checkpoint.recall(key, self._measure_harm)
        return ranked

    def _measure_harm(self) -> tuple[list[str], dict[str, float]]:
        manifest = self._bundle.manifest
        count = SENSITIVE if manifest.loop is None else SENSITIVE_LOOPS
        calls = [
            replace(call, options=calibration_options(self._task, manifest, SENSITIVE_TOKENS))
            for call in self._whole_calls[:count]
        ]
        graphs: dict[str, Path] = {}
        sites = {work.stage.name: _switchable(work) for work in self._works}
        for work in self._works:
            mine = sites[work.stage.name]
            if mine:
                graphs[work.stage.name] = path = work.folder / f"{work.stage.name}.switched.onnx"
                self._target.write_switched(
                    work.prepared, path, mine, work.plan, work.ranges, work.reduce_range
                )
        network = BundleNetwork(
            self._bundle, graphs, threads=self._threads, backend=self._target.SWITCHED
        )

        def answers(on: Mapping[str, set[str]]) -> list[dict[str, Array]]:
            more = {name: switches(mine, on.get(name, set())) for name, mine in sites.items()}
            return network.answers(calls, more)

        if manifest.loop is not None and manifest.loop.kind == "generate":
            # Scores, and of the same tokens: else one that differs would change all that follow.
            calls = [
                replace(call, forced=answer["tokens"])
                for call, answer in zip(calls, answers({}), strict=True)
            ]
        reference = answers({})

        def harm(on: Mapping[str, set[str]]) -> float:
            return float(np.mean(error(answers(on), reference)))

        stages = {
            name: harm({name: {site.node for site in mine}}) for name, mine in sites.items() if mine
        }
        worst = offenders(stages)
        self._tell(
            "error of the answers by stage: "
            + ", ".join(f"{name} {value:.3g}" for name, value in stages.items())
        )
        ranked: list[str] = []
        alone: dict[str, float] = {}
        for group in (worst, [name for name in stages if name not in worst]):
            harms = {
                _BETWEEN.join((name, site.node)): harm({name: {site.node}})
                for name in group
                for site in sites[name]
            }
            ranked += sorted(harms, key=lambda name: -harms[name])
            alone |= harms
        return ranked, alone

    def _check_speed(self, verdict: Verdict) -> Verdict | None:
        """Put back stages that are no faster after all, and everything where the whole is not."""
        if self._goal != "speed":
            return verdict
        runs = self._network({}).stage_runs(self._whole_calls[0])
        before = [(work.plan, dict(work.why)) for work in self._works]
        for work in self._works:
            name = work.stage.name
            slower = "the metric needs it" in work.why.values() or name in self._changed
            if not slower or not quantised(work.plan):
                continue
            key = f"speed of {name} as {digest(work.plan)}"
            finding = self._checkpoint.recall(
                key, partial(self._time_again, work, runs[name]), self._keep
            )
            plan, self._speed[name] = finding["plan"], finding["words"]
            self._note(finding["others"])
            if plan != work.plan:
                judged = finding["others"] is None
                reason = "the rest is no faster" if judged else "could not be judged"
                work.why |= dict.fromkeys(quantised(work.plan), reason)
                work.plan = plan
        if not any(quantised(work.plan) for work in self._works):
            return None
        if all(work.plan == plan for work, (plan, _) in zip(self._works, before, strict=True)):
            return verdict
        if self._gate.attempts < self._budget:
            again = self._evaluate({work.stage.name: work.plan for work in self._works})
            if again.ok:
                return again
        # What was accepted stays, with a stage that is no faster.
        for work, (plan, why) in zip(self._works, before, strict=True):
            work.plan, work.why = plan, why
        return verdict

    def _time_again(self, work: StageWork, runs: Sequence[StageRun]) -> dict[str, Any]:
        """Whether the stage is faster with what the metric bears, as plain values."""
        with note_disturbance() as disturbance:
            plan, words = self._fastest(work, {"what the metric bears": work.plan}, runs)
        return {"plan": plan, **self._doubted(words, disturbance)}

    def _doubted(self, words: str, disturbance: Disturbance) -> dict[str, Any]:
        """How fast something is, in words, with what makes that doubtful."""
        busy = busy_words(disturbance.share) if self._goal == "speed" else None
        if busy is None:
            return {"words": words, "others": None}
        if words.startswith(NO_FASTER):
            return {"words": f"could not be judged: {busy}; {words}", "others": disturbance.share}
        return {"words": f"{words} ({busy})", "others": disturbance.share}

    def _keep(self, finding: Mapping[str, Any]) -> bool:
        """Whether a finding is worth keeping for a run that goes on later: it was not disturbed."""
        return finding["others"] is None

    def _note(self, others: float | None) -> None:
        """Keep how disturbed a time was, to be told at the end."""
        if others is not None:
            self.others = max(others, self.others or 0.0)

    def _fastest(
        self, work: StageWork, plans: Mapping[str, Plan], runs: Sequence[StageRun]
    ) -> tuple[Plan, str]:
        alone = self._bundle.manifest.has_cores(work.stage)
        plan, words = choose_plan(
            work, plans, runs, alone=alone, goal=self._goal, threads=self._threads
        )
        return plan, words + self._runs_in_words(work, runs)

    def _runs_in_words(self, work: StageWork, runs: Sequence[StageRun]) -> str:
        """What was timed, where a stage runs several times in a call."""
        loop = self._bundle.manifest.loop
        if loop is None or loop.stage != work.stage.name:
            return ""
        if loop.kind == "denoise":
            return f"; timed as {sum(run.count for run in runs)} runs"
        prompt = runs[0].feeds[loop.token]
        tokens = prompt.shape[1] if prompt.ndim == 2 else 1
        if len(runs) == 1:
            return f"; timed as {runs[0].count} steps"
        return f"; timed as 1 prefill of {tokens} and {runs[1].count} steps"

    def _network(self, plans: Mapping[str, Plan]) -> BundleNetwork:
        graphs = {
            work.stage.name: work.graph(plans[work.stage.name])
            for work in self._works
            if quantised(plans.get(work.stage.name, {}))
        }
        return BundleNetwork(self._bundle, graphs, threads=self._threads, backend=self._backend)

    def _evaluate(self, plans: Mapping[str, Plan]) -> Verdict:
        if self._gate.attempts >= self._budget:
            raise AccuracyError(
                f"the budget of {self._budget} evaluations is used up; give a larger one"
            )

        def evaluate() -> dict[str, Any]:
            network = self._network(plans)
            return asdict(self._gate.evaluate(network.answers(self._calls)))

        key = digest({stage: quantised_forms(plan) for stage, plan in plans.items()})
        return self._gate.restore(self._checkpoint.recall(f"verdict on {key}", evaluate))

    def final(self) -> tuple[BundleNetwork, BundleNetwork]:
        """The float network, and the one that was kept."""
        return self._network({}), self._network({w.stage.name: w.plan for w in self._works})

    def latency(self) -> CallTimes:
        """How long a call takes in float32 and as kept."""
        manifest, call = self._bundle.manifest, self._whole_calls[0]
        with note_disturbance() as disturbance:
            times = time_calls(manifest, *self.final(), call)
        self._note(disturbance.share if disturbance.busy else None)
        return times

    def stages(self) -> tuple[StageReport, ...]:
        """What became of each stage."""
        return tuple(
            StageReport(
                work.stage.name,
                dict(Counter(work.plan.values())),
                {node: work.why.get(node, "-") for node, f in work.plan.items() if f == "float"}
                | work.excluded,
                tuple(n for n in sorted(work.reduce_range) if work.plan[n] in (*RANGED, *DYNAMIC)),
                self._speed.get(work.stage.name, "-"),
                graph_bytes(work.prepared),
                graph_bytes(work.graph()),
            )
            for work in self._works
        )


def _switchable(work: StageWork) -> list[QuantizableNode]:
    return [site for site in work.sites if work.plan[site.node] != "float"]


def _name(work: StageWork, node: str) -> str:
    return _BETWEEN.join((work.stage.name, node))


def _words(verdict: Verdict) -> str:
    if verdict.drop is None:
        return f"error {verdict.worst:.3g} at most"
    return f"drop {verdict.drop.drop:.4f}, at most {verdict.drop.bound:.4f}"
