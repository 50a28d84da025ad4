"""Bundles served by a real Triton server answer as they do here, and refuse what does not fit."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from clients import PROTOCOLS, Client, refusal
from echo_bundle import write_echo
from server import serve
from tritonclient.utils import InferenceServerException

import mmedge
from mmedge.spec import DTYPES
from mmedge_triton import write_model

ROOT = Path(__file__).resolve().parents[3]
BUNDLES = ROOT / "conformance" / "cases" / "bundles"
#: One request, each kind of dtype, several modalities, NaN, sizes that depend on each other; loops
#: with and without text.
NAMES = (
    "attention", "both", "byte-level", "captioner", "completer", "floats", "painter", "poses",
    "prompted", "sizes", "speller", "sums", "tiny", "word-level",
)  # fmt: skip
#: Processes of this model.
INSTANCES = 2


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    """A repository of all bundles; the first is written by the command."""
    folder = tmp_path_factory.mktemp("repository")
    command = [
        Path(sys.prefix) / "bin" / "mmedge", "triton", BUNDLES / "sums.mmedge", "-o", folder,
        "--threads", "1", "--instances", str(INSTANCES),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"instances: {INSTANCES}, CPU threads of each: 1" in done.stdout
    for name in NAMES:
        if name != "sums":
            write_model(BUNDLES / f"{name}.mmedge", folder, threads=1)
    # A bundle that is a folder, read where it is.
    write_model(BUNDLES / "tiny", folder, name="folder", threads=1, reference=True)
    write_model(write_echo(tmp_path_factory.mktemp("echo") / "echo.mmedge"), folder, threads=1)
    write_model(BUNDLES / "floats.mmedge", folder, name="any", threads=1, allow_non_finite=True)
    return folder


@pytest.fixture(scope="session")
def server(repository, tmp_path_factory):
    options = (
        "--model-control-mode=explicit", "--load-model=*", "--disable-auto-complete-config",
    )  # fmt: skip
    with serve(repository, tmp_path_factory.mktemp("server") / "run", *options) as running:
        yield running


@pytest.fixture
def control(server):
    """What loads and unloads models, which is the same over both protocols."""
    with closing(Client(server, "http")) as one:
        yield one


@pytest.fixture(params=PROTOCOLS)
def client(request, server):
    with closing(Client(server, request.param)) as one:
        yield one


def load(name: str) -> mmedge.Pipeline:
    return mmedge.load(BUNDLES / f"{name}.mmedge", threads=1)


def sent(value):
    """A result of a call as the server sends it."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        return np.array([text.encode() for text in value], np.object_)
    return value


def assert_same(answer, expected) -> None:
    assert list(answer) == list(expected)
    for name, value in expected.items():
        wanted, got = sent(value), answer[name]
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape), name
        if wanted.dtype == object:
            assert got.tolist() == wanted.tolist()
        else:
            assert got.tobytes() == wanted.tobytes(), name


@pytest.mark.parametrize("name", NAMES)
def test_golden_samples_are_answered_as_here_to_the_bit(client, name):
    with load(name) as pipe:
        samples = pipe.bundle.samples()
        # Three of the bundles have none: tests below call them.
        assert samples or name in ("completer", "prompted", "speller")
        for sample in samples:
            assert_same(client.call(name, sample.inputs), pipe.run(sample.inputs))


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_every_dtype_comes_back_with_and_without_a_dimension(client, count):
    rng = np.random.default_rng(count)
    inputs = {}
    for name, dtype in DTYPES.items():
        for kind, size in (("one", 1), ("many", count)):
            values = rng.integers(0, 256, size * dtype.itemsize, np.uint8).view(dtype)
            if dtype.kind == "f":
                values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
            elif dtype.kind == "b":
                values = rng.integers(0, 2, size).astype(dtype)
            # The server has no tensors without a dimension.
            inputs[f"{name}_{kind}"] = values
    answer = client.call("echo", inputs)
    assert len(answer) == 2 * len(DTYPES)
    for name, values in inputs.items():
        back = answer[f"{name}_back"]
        assert (back.dtype, back.shape) == (values.dtype, values.shape), name
        assert back.tobytes() == values.tobytes(), name


