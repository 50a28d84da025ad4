"""State and loops of a manifest: how they are read, and the rules they keep.

A bundle without them never loads this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmedge.loop_spec import SCHEDULE_COLUMNS, DenoiseLoop, GenerateLoop, StateSpec
from mmedge.schema.names import MAX_ELEMENTS, MAX_RANK, NAME, SAMPLES, TENSOR_NAME
from mmedge.schema.read import (
    Misfit,
    array,
    boolean,
    integer,
    members,
    nullable,
    number,
    one_of,
    path,
    record,
    show,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mmedge.schema.read import Reader
    from mmedge.spec import Manifest, Stage, TensorSpec

__all__ = ["MAX_LIMIT", "MAX_STEPS", "check", "check_stages", "loops", "references", "states"]

#: Most tokens that a loop may state as its limit, and most rows of a schedule.
MAX_LIMIT, MAX_STEPS = 2**20, 4096

#: Largest magnitude of a number in a schedule, of a clip and of a guidance.
MAX_COEFFICIENT = 1e6

_name, _tensor_name = text(NAME), text(TENSOR_NAME)
_tokens = array(integer(0, MAX_ELEMENTS))
_state = record(
    StateSpec,
    stage=_name,
    input=_tensor_name,
    output=_tensor_name,
    axis=nullable(integer(0, MAX_RANK - 1)),
    initial=one_of(("empty", "zeros", "stored", "output")),
    source=nullable(_tensor_name),
)
_generate = record(
    GenerateLoop,
    kind=one_of(("generate",)),
    stage=_name,
    token=_tensor_name,
    logits=_tensor_name,
    limit=integer(1, MAX_LIMIT),
    position=nullable(_tensor_name),
    start=_tokens,
    stop=_tokens,
    suppress=array(integer(0, MAX_ELEMENTS), most=MAX_LIMIT),
    suppress_first=array(integer(0, MAX_ELEMENTS), most=MAX_LIMIT),
    temperature=number(least=0, most=100),
    top_k=integer(0, MAX_ELEMENTS),
    top_p=number(above=0, most=1),
    tokenizer=nullable(path),
    whole_prompt=boolean,
)
_coefficient = number(least=-MAX_COEFFICIENT, most=MAX_COEFFICIENT)
_denoise = record(
    DenoiseLoop,
    kind=one_of(("denoise",)),
    stage=_name,
    latent=_tensor_name,
    time=_tensor_name,
    prediction=_tensor_name,
    schedule=array(
        array(_coefficient, least=len(SCHEDULE_COLUMNS), most=len(SCHEDULE_COLUMNS)),
        least=1,
        most=MAX_STEPS,
    ),
    initial_scale=number(above=0, most=MAX_COEFFICIENT),
    clip=nullable(number(above=0, most=MAX_COEFFICIENT)),
    guidance=nullable(_coefficient),
    unconditional=array(_tensor_name),
    decoder=nullable(_name),
)
_KINDS: Mapping[str, Reader[GenerateLoop | DenoiseLoop]] = {
    "generate": _generate,
    "denoise": _denoise,
}

states = array(_state)


def _loop(value: object, where: str) -> GenerateLoop | DenoiseLoop:
    # A loop of another kind is refused by its name: run once through, its stage would answer
    # wrongly and say nothing.
    kind = members(value, where).get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        expected = f"a loop that this version of mmedge runs: {' or '.join(_KINDS)}"
        raise Misfit(f"{where}.kind", expected, f"{show(kind)}; upgrade mmedge")
    return _KINDS[kind](value, where)


loops = array(_loop, most=1)


def check(manifest: Manifest) -> None:
    """Raise Misfit at the first rule on states and loops that ``manifest`` breaks."""
    for i, state in enumerate(manifest.states):
        _check_state(manifest, state, f"$.states[{i}]")
    for i, loop in enumerate(manifest.loops):
        if loop.kind == "generate":
            _check_generate(manifest, loop, f"$.loops[{i}]")
        else:
            _check_denoise(manifest, loop, f"$.loops[{i}]")
    _check_sources(manifest)


def references(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Paths of files that states and loops name, each with its JSON path."""
    for i, state in enumerate(manifest.states):
        if state.initial == "stored":
            yield f"$.states[{i}].initial", SAMPLES
    for i, loop in enumerate(manifest.loops):
        if loop.kind == "denoise":
            if loop.unconditional:
                yield f"$.loops[{i}].unconditional", SAMPLES
        elif loop.tokenizer is not None:
            yield f"$.loops[{i}].tokenizer", loop.tokenizer


def check_stages(manifest: Manifest) -> None:
    """Raise Misfit unless a loop's stages exist, are different, and belong to no modality.

    Before rules on plans, which say of every other stage that it is in one.
    """
    by_name = {stage.name: stage for stage in manifest.stages}
    for i, loop in enumerate(manifest.loops):
        fields = {"stage": loop.stage}
        if loop.kind == "denoise" and loop.decoder is not None:
            fields["decoder"] = loop.decoder
        for field, name in fields.items():
            where = f"$.loops[{i}].{field}"
            if name not in by_name:
                raise Misfit(where, "the name of a stage", f"unknown {name!r}")
            if (modality := by_name[name].modality) is not None:
                got = f"stage {name!r} of modality {modality!r}"
                raise Misfit(where, "a stage of no modality", got)
        if len(set(fields.values())) < len(fields):
            raise Misfit(f"$.loops[{i}].decoder", "another stage than the step's", loop.stage)


