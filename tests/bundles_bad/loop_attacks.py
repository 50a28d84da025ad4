"""Attacks by way of the states and loops of manifest.json.

Each begins with a manifest that is good: the tiny network's score and a hidden output go into a
loop, ``generate`` or ``denoise``. :data:`GOOD` has both, so that a test can hold them for good.
"""

from __future__ import annotations

from bundles_bad.attack import Attack, on_manifest
from tiny import GRAPH, LABELS


def _tensor(name, dtype, *shape):
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def _limits(least, most):
    return {"min": least, "opt": max(least, 1), "max": most, "multiple": 1}


def _stage(name, inputs, outputs, **other):
    return {
        "name": name,
        "graph": GRAPH,
        "inputs": inputs,
        "outputs": outputs,
        "modality": None,
        "flops": 0,
        **other,
    }


def _state(**changes):
    return {
        "stage": "step",
        "input": "past",
        "output": "present",
        "axis": 1,
        "initial": "empty",
        "source": None,
        **changes,
    }


SCORE = _tensor("score", "float32", "batch", 2)


def generates(manifest):
    """The network's score goes into a step with a state that grows and one that does not."""
    manifest["stages"].append(
        _stage(
            "step",
            [
                SCORE,
                _tensor("token", "int64", "batch", "new"),
                _tensor("at", "int64", "new"),
                _tensor("past", "float32", "batch", "past", 4),
                _tensor("h", "float32", "batch", 2),
            ],
            [
                _tensor("logits", "float32", "batch", "new", 9),
                _tensor("present", "float32", "batch", "total", 4),
                _tensor("h_out", "float32", "batch", 2),
            ],
        )
    )
    manifest["dimensions"] |= {
        "new": _limits(1, 8),
        "past": _limits(0, 31),
        "total": _limits(1, 32),
    }
    manifest["states"] = [
        _state(),
        _state(input="h", output="h_out", axis=None, initial="output", source="score"),
    ]
    manifest["loops"] = [
        {
            "kind": "generate",
            "stage": "step",
            "token": "token",
            "logits": "logits",
            "limit": 16,
            "position": "at",
            "start": [1],
            "stop": [2],
            "suppress": [],
            "suppress_first": [3],
            "temperature": 0,
            "top_k": 0,
            "top_p": 1,
            "tokenizer": None,
            "whole_prompt": False,
        }
    ]
    manifest["samples"] = 0
    manifest["variants"][0]["files"]["step"] = GRAPH


def denoises(manifest):
    """The network's score guides a latent that a decoder turns into a picture."""
    latent = _tensor("latent", "float32", "batch", 4)
    manifest["stages"] += [
        _stage(
            "step",
            [SCORE, latent, _tensor("time", "int64", "batch")],
            [_tensor("noise", "float32", "batch", 4)],
        ),
        _stage("decoder", [latent], [_tensor("picture", "float32", "batch", 8)]),
    ]
    manifest["loops"] = [
        {
            "kind": "denoise",
            "stage": "step",
            "latent": "latent",
            "time": "time",
            "prediction": "noise",
            "schedule": [[9, 1, 1, -1, 1, 0, 0, 0, 0]] * 2,
            "initial_scale": 1,
            "clip": 1,
            "guidance": 2,
            "unconditional": ["score"],
            "decoder": "decoder",
        }
    ]
    manifest["samples"] = 0
    manifest["files"]["samples.safetensors"] = manifest["files"][LABELS]
    manifest["variants"][0]["files"] |= {"step": GRAPH, "decoder": GRAPH}


#: What every attack begins with, by kind of loop.
GOOD = {"generate": generates, "denoise": denoises}


def _on(prepare, change):
    def both(manifest):
        prepare(manifest)
        change(manifest)

    return on_manifest(both)


def _put(prepare, *keys, value):
    def change(manifest):
        at = manifest
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value

    return _on(prepare, change)


def _state_is(**changes):
    return _put(generates, "states", 0, value=_state(**changes))


def _loop_is(prepare, field, value):
    return _put(prepare, "loops", 0, field, value=value)


