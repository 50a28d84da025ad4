"""Steps that are none, and loops that do not fit their model, are refused with their fix."""

from __future__ import annotations

from dataclasses import replace

import loop_networks as networks
import numpy as np
import pytest
import torch
from torch import nn

from mmedge.errors import ExportError
from mmedge_export import Generate, Input, Model, StateInput, export


class Base(networks.Writer):
    """A decoder whose results a test spoils."""

    def forward(self, input_ids, position_ids, past_k, past_v):
        logits, k, v = super().forward(input_ids, position_ids, past_k, past_v)
        return self.spoil(logits, k, v, past_k)


class Shorter(Base):
    def spoil(self, logits, k, v, past):
        return logits, k[..., 1:], v


class Flat(Base):
    def spoil(self, logits, k, v, past):
        return logits.flatten(), k, v


class Blind(Base):
    def spoil(self, logits, k, v, past):
        return logits * 0 + past.sum(), k, v


class Writes(Base):
    def spoil(self, logits, k, v, past):
        past.mul_(0.5)
        return logits, k, v


class Remembers(Base):
    calls = 0

    def spoil(self, logits, k, v, past):
        self.calls += 1
        return logits + self.calls, k, v


class Forgetful(networks.Writer):
    """Gives the new state and attends to nothing of it."""

    def forward(self, input_ids, position_ids, past_k, past_v):
        nothing = past_k[:, :, :0]
        logits, k, v = super().forward(input_ids, position_ids, nothing, nothing)
        return logits, torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)


class CountsFromZero(networks.Writer):
    """Numbers new tokens from 0, whatever came before."""

    def forward(self, input_ids, position_ids, past_k, past_v):
        places = torch.arange(input_ids.shape[1]) + position_ids * 0
        return super().forward(input_ids, places, past_k, past_v)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": Shorter()}, r"state 'past_k': a run takes float32 \[1, 4, 0, 8\] and gives"),
        ({"step": Flat()}, r"expected floats \[1, 'vocabulary'\] or \[1, 4, 'vocabulary'\]"),
        ({"step": Forgetful()}, "stays the same whatever the states are"),
        ({"step": Blind()}, "stays the same whatever 'input_ids' is"),
        ({"step": Writes()}, "the step writes to its input 'past_k'; a state is returned"),
        ({"step": Remembers()}, "the network is not deterministic"),
        ({"step": CountsFromZero()}, "8 tokens at once are not what they are one after another"),
        ({"stop": [40]}, "stop has token 40, but 'logits' scores 40 tokens, 0 to 39"),
        ({"suppress": [99]}, "suppress has token 99"),
        ({"start": [77]}, "the network itself fails"),
        ({"step": networks.Writer(room=9)}, "room for fewer tokens, lower limit"),
        ({"dims": {"future": (0, 9)}}, "dims names 'future', but the step has no dynamic"),
    ],
)
def test_what_is_no_step_is_refused(options, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        export(networks.continued(**options), tmp_path / "net")


def test_a_table_of_positions_that_is_as_long_as_a_run_is_enough(tmp_path):
    # 16 of the caller, 9 chosen, of which the last is not fed again.
    export(networks.continued(step=networks.Writer(room=24)), tmp_path / "net").close()


class Unnamed(nn.Module):
    def forward(self, tokens, past_k, past_v, mystery):
        return tokens


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": [-1]}, "stop has -1; token ids are 0 or more"),
        ({"limit": 0}, "limit is 0; expected 1 to"),
        ({"temperature": -1}, "temperature -1"),
        ({"top_p": 0}, "top_p 0"),
        ({"suppress": [2]}, "token 2 is in stop and in suppress"),
        ({"start": []}, "nothing to begin with: give start, or make 'input_ids' one of"),
        ({"token": "ids"}, "Decoder.forward takes no 'ids'; its parameters are"),
        ({"state": {"past_k": "present_k"}}, "begins as output 'past_k', which is none of"),
        ({"state": {"past_k": StateInput("past_k", (1, 2))}}, "'past_k' names two tensors"),
        ({"state": {}}, "Decoder.forward needs 'past_k', which is no output or input"),
        ({"step": Unnamed(), "token": "tokens"}, "Unnamed.forward needs 'mystery'"),
        ({"logits": "image_k"}, "'image_k' is one of Model.outputs too"),
        ({"token_shape": (1, 2, 3)}, "token_shape is"),
        ({"token_dtype": "float32"}, "token_dtype is 'float32'"),
        ({"tokenizer": "no/such.json"}, "no tokenizer at no/such.json"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(options, message):
    with pytest.raises(ExportError, match=message):
        networks.captions(**options)


def test_models_that_do_not_fit_their_loop_are_refused_at_once():
    model = networks.captions()
    for changes, message in (
        ({"loop": "generate"}, "expected Generate or Denoise, got str"),
        ({"state": networks.CACHE}, "a model with a loop has its states in the loop"),
        ({"module": None}, "there is no module to give them"),
        ({"outputs": []}, "name what module returns"),
        ({"module": None, "loop": None}, "None is for a model with a loop"),
        ({"loop": None, "outputs": []}, "expected a list of at least one name"),
    ):
        with pytest.raises(ExportError, match=message):
            replace(model, **changes)
    with pytest.raises(ExportError, match="step is function; expected a torch.nn.Module"):
        Generate(lambda: None, start=[1])
    prompt = Input(np.ones((1, 4), np.int64), required=False)
    with pytest.raises(ExportError, match="may be absent, and start is empty"):
        Model(None, {"input_ids": prompt}, loop=replace(networks.continued().loop))
    with pytest.raises(ExportError, match="has rank 1; the caller's tokens"):
        Model(
            None,
            {"input_ids": Input(np.ones(4, np.int64))},
            loop=replace(networks.continued().loop),
        )


def test_an_input_that_nobody_takes_is_refused(tmp_path):
    model = networks.prefixed()
    inputs = {**model.inputs, "depth": Input(networks.floats(1, 3))}
    with pytest.raises(ExportError, match="'depth': neither module nor step takes it"):
        export(replace(model, inputs=inputs), tmp_path / "net")
