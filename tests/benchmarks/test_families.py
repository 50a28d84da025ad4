"""The count of multimodal classes: tiny configurations, results of single classes, tables."""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
sys.path.append(str(Path(__file__).parents[2] / "benchmarks/networks"))
sys.path.append(str(Path(__file__).parents[2] / "docs"))

import families
import families_table
from family_check import other_size, reference_outputs, special_tokens
from huggingface_networks import hf
from multimodal_classes import Candidate, modalities_of_parameters
from tiny_configs import VOCABULARY, tiny_config


@pytest.mark.parametrize("name", ["Qwen2VLForConditionalGeneration", "LlavaModel"])
def test_a_configuration_becomes_small_and_fits(name):
    kind = getattr(hf, name)
    config = tiny_config(kind.config_class)
    with torch.device("meta"):
        network = kind(config)
    assert sum(value.numel() for value in network.parameters()) < 500_000
    assert len(special_tokens(config)) > 2
    assert max(special_tokens(config)) < VOCABULARY
    rope = config.text_config.rope_parameters
    assert sum(rope.get("mrope_section", [8])) == 8  # half of a head's width


def test_one_token_has_one_id_in_every_part():
    config = tiny_config(hf.PaliGemmaConfig)
    assert config.image_token_id == tiny_config(hf.LlavaConfig).image_token_id


def test_modalities_follow_from_parameters():
    assert modalities_of_parameters(["pixel_values", "input_ids", "pixel_values_videos"]) == (
        "image",
        "text",
        "video",
    )
    assert modalities_of_parameters(["pixel_values", "pixel_attention_mask"]) == ("image",)
    assert modalities_of_parameters(["input_features", "decoder_input_ids"]) == ("audio", "text")


def work(name):
    def taken(folder):
        return {"result": "taken", "reason": "", "kind": "generate", "modalities": ["image"]}

    def refused(folder):
        return {"result": "refused", "reason": f"XModel in {folder.name}: 7 of 9; write a factory"}

    def crash(folder):
        raise ValueError("a fault of the trial")

    def endless(folder):
        while time.monotonic():
            pass

    return {"taken": taken, "refused": refused, "crash": crash, "endless": endless}[name]


@pytest.fixture(scope="module")
def results():
    limits = {"endless": 1}
    return {
        name: {
            "name": f"{name.title()}Model",
            "commit": "1",
            **families.run_apart(work(name), limits.get(name, 60)),
        }
        for name in ("taken", "refused", "crash", "endless")
    }


def test_each_class_has_a_result_whatever_its_process_does(results):
    assert {name: each["result"] for name, each in results.items()} == {
        "taken": "taken",
        "refused": "refused",
        "crash": "wrong",
        "endless": "not tried",
    }
    assert results["crash"]["reason"] == "the trial itself: ValueError: a fault of the trial"
    assert results["endless"]["reason"] == "no end after 1 s of processor time"


def test_reasons_are_grouped_without_names_and_numbers(results):
    again = {**results["refused"], "reason": "YForThat in work: 8 of 3; write a factory"}
    text = families.groups([*results.values(), again])
    assert "## 2 refused: X in work: N of N; write a factory\n" in text
    assert "## 1 not tried: no end after N s of processor time" in text
    assert "- taken: TakenModel (generate)" in text


def test_the_tables_say_what_became_of_each_class(results, tmp_path):
    progress = tmp_path / "progress.jsonl"
    old = {**results["refused"], "result": "wrong"}
    progress.write_text(
        "".join(json.dumps(each) + "\n" for each in [old, *results.values()]), encoding="utf-8"
    )
    classes = [
        Candidate("TakenModel", "a", ("image", "video", "text"), ("image", "text"), head=False),
        Candidate("RefusedModel", "a", ("image", "text"), ("image", "text"), head=False),
        Candidate("CrashModel", "b", ("image", "text"), ("image", "text"), head=False),
        Candidate("NewModel", "c", ("image", "text"), ("image", "text"), head=False),
        Candidate("TowerModel", "a", ("image", "text"), ("image",), head=False),
    ]
    data = families.summarize(
        classes, {each["name"]: each for each in families.read_progress(progress).values()}
    )
    assert data["classes"] == {
        "all": 4, "taken": 1, "in part": 0, "read": 0, "refused": 1, "wrong": 1, "not tried": 1
    }  # fmt: skip
    assert data["families"]["refused"] == data["families_in_part"]["taken"] == 1
    assert "| classes | 1 (25%) | 0 (0%) | 0 (0%) | 1 (25%) |" in families_table.short(data)
    table = families_table.long(data)
    assert "| a | `TakenModel` | taken | image (generate); without video |" in table
    assert "| a | `RefusedModel` | refused | XModel in work: 7 of 9; write a factory |" in table
    assert "| c | `NewModel` | not tried | not run yet |" in table
    assert table.endswith("such as the vision tower of a family; they do not count: `TowerModel`.")


def test_another_size_is_within_the_limits():
    class Limited:
        dims = {"batch": (1, 2), "tokens": (1, None), "one": (2, 2)}

    sizes = [other_size(Limited, name, size, 1) for name, size in
             (("batch", 2), ("tokens", 7), ("one", 2))]  # fmt: skip
    assert sizes == [1, 8, 2]


def test_random_draws_are_held_in_order():
    class Shuffled(torch.nn.Module):
        def forward(self, places, return_dict):
            return {"places": places[torch.multinomial(torch.ones(len(places)), len(places))]}

    model = SimpleNamespace(module=None, outputs=["places"])
    values = {"places": torch.arange(40)}
    answer, words = reference_outputs(Shuffled(), model, values, {})
    assert answer["places"].tolist() == list(range(40))
    assert words == "the network, its random draws in order"
