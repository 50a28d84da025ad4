"""Each result of a dump again, of the samples and states that it used."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from mmedge.errors import MMEdgeError
from mmedge.execution.inputs import Feeds
from mmedge.recording.flight.comparison import ComparedResult, compare_outputs
from mmedge.recording.flight.options import read_stream_options
from mmedge.recording.flight.reader import DumpResult, DumpRun
from mmedge.recording.flight.values import aligned_value
from mmedge.recording.flight.whole_run import plain_outputs
from mmedge.stream.compute import Compute, Fused
from mmedge.stream.interpolation import blend
from mmedge.stream.options import read_loop_options
from mmedge.stream.policies import Interpolate, Latest, Window
from mmedge.stream.ring import join_rows
from mmedge.stream.sample import Item, StreamSample
from mmedge.stream.state_sequence import Turn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.pipeline import Pipeline
    from mmedge.recording.flight.reader import DumpItem, FlightDump
    from mmedge.spec import Array

__all__ = ["compare_each_result"]

#: Features of items that are kept, by modality.
KEPT = 64


class _LackError(Exception):
    """Something that a result takes is not in the dump."""


class _Encoder:
    """See :class:`mmedge.stream.compute.Encoder`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.features: OrderedDict[Any, Mapping[str, Any] | str] = OrderedDict()


class _Chain:
    """The states of one sequence after its last run, where they are known."""

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._states: Mapping[str, Mapping[str, Array]] | None = None
        self.difference = ""

    def enter(
        self, epoch: int, recorded: Mapping[str, Mapping[str, Array]] | None
    ) -> Mapping[str, Mapping[str, Array]]:
        """What a run begins with: what is recorded, else what the run before left."""
        before = self._states if epoch == self._epoch else None
        self.difference = ""
        if recorded is None:
            if before is None:
                raise _LackError("the state that it began with is not in the dump")
            return before
        if before is not None and recorded:
            words = [
                word
                for stage, arrays in recorded.items()
                for word in compare_outputs(arrays, before.get(stage, {}), what="state")
            ]
            self.difference = "; ".join(words)
        return recorded

    def leave(self, epoch: int, states: Mapping[str, Mapping[str, Array]] | None) -> None:
        """Note what a run left; None: that is not known."""
        self._epoch, self._states = epoch, states


def compare_each_result(
    pipe: Pipeline, dump: FlightDump, *, has_ages: bool
) -> list[ComparedResult]:
    """Compute each result again, and compare.

    Raises:
        InputError: the stream's options are not of this version.
    """
    replay = _Replay(pipe, dump, has_ages=has_ages)
    compared = []
    for entry in dump.entries:
        if isinstance(entry, DumpRun):
            replay.run_again(entry)
        elif isinstance(entry, DumpResult):
            compared.append(replay.compare(entry))
    return compared