def test_bundle_that_is_a_folder_is_served_where_it_is(client, repository):
    assert not (repository / "folder" / "1" / "bundle").exists()
    with load("tiny") as pipe:
        inputs = pipe.bundle.samples()[0].inputs
        assert_same(client.call("folder", inputs), pipe.run(inputs))


def test_optional_modalities_may_be_left_out(client):
    with load("sums") as pipe:
        inputs = pipe.bundle.samples()[0].inputs
        for left_out in (("pcm",), ("state",), ("ids", "mask"), ("pcm", "state", "ids", "mask")):
            rest = {name: value for name, value in inputs.items() if name not in left_out}
            assert_same(client.call("sums", rest), pipe.run(rest))


def test_text_is_taken_where_there_is_a_tokenizer(client):
    with load("sums") as pipe:
        image = pipe.bundle.samples()[0].inputs["image"][:1]
        texts = [client.call("sums", {"image": image, "text": text}) for text in ("red", "blue")]
        for answer, text in zip(texts, ("red", "blue"), strict=True):
            assert_same(answer, pipe(image=image, text=text))


def test_text_that_is_cut_is_told_in_the_log_each_time(client, server):
    told = "a text of 2700 characters is cut to 6 tokens"
    before = server.words().count(told)
    with load("word-level") as pipe, pytest.warns(UserWarning, match=told):
        expected = pipe(text="red ball " * 300)
    for _ in range(2):
        assert_same(client.call("word-level", {"text": "red ball " * 300}), expected)
    deadline = time.monotonic() + 30
    while server.words().count(told) < before + 2:
        assert time.monotonic() < deadline, "the server's log does not tell"
        time.sleep(0.02)


def test_example_of_the_page_runs(server):
    page = (ROOT / "docs" / "howto" / "serve.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    # The page's network has other names.
    for there, here in (
        ("localhost:8000", server.http), ('"vqa"', '"sums"'), ('"text_string"', '"text"'),
        ('as_numpy("answer")', 'as_numpy("out")'),
    ):  # fmt: skip
        assert there in block
        block = block.replace(there, here)
    names = {"frame": np.zeros((1, 2, 2, 3), np.uint8)}
    exec(block, names)
    names["client"].close()
    with load("sums") as pipe:
        expected = pipe(image=names["frame"], text="what color is the shape?")
    assert names["answer"].tobytes() == expected["out"].tobytes()


def test_loop_gives_text_and_takes_its_options(client):
    with load("completer") as pipe:
        whole = client.call("completer", {"text": "a b"})
        assert_same(whole, pipe(text="a b"))
        assert whole["text"].shape == (1,)
        assert whole["text"][0]
        options = {"limit": 5, "temperature": 2.0, "seed": 3, "top_k": 4}
        drawn = client.call("completer", {"text": "a b"}, **options)
        assert_same(drawn, pipe(text="a b", **options))
        assert drawn["tokens"].shape == (1, 5)
        assert drawn["tokens"].tobytes() != whole["tokens"][:, :5].tobytes()


def test_loops_without_text_are_served(client):
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(2, 3, 6)).astype(np.float32)
    tokens = np.array([[1, 2], [2, 1]], np.int64)
    sound = rng.normal(size=(1, 4, 5)).astype(np.float32)
    for name, inputs in (
        ("prompted", {"image": frames}),
        ("prompted", {"image": frames, "tokens": tokens}),
        ("speller", {"sound": sound}),
        ("painter", {"condition": np.ones((1, 3), np.float32)}),
    ):
        with load(name) as pipe:
            assert_same(client.call(name, inputs), pipe.run(inputs))


