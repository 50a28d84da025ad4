"""What a Model refuses before anything runs."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from mmedge.errors import ExportError
from mmedge.spec import Dimension
from mmedge_export import Input, Model
from mmedge_export.capture import probe_inputs

ONE = np.zeros((1, 4), np.float32)
FIVE = np.zeros(5, np.float32)
IDS = np.zeros((1, 4), np.int64)

X = {"x": Input(ONE)}


def model(inputs: dict, **kwargs) -> Model:
    return Model(nn.Identity(), inputs, kwargs.pop("outputs", ["y"]), **kwargs)


def refused(pattern: str, inputs: dict, **kwargs) -> None:
    with pytest.raises(ExportError, match=pattern):
        model(inputs, **kwargs)


@pytest.fixture
def tokenizer(tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    path = tmp_path / "tokenizer.json"
    Tokenizer(WordLevel({"[UNK]": 0, "red": 1}, unk_token="[UNK]")).save(str(path))
    return path


def test_tensors_become_arrays_and_negative_axes_positive_ones():
    value = Input(
        torch.ones(2, 3, requires_grad=True),
        dynamic={-2: "batch"},
        required=False,
        absent="token",
        absent_token=torch.zeros(1, 3),
    )
    assert isinstance(value.example, np.ndarray)
    assert isinstance(value.absent_token, np.ndarray)
    assert value.shape() == ("batch", 3)
    model({"x": value})


def test_dimensions_have_limits_and_the_examples_size():
    value = Input(np.zeros((2, 5), np.float32), dynamic={0: "batch", 1: "time"})
    made = model({"x": value}, dims={"time": (3, 9)})
    assert made.dimensions() == {"batch": Dimension(1, 2, None), "time": Dimension(3, 5, 9)}


@pytest.mark.parametrize("dtype", ["complex64", "datetime64[s]", "U3"])
def test_a_dtype_that_no_bundle_holds_is_refused(dtype):
    refused(
        "input 'x': dtype .* is not supported; use one of bool, float16",
        {"x": Input(np.zeros(3, dtype))},
    )


def test_bfloat16_is_refused_by_name():
    refused(
        "input 'x': .*got Tensor torch.bfloat16", {"x": Input(torch.zeros(3, dtype=torch.bfloat16))}
    )


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        (
            r"dynamic axis 2 \('t'\) is out of range for an example of rank 2",
            Input(ONE, dynamic={2: "t"}),
        ),
        (r"dynamic axis -3 \('t'\) is out of range", Input(ONE, dynamic={-3: "t"})),
        ("dynamic dimension of axis 0 needs a name", Input(ONE, dynamic={0: "a b"})),
        (r"the example is empty \[0, 4\]", Input(np.zeros((0, 4), np.float32))),
        ("the example must be a NumPy array.*got list", Input([1.0])),
        ("absent must be zeros, token or last, got 'noise'", Input(ONE, absent="noise")),
        ("absent_token is missing", Input(ONE, absent="token")),
        ("absent_token is given", Input(ONE, absent_token=ONE)),
        (
            r"broadcast to \[1, 4\], got float32 \[3\]",
            Input(ONE, absent="token", absent_token=ONE[0, :3]),
        ),
        ("must be float32 .*got int64", Input(ONE, absent="token", absent_token=IDS)),
        ("rank 9, a bundle holds up to 8", Input(np.zeros((1,) * 9, np.float32))),
        ("tokenizer .*no.json cannot be read", Input(IDS, tokenizer="no.json")),
    ],
)
def test_an_input_is_refused_by_name(pattern, value):
    refused(f"input 'x': .*{pattern}|input 'x': {pattern}", {"x": value})


@pytest.mark.parametrize(
    ("pattern", "inputs", "kwargs"),
    [
        ("expected a mapping of at least one name", {}, {}),
        ("input 'x': expected an Input, got ndarray", {"x": ONE}, {}),
        ("outputs: expected a list of at least one name, got 'y'", X, {"outputs": "y"}),
        ("outputs: expected a list", X, {"outputs": []}),
        ("the name 'x' is used more than once", X, {"outputs": ["x"]}),
        ("need a name of the form .*got 'a b'", {"a b": Input(ONE)}, {}),
        ("a modality needs a name of the form", {"x": Input(ONE, modality="a/b")}, {}),
        ("labels are given for 'z', which is no output", X, {"labels": {"z": ["a"]}}),
        ("dims names 't', but no input has .*there are: none", X, {"dims": {"t": (1, 2)}}),
        (
            r"dims\['t'\] is \(5, 9\): expected 0 <= smallest <= size in the example \(4\)",
            {"x": Input(ONE, dynamic={1: "t"})},
            {"dims": {"t": (5, 9)}},
        ),
        (
            "dynamic dimension 't' is 4 in the example of 'x' but 5 in that of 'z'",
            {"x": Input(ONE, dynamic={1: "t"}), "z": Input(FIVE, dynamic={0: "t"})},
            {},
        ),
    ],
)  # fmt: skip
def test_a_model_is_refused(pattern, inputs, kwargs):
    refused(pattern, inputs, **kwargs)


@pytest.mark.parametrize(
    ("what", "one", "other"),
    [
        ("required", True, False),
        ("rate_hz", 10.0, None),
        ("max_age_ms", 5.0, 6.0),
        ("absent", "last", "zeros"),
        ("sample_rate_hz", 16000, 8000),
    ],
)
def test_inputs_of_one_modality_must_agree(what, one, other):
    inputs = {
        "a": Input(ONE, modality="m", **{what: one}),
        "b": Input(ONE, modality="m", **{what: other}),
    }
    refused(f"modality 'm': inputs 'a' and 'b' disagree on {what}", inputs)


def test_a_tokenizer_needs_integer_ids(tokenizer):
    refused(
        "input 'x': a tokenizer feeds int32 or int64 .*float32",
        {"x": Input(ONE, tokenizer=tokenizer)},
    )


def test_a_tokenizer_fills_ids_and_one_mask_of_their_shape(tokenizer):
    ids = Input(IDS, modality="text", tokenizer=tokenizer)
    mask = Input(np.ones((1, 4), np.bool_), modality="text")
    assert model({"ids": ids, "mask": mask}).modalities() == {"text": ("ids", "mask")}
    refused("fills the ids and at most one mask", {"ids": ids, "mask": mask, "types": mask})
    other = Input(np.ones((1, 5), np.bool_), modality="text")
    refused("the mask 'mask' .* must have the shape of the ids", {"ids": ids, "mask": other})


def test_a_tokenizer_fills_a_batch_of_token_sequences(tokenizer):
    refused(
        r"input 'x': a tokenizer feeds token ids \[batch, tokens\], .* rank 1 \[4\]",
        {"x": Input(IDS[0], tokenizer=tokenizer, dynamic={0: "tokens"})},
    )


def test_padding_that_may_be_a_word_is_refused(tokenizer):
    from tokenizers import Tokenizer

    refused(
        "input 'x': text is padded to 4 tokens, but .* does not say with which id",
        {"x": Input(IDS, tokenizer=tokenizer)},
    )
    assert model({"x": Input(IDS, tokenizer=tokenizer, dynamic={1: "tokens"})})
    padded = Tokenizer.from_file(str(tokenizer))
    padded.enable_padding(pad_id=0, pad_token="[UNK]")
    padded.save(str(tokenizer))
    assert model({"x": Input(IDS, tokenizer=tokenizer)})


def test_two_tokenizers_in_one_modality_are_refused(tokenizer, tmp_path):
    copy = tmp_path / "copy.json"
    copy.write_text(json.dumps(json.loads(tokenizer.read_text())))
    inputs = {
        "a": Input(IDS, modality="text", tokenizer=tokenizer),
        "b": Input(IDS, modality="text", tokenizer=copy),
    }
    refused("name other tokenizers", inputs)


def test_a_module_must_be_one():
    with pytest.raises(ExportError, match="expected a torch.nn.Module or the path .* got function"):
        Model(lambda x: x, {"x": Input(ONE)}, ["y"])
    with pytest.raises(ExportError, match="no ONNX file at missing.onnx"):
        Model("missing.onnx", {"x": Input(ONE)}, ["y"])


def test_regrouping_names_modalities():
    made = model({"a": Input(ONE), "b": Input(ONE), "c": Input(ONE, modality="k")})
    assert made.regrouped({"m": ["a", "b"]}).modalities() == {"m": ("a", "b"), "k": ("c",)}
    with pytest.raises(ExportError, match=re.escape("'z' is no input; the inputs are a, b, c")):
        made.regrouped({"m": ["z"]})
    with pytest.raises(ExportError, match="'a' is named twice"):
        made.regrouped({"m": ["a"], "n": ["a"]})


def test_a_mask_of_an_example_or_a_sample_is_not_dropped():
    masked = np.ma.masked_array(ONE, ONE == 0)
    refused("the example is a masked array", {"x": Input(masked)})
    with pytest.raises(ExportError, match="sample 0, input 'x': a masked array"):
        probe_inputs.check(model({"x": Input(ONE)}), {"x": masked}, "sample 0")