class _Replay:
    def __init__(self, pipe: Pipeline, dump: FlightDump, *, has_ages: bool) -> None:
        self._dump, self._has_ages = dump, has_ages
        manifest = pipe.bundle.manifest
        self._network = {
            index
            for index, network in enumerate(dump.header["networks"])
            if network["digest"] == pipe.bundle.digest and network["variant"] == pipe.variant.id
        }
        options = read_stream_options(dump.header["options"])
        loop_options = read_loop_options(
            manifest, options["newer_trigger"], options["loop_options"]
        )
        self._feeds = Feeds(pipe.bundle, on_gpu=pipe.variant.target != "cpu")
        plan = manifest.stream_plan(pipe.variant)
        self._compute = Compute(pipe, pipe.bundle, plan, self._feeds, loop_options)
        stages = [s for s in manifest.in_order(plan) if s.modality is not None]
        with_state = {state.stage for state in manifest.states}
        self._has_encoder = {stage.modality for stage in stages}
        self._has_state = {stage.modality for stage in stages if stage.name in with_state}
        specs = manifest.inputs()
        align = options["align"]
        self._policies = {m.name: align.get(m.name, Latest()) for m in manifest.modalities}
        self._axes = {
            m.name: {name: policy.axis_of(specs[name]) for name in m.inputs}
            for m in manifest.modalities
            if isinstance(policy := self._policies[m.name], Window)
        }
        self._turns = {
            m.name: policy.turns_of(m.inputs)
            for m in manifest.modalities
            if isinstance(policy := self._policies[m.name], Interpolate)
        }
        self._encoders = {m.name: _Encoder(m.name) for m in manifest.modalities}
        #: Features of runs with state, or in words why there are none.
        self._runs: dict[Any, Mapping[str, Any] | str] = {}
        self._chains: dict[str, _Chain] = {}
        self._state_differences: dict[Any, str] = {}

    # Encoders.

    def run_again(self, run: DumpRun) -> None:
        """Run an encoder with state again."""
        name, key = run.item.modality, (run.network, run.item)
        chain = self._chains.setdefault(f"modality {name}", _Chain())
        if run.network not in self._network:
            chain.leave(run.epoch, None)
            return
        try:
            states = chain.enter(run.epoch, run.states)
            item = self._make(run.item, Turn(states, run.epoch, 0, 0))
        except (_LackError, MMEdgeError) as lack:
            chain.leave(run.epoch, None)
            self._runs[key] = str(lack)
            return
        self._state_differences[key] = chain.difference
        outcome = self._compute.encode(self._encoders[name], item)
        if outcome.features is None:
            self._runs[key] = f"its encoder failed: {outcome.message}"
        else:
            self._runs[key] = outcome.features
        if run.held:
            # Others came between it and those of the window.
            chain.leave(run.epoch, None)
            return
        # One that failed leaves the state as it was.
        has_left = run.succeeded and outcome.features is not None
        chain.leave(run.epoch, outcome.states if has_left else states)

    def _features(self, item: DumpItem, network: int) -> Mapping[str, Any] | None:
        """What an encoder gives for an item; None: the modality has none."""
        if item.modality not in self._has_encoder:
            return None
        features: Mapping[str, Any] | str | None = self._runs.get((network, item))
        if features is None and item.modality in self._has_state:
            features = "the run of its encoder is not in the dump"
        if features is None:
            encoder = self._encoders[item.modality]
            features = encoder.features.get(item)
            if features is None:
                outcome = self._compute.encode(encoder, self._make(item))
                features = outcome.features
                if features is None:
                    features = f"its encoder failed: {outcome.message}"
                encoder.features[item] = features
                if len(encoder.features) > KEPT:
                    encoder.features.popitem(last=False)
        if isinstance(features, str):
            raise _LackError(f"modality {item.modality!r}: {features}")
        return features

    def _make(self, item: DumpItem, turn: Turn | None = None) -> Item:
        """An item of the stream, whose inputs are as they were."""
        values = self._inputs(item)
        made = Item((), 0.0, 0.0, {}, lambda: values, (), 0, turn=turn)
        made.features = None
        return made

    def _inputs(self, item: DumpItem) -> Mapping[str, Any]:
        samples = [self._sample(item.modality, seq) for seq in item.samples]
        if item.first_row is not None:
            return self._join(item, samples)
        if item.weight is not None:
            before, after = samples
            turns = self._turns[item.modality]
            return {
                name: blend(value, after.values[name], item.weight, *turns.get(name, ()))
                for name, value in before.values.items()
            }
        return samples[0].values

    def _join(self, item: DumpItem, samples: list[StreamSample]) -> Mapping[str, Any]:
        axes, policy = self._axes[item.modality], self._policies[item.modality]
        name, axis = next(iter(axes.items()))
        parts, start, left = [], item.first_row or 0, policy.length
        for sample in samples:
            stop = min(start + left, sample.values[name].shape[axis])
            parts.append((sample, slice(start, stop)))
            left -= stop - start
            start = 0
        return join_rows(parts, axes)

    def _sample(self, modality: str, seq: int) -> StreamSample:
        sample = self._dump.samples.get((modality, seq))
        if sample is None or sample.value is None:
            why = "it is not in the dump" if sample is None else sample.missing
            raise _LackError(f"sample {seq} of {modality!r} cannot be used: {why}")
        value = aligned_value(sample)
        values, sizes = self._feeds.check_modality(modality, value, self._axes.get(modality))
        return StreamSample(seq, sample.t, values, sizes)

    # Results.

    def compare(self, result: DumpResult) -> ComparedResult:
        """Compute a result again, and compare."""
        number, t = result.number, result.fields["t"]
        computed = result.computed
        if computed is None:
            why = result.fields["reason"]
            return ComparedResult(number, t, "not_computed", (why,))
        if result.network not in self._network:
            self._break_chains(result)
            other = self._dump.header["networks"][result.network]
            why = f"variant {other['variant']} of bundle {other['bundle']!r} computed it"
            return ComparedResult(number, t, "not_reproducible", (why,))
        try:
            outcome, words = self._fuse(result)
        except (_LackError, MMEdgeError) as lack:
            self._break_chains(result)
            return ComparedResult(number, t, "not_reproducible", (str(lack),))
        failure = f"fusion failed: {outcome.message}" if outcome.message else ""
        recorded = result.fields["reason"] if result.outputs is None else ""
        if failure != recorded and (failure or recorded.startswith("fusion failed")):
            words.append(f"failure: recorded {recorded!r:.200}, replayed {failure!r:.200}")
        words += compare_outputs(result.outputs, plain_outputs(outcome.outputs))
        words += self._compare_ages(result)
        return ComparedResult(number, t, "different" if words else "equal", tuple(words))

    def _break_chains(self, result: DumpResult) -> None:
        for stage in result.computed.turns if result.computed is not None else ():
            self._chains.pop(f"stage {stage}", None)

    def _fuse(self, result: DumpResult) -> tuple[Fused, list[str]]:
        computed = result.computed
        assert computed is not None  # noqa: S101 - for the type checker
        words = []
        items: dict[str, Item | None] = {}
        for name, chosen in computed.items.items():
            if chosen is None:
                items[name] = None
                continue
            features = self._features(chosen, result.network)
            items[name] = made = self._make(chosen)
            made.features = features
            if difference := self._state_differences.get((result.network, chosen)):
                words.append(f"modality {name!r}: {difference}")
        states: dict[str, Mapping[str, Array]] = {}
        chains = {
            stage: self._chains.setdefault(f"stage {stage}", _Chain()) for stage in computed.turns
        }
        for stage, (epoch, recorded) in computed.turns.items():
            entered = chains[stage].enter(epoch, recorded)
            if chains[stage].difference:
                words.append(f"stage {stage!r}: {chains[stage].difference}")
            if entered:
                states[stage] = entered[stage]
        outcome = self._compute.fuse(items, computed.sizes, states)
        if outcome.loop is not None:
            if computed.end is None:
                while self._compute.step(outcome):
                    pass
                self._compute.end(outcome)
            else:
                for _ in range(computed.steps):
                    self._compute.step(outcome)
                self._compute.end(outcome, *computed.end)
        for stage, chain in chains.items():
            epoch = computed.turns[stage][0]
            if outcome.outputs is not None and result.outputs is not None:
                chain.leave(epoch, {stage: outcome.states[stage]})
            else:
                # A failed run leaves the state as it was.
                chain.leave(epoch, {stage: states[stage]} if stage in states else {})
        return outcome, words

    def _compare_ages(self, result: DumpResult) -> list[str]:
        """Compare the ages to the stamps of the samples that were used."""
        words = []
        computed = result.computed
        if not self._has_ages or computed is None:
            return []
        for name, item in computed.items.items():
            recorded = result.fields["ages"].get(name)
            age = None
            if item is not None:
                if item.first_row is not None:
                    continue  # of its oldest row
                age = result.fields["t"] - self._dump.samples[name, item.samples[0]].t
            if age != recorded:
                words.append(f"age of {name!r}: recorded {recorded!r}, of its samples {age!r}")
        return words