def _check_state(manifest: Manifest, state: StateSpec, where: str) -> None:
    """A state is an input and an output of one stage, alike but for the axis that grows."""
    stage = next((stage for stage in manifest.stages if stage.name == state.stage), None)
    if stage is None:
        raise Misfit(f"{where}.stage", "the name of a stage", f"unknown {state.stage!r}")
    taken = _tensor(stage.inputs, state.input, f"{where}.input", f"an input of {stage.name!r}")
    given = _tensor(stage.outputs, state.output, f"{where}.output", f"an output of {stage.name!r}")
    for field in ("input", "output"):
        others = [getattr(s, field) for s in manifest.states if s.stage == state.stage]
        if others.count(getattr(state, field)) > 1:
            raise Misfit(f"{where}.{field}", "a tensor of one state", show(getattr(state, field)))
    network_inputs = [name for modality in manifest.modalities for name in modality.inputs]
    makers = [s.name for s in manifest.stages for spec in s.outputs if spec.name == state.input]
    if state.input in network_inputs or makers:
        got = f"{state.input!r}, which {makers[0] if makers else 'a modality'} gives"
        raise Misfit(f"{where}.input", "an input that nothing else gives", got)
    if taken.dtype != given.dtype or not _shapes_fit(taken.shape, given.shape, state.axis):
        raise Misfit(f"{where}.output", f"what {taken} takes", str(given))
    if state.axis is not None and (
        state.axis >= len(taken.shape)
        or isinstance(taken.shape[state.axis], int)
        or isinstance(given.shape[state.axis], int)
    ):
        raise Misfit(f"{where}.axis", "null or an axis that is dynamic in both tensors", f"{taken}")
    if state.axis is not None:
        size = taken.shape[state.axis]
        if state.initial == "empty" and manifest.dimensions[str(size)].min:
            raise Misfit(f"$.dimensions[{size!r}].min", "0: the state begins empty", "more")
    if (state.initial == "empty") > (state.axis is not None):
        raise Misfit(f"{where}.initial", "empty only for a state that grows", "no axis")
    if state.initial == "zeros" and state.axis is not None:
        raise Misfit(f"{where}.initial", "another than zeros for a state that grows", "zeros")
    if (state.source is None) == (state.initial == "output"):
        expected = "an output of the network where initial is 'output', else null"
        raise Misfit(f"{where}.source", expected, show(state.source))
    if state.source is not None:
        if state.source not in manifest.outputs or state.stage not in _names_in_loop(manifest):
            expected = "an output of the network that a loop's stage begins with"
            raise Misfit(f"{where}.source", expected, show(state.source))
        source = _plan_outputs(manifest)[state.source]
        if source.dtype != taken.dtype or len(source.shape) != len(taken.shape):
            raise Misfit(f"{where}.source", f"what {taken} takes", str(source))


def _shapes_fit(
    taken: tuple[int | str, ...], given: tuple[int | str, ...], axis: int | None
) -> bool:
    return len(taken) == len(given) and all(
        at == axis or a == b for at, (a, b) in enumerate(zip(taken, given, strict=True))
    )


def _check_generate(manifest: Manifest, loop: GenerateLoop, where: str) -> None:
    stage = next(s for s in manifest.stages if s.name == loop.stage)
    token = _tensor(stage.inputs, loop.token, f"{where}.token", f"an input of {stage.name!r}")
    if token.dtype not in ("int32", "int64") or len(token.shape) not in (1, 2):
        expected = "an int32 or int64 input, [batch] or [batch, new]"
        raise Misfit(f"{where}.token", expected, str(token))
    logits = _tensor(stage.outputs, loop.logits, f"{where}.logits", f"an output of {stage.name!r}")
    fits = len(logits.shape) in (2, len(token.shape) + 1)
    if not logits.dtype.startswith("float") or not fits or logits.shape[0] != token.shape[0]:
        expected = "a float output, [batch, vocabulary] or [batch, new, vocabulary]"
        raise Misfit(f"{where}.logits", expected, str(logits))
    if loop.position is not None:
        _check_position(stage, loop.position, token, f"{where}.position")
    words = logits.shape[-1]
    for field in ("start", "stop", "suppress", "suppress_first"):
        for token_id in getattr(loop, field):
            if isinstance(words, int) and token_id >= words and field != "start":
                expected = f"tokens of the vocabulary, 0 to {words - 1}"
                raise Misfit(f"{where}.{field}", expected, str(token_id))
    prompted = any(loop.token in modality.inputs for modality in manifest.modalities)
    if not loop.start and not prompted:
        expected = "a token at least, since no modality gives the first"
        raise Misfit(f"{where}.start", expected, "none")
    outputs = {loop.logits, *(s.output for s in manifest.states if s.stage == stage.name)}
    _check_outputs(stage, outputs, where)


