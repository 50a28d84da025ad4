"""Commands of the page on checkpoints of transformers, in order; and factories that init writes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import huggingface_networks as checkpoints
from typer.testing import CliRunner

import mmedge
from mmedge.cli.app import build_app
from mmedge_export.sources.loader import draft_source, load_source

PAGE = Path(__file__).resolve().parents[3] / "docs" / "howto" / "huggingface.md"


def test_commands_of_the_page(tmp_path, monkeypatch):
    """In this process, since tests let transformers import a torchvision of another torch."""
    checkpoints.save(checkpoints.vit, tmp_path / "checkpoint")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    commands = [line for block in blocks for line in block.splitlines() if line[:7] == "mmedge "]
    assert len(commands) == 5
    for line in commands:
        words = shlex.split(line, comments=True)[1:]
        if Path("model.mmedge").exists() and words[0] == "export":
            words.append("--overwrite")
        result = CliRunner().invoke(build_app(), words)
        assert result.exit_code == 0, f"{line}: {result.output}"
    assert mmedge.load("model.mmedge") is not None


def test_init_writes_a_factory_of_the_same_model(tmp_path):
    checkpoints.save(checkpoints.bert, tmp_path / "net")
    output = tmp_path / "factory.py"
    draft = draft_source(f"hf:{tmp_path / 'net'}", None, output)
    assert draft.fill_in == ()
    output.write_text(draft.text)
    model = load_source(f"{output}:factory").model
    assert list(model.inputs) == ["input_ids", "attention_mask"]
    assert model.dims == {"batch": (1, 8), "tokens": (1, 40)}


def test_init_begins_a_factory_for_a_class_that_is_not_taken(tmp_path):
    checkpoints.save(checkpoints.xlstm, tmp_path / "net")
    draft = draft_source(f"hf:{tmp_path / 'net'}", None, tmp_path / "factory.py")
    assert "xLSTMForCausalLM.from_pretrained(checkpoint, use_safetensors=True)" in draft.text
    assert "mmedge does not take the class by itself" in draft.text
    assert draft.fill_in
    compile(draft.text, "factory.py", "exec")
