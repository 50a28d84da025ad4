"""A few of the onnx package's own tests for each reason for which files were refused or crashed.

``benchmarks/onnx_backend.py`` runs all of them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

# By its path: modules of the benchmarks have names that tests' own have too.
_FILE = Path(__file__).parents[3] / "benchmarks" / "onnx_backend.py"
_SPEC = importlib.util.spec_from_file_location("onnx_backend", _FILE)
onnx_backend = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(onnx_backend)

#: Taken from the file alone, and with the test's inputs as the example.
TAKEN = [
    "node/test_compress_1",
    "node/test_nonzero_example",
    "node/test_unique_not_sorted_without_axis",
    "node/test_constantofshape_float_ones",
    "node/test_range_int32_type_negative_delta",
    "node/test_reshape_extended_dims",
    "node/test_slice",
    "node/test_expand_dim_changed",
    "node/test_tile",
    "node/test_squeeze",
    "node/test_unsqueeze_two_axes",
    "node/test_top_k",
    "node/test_onehot_with_axis",
    "node/test_resize_upsample_scales_nearest",
    "node/test_scatternd",
    "node/test_gather_negative_indices",
    "node/test_reduce_sum_do_not_keepdims_random",
    "node/test_split_variable_parts_2d_opset18",
    "node/test_triu_pos",
    "node/test_cumsum_1d",
    "node/test_if",
    "node/test_loop11",
    "node/test_scan9_sum",
    "node/test_bitwise_and_i16_3d",
    "node/test_bitshift_right_uint32",
    "node/test_add_uint64",
    "node/test_reduce_sum_empty_set",
    "node/test_triu_zero",
    "node/test_reduce_max_bool_inputs",
    "node/test_isinf",
    "node/test_log",
    "node/test_acosh",
    "node/test_ai_onnx_ml_array_feature_extractor",
    "node/test_lstm_with_peepholes",
    "node/test_nonmaxsuppression_limit_output_size",
    "pytorch-converted/test_Conv2d",
    "pytorch-operator/test_operator_reduced_mean",
]

#: Refused from the file alone, by rule.
REFUSED = {
    "dtype": "node/test_string_concat",
    "container": "node/test_sequence_insert_at_front node/test_split_to_sequence_1",
    "no-inputs": "node/test_constant",
    "training": "node/test_batchnorm_example_training_mode",
    "operator": "node/test_stft node/test_unique_sorted_with_axis "
    "node/test_tfidfvectorizer_tf_only_bigrams_skip0",
    "example": "node/test_col2im",
}


@pytest.fixture(scope="module")
def cases():
    state = np.random.get_state()  # noqa: NPY002 - the tests draw from it
    found = onnx_backend.cases()
    np.random.set_state(state)  # noqa: NPY002
    return found


def write(case, folder: Path):
    data, sets = onnx_backend.files(case)
    expected = onnx_backend.plain(data, sets)
    assert not isinstance(expected, str), expected
    path = folder / "net.onnx"
    path.write_bytes(data)
    return path, expected


@pytest.mark.parametrize("name", TAKEN)
def test_a_model_is_taken(name, cases, tmp_path):
    path, expected = write(cases[name], tmp_path)
    assert onnx_backend.outcome(path, expected, None) == {"what": "taken"}
    feeds = expected[0][0]
    assert onnx_backend.outcome(path, expected, feeds) == {"what": "taken"}


@pytest.mark.parametrize(
    ("rule", "name"), [(rule, name) for rule, names in REFUSED.items() for name in names.split()]
)
def test_a_model_is_refused_by_a_rule(rule, name, cases, tmp_path):
    path, expected = write(cases[name], tmp_path)
    found = onnx_backend.outcome(path, expected, None)
    assert (found["what"], found.get("rule")) == ("refused", rule), found