def _step_takes(at, tensor):
    return _put(generates, "stages", 1, "inputs", at, value=tensor)


def _step_gives(at, tensor):
    return _put(generates, "stages", 1, "outputs", at, value=tensor)


ATTACKS = [
    # States.
    Attack(
        "state of an unknown stage",
        r"\$\.states\[0\]\.stage: expected the name of a stage, got unknown 'other'",
        _state_is(stage="other"),
    ),
    Attack(
        "state of an unknown input",
        r"\$\.states\[0\]\.input: expected an input of 'step', got unknown tensor 'gone'",
        _state_is(input="gone"),
    ),
    Attack(
        "state of an unknown output",
        r"\$\.states\[0\]\.output: expected an output of 'step', got unknown tensor 'gone'",
        _state_is(output="gone"),
    ),
    Attack(
        "state in another stage's input",
        r"\$\.states\[0\]\.input: expected an input of 'step', got unknown tensor 'image'",
        _state_is(input="image"),
    ),
    Attack(
        "state that the network gives too",
        r"\$\.states\[0\]\.input: expected an input that nothing else gives, got 'score'",
        _state_is(input="score", axis=None, initial="zeros"),
    ),
    Attack(
        "one output for two states",
        r"\$\.states\[0\]\.output: expected a tensor of one state",
        _state_is(output="h_out"),
    ),
    Attack(
        "one input for two states",
        r"\$\.states\[0\]\.input: expected a tensor of one state",
        _state_is(input="h"),
    ),
    Attack(
        "state of another dtype",
        r"\$\.states\[0\]\.output: expected what past: float32.* takes, got present: float16",
        _step_gives(1, _tensor("present", "float16", "batch", "total", 4)),
    ),
    Attack(
        "state of another shape",
        r"\$\.states\[0\]\.output: expected what past: .* takes, got present: .*5\]",
        _step_gives(1, _tensor("present", "float32", "batch", "total", 5)),
    ),
    Attack(
        "state of another rank",
        r"\$\.states\[0\]\.output: expected what past",
        _step_gives(1, _tensor("present", "float32", "batch", "total")),
    ),
    Attack(
        "state that grows in secret",
        r"\$\.states\[0\]\.output: expected what past",
        _state_is(axis=None, initial="zeros"),
    ),
    Attack(
        "state that grows along an axis that is fixed",
        r"\$\.states\[0\]\.(axis|output): expected",
        _state_is(axis=2),
    ),
    Attack("state that grows along axis 9", r"\$\.states\[0\]\.axis", _state_is(axis=9)),
    Attack(
        "state that grows along an axis beyond its rank",
        r"\$\.states\[0\]\.(axis|output): expected",
        _state_is(axis=7),
    ),
    Attack(
        "state that grows from zeros",
        r"\$\.states\[0\]\.initial: expected another than zeros for a state that grows",
        _state_is(initial="zeros"),
    ),
    Attack(
        "state of one shape that begins empty",
        r"\$\.states\[1\]\.initial: expected empty only for a state that grows",
        _put(
            generates,
            "states",
            1,
            value=_state(input="h", output="h_out", axis=None, initial="empty"),
        ),
    ),
    Attack(
        "state that begins empty where nothing is not allowed",
        r"\$\.dimensions\['past'\]\.min: expected 0: the state begins empty",
        _put(generates, "dimensions", "past", value=_limits(1, 31)),
    ),
    Attack(
        "state that begins as it likes",
        r"\$\.states\[0\]\.initial: expected one of empty, zeros, stored, output",
        _state_is(initial="random"),
    ),
    Attack(
        "state with a source that it does not use",
        r"\$\.states\[0\]\.source: expected an output of the network where initial is 'output'",
        _state_is(source="score"),
    ),
    Attack(
        "state without the source that it needs",
        r"\$\.states\[0\]\.source: expected an output of the network where initial is 'output'",
        _state_is(initial="output"),
    ),
    Attack(
        "state with a source that is no output",
        r"\$\.states\[0\]\.source: expected an output of the network that a loop",
        _state_is(initial="output", source="logits"),
    ),
    Attack(
        "state with a source of another rank",
        r"\$\.states\[0\]\.source: expected what past: .* takes, got score",
        _state_is(initial="output", source="score"),
    ),
    Attack(
        "stored state without a samples file",
        r"\$\.states\[0\]\.initial: expected a file listed in \$\.files",
        _on(
            generates,
            lambda m: (
                m["states"].__setitem__(0, _state(initial="stored")),
                m["files"].pop("samples.safetensors", None),
            ),
        ),
    ),
    Attack(
        "4097 states",
        r"\$\.states: expected a list of 0 to 4096",
        _on(generates, lambda m: m["states"].extend([_state()] * 4096)),
    ),
    # Loops of both kinds.
    Attack(
        "two loops",
        r"\$\.loops: expected a list of 0 to 1",
        _on(generates, lambda m: m["loops"].append(m["loops"][0])),
    ),
    Attack(
        "loop of an unknown stage",
        r"\$\.loops\[0\]\.stage: expected the name of a stage, got unknown 'other'",
        _loop_is(generates, "stage", "other"),
    ),
    Attack(
        "loop of an encoder",
        r"\$\.loops\[0\]\.stage: expected a stage of no modality, got stage 'step' of .* 'image'",
        _put(generates, "stages", 1, "modality", value="image"),
    ),
    Attack(
        "loop over a stage of a plan",
        r"\$\.plans\[0\]\.stages\[1\]: expected the name of a stage, got 'step', a stage of a loop",
        _put(generates, "plans", value=[{"name": "cut", "stages": ["net", "step"]}]),
    ),
    Attack(
        "loop without a file",
        r"\$\.variants\[0\]\.files: expected a file for each stage of the loop, got none .* 'step'",
        _on(generates, lambda m: m["variants"][0]["files"].pop("step")),
    ),
    Attack(
        "loop that takes what nothing gives",
        r"\$\.stages\[1\]\.inputs\[0\]\.name: expected an input or output of the network, a state",
        _step_takes(0, _tensor("gone", "float32", "batch", 2)),
    ),
    Attack(
        "loop that takes an output in another shape",
        r"\$\.stages\[1\]\.inputs\[0\]: expected an output of the network, score",
        _step_takes(0, _tensor("score", "float32", "batch", 3)),
    ),
    Attack(
        "loop that gives what nobody uses",
        r"\$\.loops\[0\]\.stage: expected outputs that the loop or a state uses, got 'more'",
        _on(
            generates,
            lambda m: m["stages"][1]["outputs"].append(_tensor("more", "float32", "batch")),
        ),
    ),
    Attack(
        "loop that gives an input of the network",
        r"expected a name that only this stage yields|expected .*'logits'",
        _step_gives(0, _tensor("image", "float32", "batch", "new", 9)),
    ),
    # Tokens.
    Attack(
        "tokens from an unknown input",
        r"\$\.loops\[0\]\.token: expected an input of 'step', got unknown tensor 'gone'",
        _loop_is(generates, "token", "gone"),
    ),
    Attack(
        "tokens as floats",
        r"\$\.loops\[0\]\.token: expected an int32 or int64 input, .* got token: float32",
        _step_takes(1, _tensor("token", "float32", "batch", "new")),
    ),
    Attack(
        "tokens of rank 3",
        r"\$\.loops\[0\]\.token: expected an int32 or int64 input",
        _step_takes(1, _tensor("token", "int64", "batch", "new", 1)),
    ),
    Attack(
        "scores from an unknown output",
        r"\$\.loops\[0\]\.logits: expected an output of 'step', got unknown tensor 'gone'",
        _loop_is(generates, "logits", "gone"),
    ),
    Attack(
        "scores as integers",
        r"\$\.loops\[0\]\.logits: expected a float output",
        _step_gives(0, _tensor("logits", "int64", "batch", "new", 9)),
    ),
    Attack(
        "scores of rank 1",
        r"\$\.loops\[0\]\.logits: expected a float output",
        _step_gives(0, _tensor("logits", "float32", "batch")),
    ),
    Attack(
        "positions of another shape",
        r"\$\.loops\[0\]\.position: expected an int32 or int64 input, \[\], \[new\]",
        _step_takes(2, _tensor("at", "int64", "batch")),
    ),
    Attack(
        "positions from an unknown input",
        r"\$\.loops\[0\]\.position: expected an input of 'step'",
        _loop_is(generates, "position", "gone"),
    ),
    Attack(
        "no first token",
        r"\$\.loops\[0\]\.start: expected a token at least, since no modality gives the first",
        _loop_is(generates, "start", []),
    ),
    Attack(
        "a stop beyond the vocabulary",
        r"\$\.loops\[0\]\.stop: expected tokens of the vocabulary, 0 to 8, got 9",
        _loop_is(generates, "stop", [2, 9]),
    ),
    Attack(
        "a suppressed token beyond the vocabulary",
        r"\$\.loops\[0\]\.suppress: expected tokens of the vocabulary, 0 to 8, got 99",
        _loop_is(generates, "suppress", [99]),
    ),
    Attack(
        "a first token that is suppressed beyond the vocabulary",
        r"\$\.loops\[0\]\.suppress_first: expected tokens of the vocabulary",
        _loop_is(generates, "suppress_first", [9]),
    ),
    Attack(
        "a negative token",
        r"\$\.loops\[0\]\.start\[0\]: expected a whole number from 0",
        _loop_is(generates, "start", [-1]),
    ),
    Attack(
        "no limit",
        r"\$\.loops\[0\]\.limit: expected a whole number from 1 to 1048576, got null",
        _loop_is(generates, "limit", None),
    ),
    Attack(
        "a limit of 0",
        r"\$\.loops\[0\]\.limit: expected a whole number from 1 to 1048576, got 0",
        _loop_is(generates, "limit", 0),
    ),
    Attack(
        "a limit of a billion",
        r"\$\.loops\[0\]\.limit: expected a whole number from 1 to 1048576",
        _loop_is(generates, "limit", 10**9),
    ),
    Attack(
        "a temperature below 0",
        r"\$\.loops\[0\]\.temperature: expected a finite number from 0 to 100",
        _loop_is(generates, "temperature", -0.5),
    ),
    Attack(
        "top_k below 0",
        r"\$\.loops\[0\]\.top_k: expected a whole number",
        _loop_is(generates, "top_k", -1),
    ),
    Attack(
        "top_p of 0",
        r"\$\.loops\[0\]\.top_p: expected a finite number above 0",
        _loop_is(generates, "top_p", 0),
    ),
    Attack(
        "whole prompts as a number",
        r"\$\.loops\[0\]\.whole_prompt: expected true or false",
        _loop_is(generates, "whole_prompt", 1),
    ),
    Attack(
        "top_p above 1",
        r"\$\.loops\[0\]\.top_p: expected a finite number above 0 to 1",
        _loop_is(generates, "top_p", 1.5),
    ),
    Attack(
        "a tokenizer that is not there",
        r"\$\.loops\[0\]\.tokenizer: expected a file listed in \$\.files",
        _loop_is(generates, "tokenizer", "assets/gone.json"),
    ),
    Attack(
        "a tokenizer outside",
        r"\$\.loops\[0\]\.tokenizer: expected a relative path inside the bundle",
        _loop_is(generates, "tokenizer", "../tokenizer.json"),
    ),
    Attack(
        "a tokenizer that is a list of labels",
        r"labels\.json: .*expected an object",
        _loop_is(generates, "tokenizer", LABELS),
    ),
    # Latents.
    Attack(
        "latent from an unknown input",
        r"\$\.loops\[0\]\.latent: expected an input of 'step'",
        _loop_is(denoises, "latent", "gone"),
    ),
    Attack(
        "latent of whole numbers",
        r"\$\.loops\[0\]\.latent: expected a float32 input, got latent: int64",
        _put(denoises, "stages", 1, "inputs", 1, value=_tensor("latent", "int64", "batch", 4)),
    ),
    Attack(
        "time from an unknown input",
        r"\$\.loops\[0\]\.time: expected an input of 'step'",
        _loop_is(denoises, "time", "gone"),
    ),
    Attack(
        "time as a picture",
        r"\$\.loops\[0\]\.time: expected an int32, int64 or float32 input",
        _put(denoises, "stages", 1, "inputs", 2, value=_tensor("time", "int64", "batch", 4)),
    ),
    Attack(
        "a time that is no whole number",
        r"\$\.loops\[0\]\.schedule\[1\]\[0\]: expected a whole number, for time",
        _loop_is(denoises, "schedule", [[9, *[0] * 8], [0.5, *[0] * 8]]),
    ),
    Attack(
        "prediction of another shape",
        r"\$\.loops\[0\]\.prediction: expected what latent: .* takes, got noise",
        _put(denoises, "stages", 1, "outputs", 0, value=_tensor("noise", "float32", "batch", 5)),
    ),
    Attack(
        "prediction from an unknown output",
        r"\$\.loops\[0\]\.prediction: expected an output of 'step'",
        _loop_is(denoises, "prediction", "gone"),
    ),
    Attack(
        "an empty schedule",
        r"\$\.loops\[0\]\.schedule: expected a list of 1 to 4096",
        _loop_is(denoises, "schedule", []),
    ),
    Attack(
        "a schedule of 4097 steps",
        r"\$\.loops\[0\]\.schedule: expected a list of 1 to 4096",
        _loop_is(denoises, "schedule", [[0] * 9] * 4097),
    ),
    Attack(
        "a row of eight numbers",
        r"\$\.loops\[0\]\.schedule\[0\]: expected a list of 9 to 9",
        _loop_is(denoises, "schedule", [[0] * 8]),
    ),
    Attack(
        "a row with a huge number",
        r"\$\.loops\[0\]\.schedule\[0\]\[3\]: expected a finite number",
        _loop_is(denoises, "schedule", [[0, 0, 0, 1e30, 0, 0, 0, 0, 0]]),
    ),
    Attack(
        "noise of no size",
        r"\$\.loops\[0\]\.initial_scale: expected a finite number above 0",
        _loop_is(denoises, "initial_scale", 0),
    ),
    Attack(
        "a clip of 0",
        r"\$\.loops\[0\]\.clip: expected a finite number above 0",
        _loop_is(denoises, "clip", 0),
    ),
    Attack(
        "guidance without a second condition",
        r"\$\.loops\[0\]\.unconditional: expected tensors of the unconditional run",
        _loop_is(denoises, "unconditional", []),
    ),
    Attack(
        "a second condition without guidance",
        r"\$\.loops\[0\]\.unconditional: expected tensors of the unconditional run",
        _loop_is(denoises, "guidance", None),
    ),
    Attack(
        "a second condition that the step does not take",
        r"\$\.loops\[0\]\.unconditional\[0\]: expected an output of the network that 'step' takes",
        _loop_is(denoises, "unconditional", ["image"]),
    ),
    Attack(
        "a second condition twice",
        r"\$\.loops\[0\]\.unconditional\[0\]: expected a name used once",
        _loop_is(denoises, "unconditional", ["score", "score"]),
    ),
    Attack(
        "an unknown decoder",
        r"\$\.loops\[0\]\.decoder: expected the name of a stage, got unknown 'gone'",
        _loop_is(denoises, "decoder", "gone"),
    ),
    Attack(
        "a decoder that is the step",
        r"\$\.loops\[0\]\.decoder: expected another stage than the step's",
        _loop_is(denoises, "decoder", "step"),
    ),
    Attack(
        "a decoder that takes no latent",
        r"\$\.loops\[0\]\.decoder: expected a stage that takes it, got unknown tensor 'latent'",
        _put(denoises, "stages", 2, "inputs", value=[SCORE]),
    ),
    Attack(
        "a second condition without a samples file",
        r"\$\.loops\[0\]\.unconditional: expected a file listed in \$\.files",
        _on(denoises, lambda m: m["files"].pop("samples.safetensors")),
    ),
]