def _check_position(stage: Stage, name: str, token: TensorSpec, where: str) -> None:
    position = _tensor(stage.inputs, name, where, f"an input of {stage.name!r}")
    shapes = ((), token.shape[1:], token.shape)
    if position.dtype not in ("int32", "int64") or position.shape not in shapes:
        raise Misfit(
            where, "an int32 or int64 input, [], [new] or of the token's shape", f"{position}"
        )


def _check_denoise(manifest: Manifest, loop: DenoiseLoop, where: str) -> None:
    stage = next(s for s in manifest.stages if s.name == loop.stage)
    latent = _tensor(stage.inputs, loop.latent, f"{where}.latent", f"an input of {stage.name!r}")
    if latent.dtype != "float32":
        raise Misfit(f"{where}.latent", "a float32 input", str(latent))
    prediction = _tensor(
        stage.outputs, loop.prediction, f"{where}.prediction", f"an output of {stage.name!r}"
    )
    if (prediction.dtype, prediction.shape) != (latent.dtype, latent.shape):
        raise Misfit(f"{where}.prediction", f"what {latent} takes", str(prediction))
    time = _tensor(stage.inputs, loop.time, f"{where}.time", f"an input of {stage.name!r}")
    if time.dtype not in ("int32", "int64", "float32") or time.shape not in (
        (),
        (1,),
        latent.shape[:1],
    ):
        expected = "an int32, int64 or float32 input, [], [1] or [batch]"
        raise Misfit(f"{where}.time", expected, str(time))
    if time.dtype != "float32":
        for i, row in enumerate(loop.schedule):
            if not row[0].is_integer():
                at = f"{where}.schedule[{i}][0]"
                raise Misfit(at, f"a whole number, for {time}", f"{row[0]:g}")
    if (loop.guidance is None) != (not loop.unconditional):
        expected = "tensors of the unconditional run where there is a guidance, else none"
        raise Misfit(f"{where}.unconditional", expected, f"{len(loop.unconditional)}")
    constants = _plan_outputs(manifest)
    for i, name in enumerate(loop.unconditional):
        if name not in constants or all(spec.name != name for spec in stage.inputs):
            expected = f"an output of the network that {stage.name!r} takes"
            raise Misfit(f"{where}.unconditional[{i}]", expected, show(name))
        if loop.unconditional.count(name) > 1:
            raise Misfit(f"{where}.unconditional[{i}]", "a name used once", show(name))
    outputs = {loop.prediction, *(s.output for s in manifest.states if s.stage == stage.name)}
    _check_outputs(stage, outputs, where)
    if loop.decoder is not None:
        decoder = next(s for s in manifest.stages if s.name == loop.decoder)
        spec = _tensor(decoder.inputs, loop.latent, f"{where}.decoder", "a stage that takes it")
        if spec != latent:
            raise Misfit(f"{where}.decoder", f"a stage that takes {latent}", str(spec))


def _check_outputs(stage: Stage, used: set[str], where: str) -> None:
    for spec in stage.outputs:
        if spec.name not in used:
            expected = "outputs that the loop or a state uses"
            raise Misfit(f"{where}.stage", expected, f"{spec.name!r} of {stage.name!r}")


def _check_sources(manifest: Manifest) -> None:
    """Stages of a loop take what the network, its inputs, states and the loop give."""
    sources = {*manifest.inputs(), *_plan_outputs(manifest), *manifest.step_inputs()}
    outputs = _plan_outputs(manifest)
    in_loop = manifest.loop_stages()
    for i, stage in enumerate(manifest.stages):
        if stage not in in_loop:
            continue
        for j, spec in enumerate(stage.inputs):
            where = f"$.stages[{i}].inputs[{j}]"
            if spec.name not in sources:
                expected = "an input or output of the network, a state, or what the loop gives"
                raise Misfit(f"{where}.name", expected, f"unknown tensor {spec.name!r}")
            other = outputs.get(spec.name)
            if other is not None and (other != spec or spec.name not in manifest.outputs):
                raise Misfit(where, f"an output of the network, {other}", str(spec))
        for j, spec in enumerate(stage.outputs):
            if spec.name in sources or any(
                spec.name == o.name for s in in_loop if s is not stage for o in s.outputs
            ):
                where = f"$.stages[{i}].outputs[{j}].name"
                raise Misfit(where, "a name that only this stage yields", show(spec.name))


def _plan_outputs(manifest: Manifest) -> dict[str, TensorSpec]:
    """Outputs of the stages that are in a plan, by name."""
    in_loop = _names_in_loop(manifest)
    return {
        spec.name: spec
        for stage in manifest.stages
        if stage.name not in in_loop
        for spec in stage.outputs
    }


def _names_in_loop(manifest: Manifest) -> set[str]:
    return {stage.name for stage in manifest.loop_stages()}


def _tensor(specs: tuple[TensorSpec, ...], name: str, where: str, expected: str) -> TensorSpec:
    for spec in specs:
        if spec.name == name:
            return spec
    raise Misfit(where, expected, f"unknown tensor {name!r}")