def test_what_does_not_fit_is_the_clients_fault_and_says_so(client):
    image = np.zeros((1, 2, 2, 3), np.uint8)
    state = np.zeros((1, 2), np.float32)
    for inputs, words in (
        # The server knows these by the configuration.
        ({"image": image[0]}, "Expected [-1,2,2,3], got [2,2,3]"),
        ({"image": image.astype(np.float32)}, "data-type is 'FP32', but model 'sums' expects"),
        ({}, "missing required input(s) ['image']"),
        ({"image": image, "odor": state}, "unexpected inference input 'odor'"),
        ({"image": image, "text": np.array([b"a", b"b"], np.object_)}, "Expected [1], got [2]"),
        # mmedge knows these.
        ({"image": np.zeros((0, 2, 2, 3), np.uint8)}, "'batch' may be 1 to 8 in this bundle"),
        ({"image": np.zeros((9, 2, 2, 3), np.uint8)}, "'batch' may be 1 to 8 in this bundle"),
        ({"image": np.repeat(image, 2, 0), "state": state}, "axis 0 is dimension 'batch'"),
        ({"image": image, "ids": np.zeros((1, 6), np.int64)}, "missing input 'mask' of modality"),
        ({"image": image, "text": b"\xff"}, "input 'text': a text in UTF-8 is expected"),
        (
            {"image": image, "text": "a", "ids": np.zeros((1, 6), np.int64)},
            "input 'ids' is given twice",
        ),
        ({"image": image, "state": np.full_like(state, np.nan)}, "input 'state': NaN at [0, 0]"),
        ({"image": image, "state": np.full_like(state, np.inf)}, "'state': infinity at [0, 0]"),
    ):
        assert words in refusal(client, "sums", inputs), inputs
    assert "missing input 'tokens' of modality 'text'" in refusal(client, "completer", {})
    # The process that refused answers the next request.
    with load("sums") as pipe:
        assert_same(client.call("sums", {"image": image}), pipe(image=image))


def test_parameters_that_are_no_options_of_the_bundle_are_refused(client):
    image, text = {"image": np.zeros((1, 2, 2, 3), np.uint8)}, {"text": "a b"}
    assert "a bundle without a loop" in refusal(client, "sums", image, limit=3)
    for name in ("cached", "state", "forced", "noise", "stop", "odor"):
        words = refusal(client, "completer", text, **{name: 1})
        assert f"parameter {name!r}: a request may state limit, seed" in words
    for options in ({"limit": 0}, {"limit": 1000}, {"limit": "many"}, {"temperature": -1.0}):
        assert "InputError" in refusal(client, "completer", text, **options)


def test_deadline_without_a_result_says_that_it_may_be_tried_again(client):
    condition = {"condition": np.ones((1, 3), np.float32)}
    with pytest.raises(InferenceServerException) as raised:
        client.call("painter", condition, deadline_ms=0)
    assert raised.value.status() in ("503", "StatusCode.UNAVAILABLE")
    assert "the deadline passed" in raised.value.message()


