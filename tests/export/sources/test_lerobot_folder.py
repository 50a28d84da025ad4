"""What a policy's folder says, and what is refused of one."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys

import lerobot_policies as policies
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mmedge.errors import ExportError
from mmedge_export.sources.lerobot.policy_folder import read_policy
from mmedge_export.sources.lerobot.processor import PREPROCESSOR, read_processor
from mmedge_export.sources.loader import draft_source, load_source
from mmedge_export.sources.source import SourceOptions

MODES = ("MEAN_STD", "MIN_MAX", "QUANTILES", "IDENTITY")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "policy"
    policies.act(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "policy")


def change(file, edit):
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("mode", MODES)
def test_normalization_is_that_of_lerobot(mode, tmp_path):
    """Both ways, also where a value never changed in the data."""
    types = policies.types
    features = {
        "observation.state": types.PolicyFeature(types.FeatureType.STATE, (policies.STATE,)),
        "action": types.PolicyFeature(types.FeatureType.ACTION, (policies.ACTION,)),
    }
    modes = {kind: types.NormalizationMode(mode) for kind in ("STATE", "ACTION")}
    stats = policies.statistics(np.random.default_rng(8))
    for name in ("observation.state", "action"):
        for what in ("max", "q99"):
            stats[name][what][0] = stats[name][{"max": "min", "q99": "q01"}[what]][0]
    steps = [
        policies.processor.NormalizerProcessorStep(features, modes, stats),
        policies.processor.UnnormalizerProcessorStep(features, modes, stats),
    ]
    for step, name in zip(steps, ("before", "behind"), strict=True):
        policies.processor.PolicyProcessorPipeline([step], name=name).save_pretrained(tmp_path)
    state = torch.tensor(np.random.default_rng(9).uniform(-90, 90, (4, policies.STATE))).float()
    action = torch.tensor(np.random.default_rng(9).uniform(-1, 1, (4, 3, policies.ACTION))).float()
    before = read_processor(tmp_path, "before.json").normalizations
    behind = read_processor(tmp_path, "behind.json").normalizations
    if mode == "IDENTITY":
        assert before == behind == {}
        return
    expected = steps[0]._normalize_observation({"observation.state": state}, inverse=False)
    torch.testing.assert_close(before["observation.state"](state), expected["observation.state"])
    expected = steps[1]._normalize_action(action, inverse=True)
    torch.testing.assert_close(behind["action"](action), expected)
    torch.testing.assert_close(
        before["observation.state"].inverse()(before["observation.state"](state))[:, 1:],
        state[:, 1:],
    )


def test_the_frame_rate_of_the_training(folder, tmp_path):
    (unknown,) = load_source(f"lerobot:{folder}").not_checked
    assert "the rate of front, wrist, state" in unknown
    (unknown,) = load_source(
        f"lerobot:{folder}", SourceOptions(rates={"front": 30, "state": 30})
    ).not_checked
    assert "the rate of wrist: " in unknown
    data = tmp_path / "data" / "meta"
    data.mkdir(parents=True)
    (data / "info.json").write_text('{"fps": 50}')
    training = folder / "train_config.json"
    training.write_text(json.dumps({"dataset": {"repo_id": "a/b", "root": str(data.parent)}}))
    source = read_policy(folder)
    assert source.rate_hz == 50
    assert "50 values a second" in source.remarks[0]
    training.write_text(json.dumps({"env": {"fps": 10}}))
    source_model = load_source(f"lerobot:{folder}")
    assert {value.rate_hz for value in source_model.model.inputs.values()} == {10}
    assert source_model.not_checked == ()


def test_names_before_the_first_step(folder):
    """A robot whose camera has another name than in the data."""

    def rename(content):
        content["steps"][0]["config"]["rename_map"] = {
            "observation.images.top": "observation.images.front"
        }

    change(folder / PREPROCESSOR, rename)
    assert list(load_source(f"lerobot:{folder}").model.inputs) == ["top", "wrist", "state"]


def test_init_writes_a_factory_of_the_same_model(folder, tmp_path):
    output = tmp_path / "factory.py"
    draft = draft_source(f"lerobot:{folder}", None, output)
    assert draft.fill_in == ()
    output.write_text(draft.text)
    model = load_source(f"{output}:factory").model
    assert list(model.inputs) == ["front", "wrist", "state"]
    assert model.dims == {"batch": (1, 2)}


def refusal(folder):
    with pytest.raises(ExportError) as caught:
        read_policy(folder)
    return str(caught.value)


def test_folders_that_are_no_policy(folder):
    assert "no folder at" in refusal(folder / "nowhere")
    change(folder / "config.json", lambda content: content.update(type="tdmpc"))
    assert "is of type 'tdmpc'; expected one of act" in refusal(folder)
    change(folder / "config.json", lambda content: content.update(type="act", color="red"))
    assert "lerobot cannot make the policy 'act'" in refusal(folder)


def test_weights_that_are_not_there(folder):
    weights = load_file(folder / "model.safetensors")
    gone = "model.action_head.bias"
    save_file({k: v for k, v in weights.items() if k != gone}, folder / "model.safetensors")
    assert gone in refusal(folder)
    save_file({**weights, gone: torch.zeros(3)}, folder / "model.safetensors")
    assert "does not fit config.json" in refusal(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "no model.safetensors" in refusal(folder)


def test_processors_that_are_refused(folder):
    def add_step(content):
        content["steps"].append({"class": "os.system", "config": {"command": "true"}})

    def steal(content):
        content["steps"][-1]["state_file"] = "../model.safetensors"

    file = folder / PREPROCESSOR
    text = file.read_text()
    change(file, add_step)
    assert "the step 'os.system' cannot become a part of the graph" in refusal(folder)
    file.write_text(text)
    change(file, steal)
    assert "no file '../model.safetensors'" in refusal(folder)
    file.unlink()
    assert "migrate_policy_normalization" in refusal(folder)


def test_without_lerobot(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "lerobot", None)
    assert "pip install --no-deps lerobot==0.4.4" in refusal(folder)


def test_stand_ins_are_gone_afterwards(folder):
    """Whoever imports these modules later gets the real ones, or learns that there are none."""
    read_policy(folder)
    for name in ("lerobot.datasets", "lerobot.configs.train", "lerobot.policies"):
        assert name not in sys.modules
    if importlib.util.find_spec("datasets") is None:
        assert "datasets" not in sys.modules
    assert not any(type(finder).__name__ == "_StandIns" for finder in sys.meta_path)
