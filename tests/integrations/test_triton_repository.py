"""``mmedge triton`` writes what a bundle takes and gives; a server's tests are in integrations/."""

from __future__ import annotations

import ast
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given
from hypothesis import strategies as st
from typer import Typer
from typer.testing import CliRunner

import mmedge
from mmedge_triton import write_model
from mmedge_triton.command import triton
from mmedge_triton.model_config import DATA_TYPES, config_text, model_config

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = ROOT / "conformance" / "cases" / "bundles"


def config_of(name: str):
    with mmedge.Bundle.open(BUNDLES / f"{name}.mmedge") as bundle:
        return model_config(bundle.manifest, "served")


def shown(tensors) -> list[tuple]:
    return [(one.name, one.data_type, one.dims, one.optional) for one in tensors]


def test_modalities_become_inputs_and_a_text_stands_beside_its_tokens():
    config = config_of("sums")
    assert shown(config.inputs) == [
        ("image", "TYPE_UINT8", (-1, 2, 2, 3), False),
        ("text", "TYPE_STRING", (1,), True),
        ("ids", "TYPE_INT64", (-1, 6), True),
        ("mask", "TYPE_BOOL", (-1, 6), True),
        ("pcm", "TYPE_FP32", (-1, -1), True),
        ("state", "TYPE_FP32", (-1, 2), True),
    ]
    assert shown(config.outputs) == [
        ("out", "TYPE_FP32", (-1, 1), False),
        ("seen", "TYPE_FP32", (-1, 1), False),
    ]
    assert config.texts == {"text": "text"}


def test_text_has_a_name_of_its_own_where_the_tokens_have_the_modalitys():
    with mmedge.Bundle.open(BUNDLES / "sums.mmedge") as bundle:
        manifest = bundle.manifest
    text = manifest.modalities[1]
    renamed = replace(text, name="ids")
    modalities = tuple(renamed if one is text else one for one in manifest.modalities)
    config = model_config(replace(manifest, modalities=modalities), "served")
    assert config.texts == {"ids_string": "ids"}
    assert [one.name for one in config.inputs][1:4] == ["ids_string", "ids", "mask"]


def test_loops_give_what_a_call_of_them_gives():
    generated = [
        ("tokens", "TYPE_INT64", (-1, -1), False),
        ("lengths", "TYPE_INT64", (-1,), False),
        ("finish", "TYPE_STRING", (-1,), False),
    ]
    assert shown(config_of("captioner").outputs) == generated
    text = ("text", "TYPE_STRING", (-1,), False)
    assert shown(config_of("completer").outputs) == [*generated, text]
    mean = ("mean", "TYPE_FP32", (-1, 5), False)
    assert shown(config_of("speller").outputs) == [*generated, mean]
    finish = ("finish", "TYPE_STRING", (1,), False)
    assert shown(config_of("painter").outputs)[-1] == finish
    assert shown(config_of("policy").outputs)[0][0] == "latent"


def test_every_dtype_of_a_bundle_has_a_type_of_triton():
    from mmedge.spec import DTYPES

    assert DATA_TYPES.keys() == DTYPES.keys()


@pytest.mark.parametrize("name", ["recurrent", "state", "growing", "fusion-state"])
def test_state_from_call_to_call_is_refused_by_name(name):
    with pytest.raises(mmedge.InputError, match=r"keeps state from call to call \(\w+.*Embed"):
        config_of(name)


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_is_the_same_in_protobufs_text_format(text):
    lines = config_text(replace(config_of("tiny"), parameters={"key": text})).splitlines()
    value = lines[lines.index('  key: "key"') + 1]
    quoted = value.removeprefix("  value: { string_value: ").removesuffix(" }")
    assert text_format.Parse(f"value: {quoted}", StringValue()).value == text