def test_non_finite_values_pass_where_the_model_was_written_so(client):
    inputs = {name: np.full((1, 4), np.nan, np.float32) for name in ("plain", "gaps", "mask")}
    assert "NaN" in refusal(client, "floats", inputs)
    path = BUNDLES / "floats.mmedge"
    with mmedge.load(path, threads=1, allow_non_finite=True) as pipe:
        assert_same(client.call("any", inputs), pipe.run(inputs))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_clients_at_the_same_time_get_the_answers_to_their_own_requests(server, protocol):
    rng = np.random.default_rng(1)
    requests = [
        {
            "image": rng.integers(0, 256, (batch, 2, 2, 3), np.uint8),
            "state": rng.normal(size=(batch, 2)).astype(np.float32),
        }
        for batch in rng.integers(1, 9, 80)
    ]

    def ask(part):
        with closing(Client(server, protocol)) as client:
            return [client.call("sums", requests[index]) for index in range(part, 80, 8)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    with load("sums") as pipe:
        for part, given in enumerate(answers):
            for index, answer in zip(range(part, 80, 8), given, strict=True):
                assert_same(answer, pipe.run(requests[index]))


def processes_of(model: str) -> list[int]:
    """Processes of a model's instances."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"triton_python_backend_stub" in words[0] and any(
            f"/{model}/".encode() in word for word in words
        ):
            found.append(int(folder.name))
    return found


def await_end(model: str) -> None:
    """Wait until no process of a model is left: the server says that it unloads before it does."""
    deadline = time.monotonic() + 30
    while processes_of(model):
        assert time.monotonic() < deadline, f"{model} still has processes"
        time.sleep(0.02)


def test_model_that_is_unloaded_is_freed_and_may_come_again(control, repository):
    image = {"image": np.zeros((1, 2, 2, 3), np.uint8)}
    model = repository.name + "/sums"
    assert len(processes_of(model)) == INSTANCES
    control.connection.unload_model("sums")
    assert not control.connection.is_model_ready("sums")
    await_end(model)
    with pytest.raises(InferenceServerException, match=r"'sums' (has no available|is not found)"):
        control.call("sums", image)
    control.connection.load_model("sums")
    with load("sums") as pipe:
        assert_same(control.call("sums", image), pipe.run(image))


def alter(model: Path) -> None:
    """Change one byte of the bundle's graph."""
    file = model / "1" / "bundle.mmedge"
    data = bytearray(file.read_bytes())
    data[data.index(b"onnx") + 200] ^= 1
    file.write_bytes(bytes(data))


def test_bundles_that_are_not_what_they_were_are_not_ready(control, repository):
    for name, source in (("altered", "sums"), ("exchanged", "sums"), ("wrong", "off")):
        write_model(BUNDLES / f"{source}.mmedge", repository, name=name, overwrite=True)
    alter(repository / "altered")
    shutil.copyfile(BUNDLES / "tiny.mmedge", repository / "exchanged" / "1" / "bundle.mmedge")
    for name, words in (
        ("altered", "BundleError"),
        ("exchanged", "configuration was written for"),
        # Its files are whole, and it computes something else than its golden samples say.
        ("wrong", "AccuracyError"),
    ):
        with pytest.raises(InferenceServerException, match=words):
            control.connection.load_model(name)
        assert not control.connection.is_model_ready(name)
        await_end(f"{repository.name}/{name}")


def test_model_that_needs_a_key_is_ready_only_with_its_signature(control, repository, tmp_path):
    keys = [mmedge.generate_key(tmp_path / name) for name in ("release", "other")]
    signed = [tmp_path / f"{name}.mmedge" for name in ("release", "other")]
    for path, key in zip(signed, keys, strict=True):
        shutil.copyfile(BUNDLES / "sums.mmedge", path)
        mmedge.sign_bundle(path, key.private, version=2)
    options = {"trusted_keys": [keys[0].public], "lowest_version": 2, "overwrite": True}
    model = write_model(signed[0], repository, name="signed", threads=1, **options)
    control.connection.load_model("signed")
    image = {"image": np.zeros((1, 2, 2, 3), np.uint8)}
    with load("sums") as pipe:
        assert_same(control.call("signed", image), pipe.run(image))
    control.connection.unload_model("signed")
    await_end(f"{repository.name}/signed")
    older = shutil.copyfile(BUNDLES / "sums.mmedge", tmp_path / "older.mmedge")
    mmedge.sign_bundle(older, keys[0].private, version=1)
    # All have the manifest that the configuration was written for.
    for bundle, words in (
        (BUNDLES / "sums.mmedge", "the bundle is not signed"),
        (signed[1], "no signature by a trusted key"),
        (older, "version 1"),
    ):
        shutil.copyfile(bundle, model.bundle)
        with pytest.raises(InferenceServerException, match=f"SignatureError.*{words}"):
            control.connection.load_model("signed")
        assert not control.connection.is_model_ready("signed")


def test_server_with_an_altered_bundle_lives_and_is_not_ready(tmp_path):
    write_model(BUNDLES / "sums.mmedge", tmp_path / "models")
    alter(tmp_path / "models" / "sums")
    write_model(BUNDLES / "tiny.mmedge", tmp_path / "models", threads=1)
    options = ("--exit-on-error=false",)
    with serve(tmp_path / "models", tmp_path / "run", *options, wait=False) as server:
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(f"http://{server.http}/v2/health/ready")
        with closing(Client(server, "grpc")) as client:
            assert not client.connection.is_model_ready("sums")
            # The other one is served all the same.
            with load("tiny") as pipe:
                inputs = pipe.bundle.samples()[0].inputs
                assert_same(client.call("tiny", inputs), pipe.run(inputs))
        assert "BundleError" in server.words()


def test_server_listens_on_the_loopback_alone(server):
    ports = {int(address.partition(":")[2]) for address in (server.http, server.grpc)}
    listening = []
    for file in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{file}").read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            host, _, port = address.partition(":")
            if state == "0A" and int(port, 16) in ports:
                listening.append(host)
    assert listening
    # 127.0.0.1, and the same as an address of IPv6.
    assert set(listening) <= {"0100007F", "0000000000000000FFFF00000100007F"}