def test_model_is_copied_and_may_be_replaced_only_if_it_was_written_here(tmp_path):
    source = tmp_path / "sums.mmedge"
    shutil.copyfile(BUNDLES / "sums.mmedge", source)
    model = write_model(source, tmp_path / "models", threads=2, instances=3)
    assert model.path == tmp_path / "models" / "sums"
    assert model.bundle.read_bytes() == source.read_bytes()
    text = (model.path / "config.pbtxt").read_text()
    assert "count: 3" in text
    assert "max_batch_size: 0" in text
    with pytest.raises(FileExistsError, match=r"sums exists$"):
        write_model(source, tmp_path / "models")
    other = write_model(source, tmp_path / "models", reference=True, overwrite=True)
    assert other.bundle == source
    assert sorted(file.name for file in (model.path / "1").iterdir()) == ["model.py"]
    (tmp_path / "models" / "mine").mkdir()
    with pytest.raises(FileExistsError, match="not written by mmedge triton"):
        write_model(source, tmp_path / "models", name="mine", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["mine", "sums"]


def test_folder_is_copied_whole_and_without_what_devices_keep(tmp_path):
    source = shutil.copytree(BUNDLES / "tiny", tmp_path / "tiny")
    (tmp_path / "tiny.cache").mkdir()
    model = write_model(source, tmp_path / "models")
    assert model.bundle.name == "bundle"
    with mmedge.Bundle.open(model.bundle) as copied, mmedge.Bundle.open(source) as first:
        assert copied.digest == first.digest


def test_what_cannot_be_served_leaves_no_model(tmp_path):
    source = tmp_path / "b.mmedge"
    data = bytearray((BUNDLES / "sums.mmedge").read_bytes())
    data[data.index(b"onnx") + 200] ^= 1
    source.write_bytes(bytes(data))
    with pytest.raises(mmedge.BundleError):
        write_model(source, tmp_path / "models")
    bundle = BUNDLES / "sums.mmedge"
    for options, error, words in (
        ({"variant": "ort-int4-cpu"}, mmedge.InputError, "no variant 'ort-int4-cpu'"),
        ({"plan": "whole"}, mmedge.InputError, "has the plan 'whole'"),
        ({"name": "../up"}, ValueError, "a model's name has"),
        ({"name": ".hidden"}, ValueError, "a model's name has"),
        ({"instances": 0}, ValueError, "must be >= 1"),
        ({"threads": 0}, ValueError, "must be >= 1"),
    ):
        with pytest.raises(error, match=words):
            write_model(bundle, tmp_path / "models", **options)
    assert not list(tmp_path.glob("models/*"))


def test_key_that_did_not_sign_leaves_no_model(tmp_path):
    source = tmp_path / "sums.mmedge"
    shutil.copyfile(BUNDLES / "sums.mmedge", source)
    private, public, _ = mmedge.generate_key(tmp_path / "release")
    with pytest.raises(mmedge.SignatureError, match="not signed"):
        write_model(source, tmp_path / "models", trusted_keys=[public])
    mmedge.sign_bundle(source, private, version=3)
    with pytest.raises(mmedge.SignatureError, match="version 3"):
        write_model(source, tmp_path / "models", trusted_keys=[public], lowest_version=4)
    assert not list(tmp_path.glob("models/*"))
    model = write_model(source, tmp_path / "models", trusted_keys=[public], lowest_version=3)
    # The key stays where it is: the repository holds what it proves.
    assert str(public) in model.config.parameters["trusted_keys"]
    assert sorted(path.name for path in (model.path / "1").iterdir()) == [
        "bundle.mmedge",
        "model.py",
    ]


def test_command_says_what_is_served_and_what_is_not(tmp_path):
    app = Typer()
    app.command()(triton)
    words = [str(BUNDLES / "completer.mmedge"), "-o", str(tmp_path / "models")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    for line in (
        "input text: TYPE_STRING [1], optional",
        "output text: TYPE_STRING [-1]",
        "instances: 1, CPU threads of each: the backend's default",
        "not served: steps of the loop as they come",
        "not served: streams",
        "bundle.mmedge (copied)",
    ):
        assert line in done.output
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2
    assert "--overwrite replaces it" in " ".join(again.output.replace("│", " ").split())


def test_package_imports_public_names_of_mmedge_alone():
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    public = {"mmedge", "mmedge.spec"}
    for path in (ROOT / "integrations" / "triton" / "mmedge_triton").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            assert not {name for name in names if name.startswith("mmedge.")}, path
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mmedge."):
                for one in node.names:
                    name = f"{node.module}.{one.name}"
                    assert node.module in public or f"{name}\n" in page, f"{path}: {name}"
