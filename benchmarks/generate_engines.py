"""One engine that generates tokens, alone in a process: ``generate.py`` starts it and asks.

``python generate_engines.py ENGINE THREADS JOB``, with JOB a JSON file that says what there is to
run: the bundle, the inputs, the network's own module, folders that peers take.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from abc import ABC, abstractmethod
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from peer_process import answer_as

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ENGINES"]

HERE = Path(__file__).parent


class Engine(ABC):
    """What one engine needs; :meth:`tokens` is a run of a fixed number of greedy tokens.

    Args:
        threads: on the CPU.
        job: see the module.

    Attributes:
        cached: whether a run may use what an earlier one of the same inputs left.
        times: when the tokens of the last run came, ns, where they do not come one by one.
    """

    DISTRIBUTIONS: tuple[str, ...] = ()

    def __init__(self, threads: int, job: dict[str, Any]) -> None:
        self.threads, self.job = threads, job
        self.cached = False
        self.times: list[int] | None = None
        with np.load(job["inputs"]) as stored:
            self.inputs = {name: stored[name] for name in stored.files}

    @abstractmethod
    def tokens(self, count: int) -> Iterator[int]:
        """Tokens as they are chosen."""

    def version(self) -> dict[str, str]:
        """Versions by distribution."""
        return {name: metadata.version(name) for name in self.DISTRIBUTIONS}


class Mmedge(Engine):
    """The bundle in float32."""

    DISTRIBUTIONS = ("mmedge", "onnxruntime")
    PRECISION = "fp32"

    def __init__(self, threads: int, job: dict[str, Any]) -> None:
        super().__init__(threads, job)
        import mmedge

        self.pipe = mmedge.load(
            job["bundle"], precision=self.PRECISION, threads=threads, device="cpu"
        )

    def tokens(self, count: int) -> Iterator[int]:
        """See :class:`Engine`."""
        steps: Any = self.pipe.iterate(
            self.inputs, cached=self.cached, limit=count, stop=(), temperature=0.0
        )
        for step in steps:
            yield int(step.tokens[0])


class MmedgeInt8(Mmedge):
    """The same in 8 bits, as far as the network's task let it pass."""

    PRECISION = "int8"


class MmedgeInt4(Mmedge):
    """The same in 4 bits."""

    PRECISION = "int4"


class OrtLoop(Engine):
    """The bundle's graphs in ONNX Runtime, in the plainest loop over NumPy arrays."""

    DISTRIBUTIONS = ("onnxruntime",)

    def __init__(self, threads: int, job: dict[str, Any]) -> None:
        super().__init__(threads, job)
        import onnxruntime as ort

        from mmedge import Bundle

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.bundle = Bundle.open(job["bundle"])
        self.manifest = self.bundle.manifest
        self.sessions = {
            stage.name: ort.InferenceSession(
                self.bundle.file(stage.graph), options, providers=["CPUExecutionProvider"]
            )
            for stage in self.manifest.stages
        }

    def tokens(self, count: int) -> Iterator[int]:
        """See :class:`Engine`."""
        loop: Any = self.manifest.loop
        manifest = self.manifest
        tensors: dict[str, Any] = dict(self.inputs)
        for stage in manifest.in_order():
            names = [spec.name for spec in stage.outputs]
            feeds = {spec.name: tensors[spec.name] for spec in stage.inputs}
            tensors |= zip(names, self.sessions[stage.name].run(names, feeds), strict=True)
        (stage,) = manifest.loop_stages()
        session, specs = self.sessions[stage.name], {s.name: s for s in stage.inputs}
        for state in manifest.states:
            shape = [size if isinstance(size, int) else 1 for size in specs[state.input].shape]
            if state.axis is not None:
                shape[state.axis] = 0
            first = np.zeros(shape, specs[state.input].dtype)
            tensors[state.input] = tensors[state.source] if state.source else first
        prompt = self.inputs.get(loop.token, np.zeros((1, 0), np.int64))
        new = [*loop.start, *prompt[0].tolist()]
        takes_one = len(specs[loop.token].shape) == 1
        names, taken = [spec.name for spec in stage.outputs], 0
        for index in range(count):
            for piece in [[token] for token in new] if takes_one else [new]:
                tensors[loop.token] = np.array(piece if takes_one else [piece], np.int64)
                if loop.position is not None:
                    tensors[loop.position] = np.arange(taken, taken + len(piece))
                taken += len(piece)
                outputs = session.run(names, {name: tensors[name] for name in specs})
                given = dict(zip(names, outputs, strict=True))
                tensors |= {state.input: given[state.output] for state in manifest.states}
            scores = given[loop.logits].reshape(-1, given[loop.logits].shape[-1])[-1].copy()
            scores[[*loop.suppress, *(() if index else loop.suppress_first)]] = -np.inf
            new = [int(scores.argmax())]
            yield new[0]


class Torch(Engine):
    """The network's own modules, as they are."""

    DISTRIBUTIONS = ("torch",)

    def __init__(self, threads: int, job: dict[str, Any]) -> None:
        super().__init__(threads, job)
        import torch

        torch.set_num_threads(threads)
        sys.path.insert(0, str(HERE / "networks"))
        self.model = __import__(job["network"]).load()
        self.feeds = {name: torch.from_numpy(value) for name, value in self.inputs.items()}

    def tokens(self, count: int) -> Iterator[int]:
        """See :class:`Engine`."""
        from generation import Run

        run = Run(self.model, self.feeds)
        loop = run.loop
        prompt = self.inputs.get(loop.token, np.zeros((1, 0), np.int64))
        new = [*loop.start, *prompt[0].tolist()]
        takes_one = tuple(loop.token_shape or ()) == ("batch",)
        for index in range(count):
            for piece in [[token] for token in new] if takes_one else [new]:
                scores = run.step(piece)
            scores = scores.clone()
            scores[[*loop.suppress, *(() if index else loop.suppress_first)]] = -float("inf")
            new = [int(scores.argmax())]
            yield new[0]


class Compiled(Torch):
    """The same with ``torch.compile``, whose graphs take any number of tokens."""

    def __init__(self, threads: int, job: dict[str, Any]) -> None:
        super().__init__(threads, job)
        self.model.loop.step.compile(dynamic=True)


class Transformers(Engine):
    """``generate()`` of transformers, with the same weights."""

    DISTRIBUTIONS = ("transformers", "torch")

    def __init__(self, threads: int, job: dict[str, Any]) -> None:
        super().__init__(threads, job)
        hidden: Any = None
        sys.modules["torchvision"] = hidden  # of no use to text, and slow to load
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self.model = AutoModelForCausalLM.from_pretrained(job["transformers"]).eval()
        self.prompt = torch.from_numpy(self.inputs["token"])

    def tokens(self, count: int) -> Iterator[int]:
        """See :class:`Engine`; the model's cache, one token at a time."""
        import torch

        past, new = None, self.prompt
        with torch.no_grad():
            for _ in range(count):
                output = self.model(new, past_key_values=past, use_cache=True, logits_to_keep=1)
                past, new = output.past_key_values, output.logits[:, -1].argmax(-1, keepdim=True)
                yield int(new)


class Optimum(Engine):
    """ONNX Runtime by way of Optimum, on the graph that Optimum exports of the same weights."""

    DISTRIBUTIONS = ("optimum-onnx", "optimum", "transformers", "onnxruntime")

    def __init__(self, threads: int, job: dict[str, Any]) -> None:
        super().__init__(threads, job)
        hidden: Any = None
        sys.modules["torchvision"] = hidden  # of no use to text, and slow to load
        import onnxruntime as ort
        import torch
        from optimum.onnxruntime import ORTModelForCausalLM

        torch.set_num_threads(threads)
        source = Path(job["transformers"])
        folder = source.with_name("optimum")
        if not folder.exists():
            older = source.with_name("transformers-4")
            shutil.copytree(source, older, copy_function=os.link)
            config = json.loads((source / "config.json").read_text())
            # The version that Optimum needs passes over how newer ones write it.
            config |= config.pop("rope_parameters", {})
            (older / "config.json").unlink()
            (older / "config.json").write_text(json.dumps(config))
            exported = ORTModelForCausalLM.from_pretrained(older, export=True)
            exported.save_pretrained(folder)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.model = ORTModelForCausalLM.from_pretrained(folder, session_options=options)
        self.prompt = torch.from_numpy(self.inputs["token"])

    def tokens(self, count: int) -> Iterator[int]:
        """See :class:`Engine`; the model's cache, one token at a time."""
        import torch

        past, new = None, self.prompt
        mask = torch.ones_like(new)
        with torch.no_grad():
            for _ in range(count):
                output = self.model(
                    input_ids=new, attention_mask=mask, past_key_values=past, use_cache=True
                )
                past, new = output.past_key_values, output.logits[:, -1].argmax(-1, keepdim=True)
                mask = torch.cat((mask, torch.ones_like(new)), 1)
                yield int(new)


class OrtGenAi(Engine):
    """onnxruntime-genai on the graph that its own builder makes of the same weights."""

    DISTRIBUTIONS = ("onnxruntime-genai",)
    KEY = "genai"

    def __init__(self, threads: int, job: dict[str, Any]) -> None:
        super().__init__(threads, job)
        import onnxruntime_genai as genai

        folder = Path(job[self.KEY])
        config = json.loads((folder / "genai_config.json").read_text())
        options = config["model"]["decoder"]["session_options"]
        options["intra_op_num_threads"] = threads
        (folder / "genai_config.json").write_text(json.dumps(config))
        self.genai, self.model = genai, genai.Model(str(folder))

    def tokens(self, count: int) -> Iterator[int]:
        """See :class:`Engine`."""
        prompt = self.inputs["token"][0].astype(np.int32)
        parameters = self.genai.GeneratorParams(self.model)
        total = len(prompt) + count
        parameters.set_search_options(max_length=total, min_length=total, do_sample=False)
        generator = self.genai.Generator(self.model, parameters)
        generator.append_tokens(prompt)
        for _ in range(count):
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])


class OrtGenAiInt4(OrtGenAi):
    """The same with weights in blocks of 4 bits."""

    KEY = "genai_int4"


class OpenVinoGenAi(Engine):
    """OpenVINO GenAI on the package's own file, whose weights it keeps in 4 and 8 bits."""

    DISTRIBUTIONS = ("openvino-genai", "openvino")

    def __init__(self, threads: int, job: dict[str, Any]) -> None:
        super().__init__(threads, job)
        import openvino_genai

        self.genai = openvino_genai
        self.pipe = openvino_genai.LLMPipeline(
            job["gguf"], "CPU", INFERENCE_NUM_THREADS=threads, ATTENTION_BACKEND="SDPA"
        )

    def tokens(self, count: int) -> Iterator[int]:
        """See :class:`Engine`; its tokens come by a callback, with their times."""
        import openvino

        times: list[int] = []
        tokens: list[int] = []

        running = self.genai.StreamingStatus.RUNNING

        class Streamer(self.genai.StreamerBase):  # type: ignore[misc, name-defined]
            def write(self, token: Any) -> Any:  # noqa: ANN401
                times.append(time.perf_counter_ns())
                tokens.extend(token if isinstance(token, list) else [token])
                return running

            def end(self) -> None:
                pass

        config = self.genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = count, True, False
        ids = self.inputs["token"]
        inputs = self.genai.TokenizedInputs(
            openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids))
        )
        self.pipe.generate(inputs, config, Streamer())
        self.times = times
        yield from tokens[:count]


class CTranslate2(Engine):
    """CTranslate2, which faster-whisper runs on, on the package's own file."""

    DISTRIBUTIONS = ("ctranslate2",)
    COMPUTE = "float32"

    def __init__(self, threads: int, job: dict[str, Any]) -> None:
        super().__init__(threads, job)
        import ctranslate2

        self.library = ctranslate2
        self.model = ctranslate2.models.Whisper(
            job["ctranslate2"], compute_type=self.COMPUTE, intra_threads=threads
        )
        with np.load(job["mel"]) as stored:
            self.mel = stored["mel"]

    def tokens(self, count: int) -> Iterator[int]:
        """See :class:`Engine`; all tokens come at once, so that only whole runs have times."""
        features = self.library.StorageView.from_array(self.mel)
        # It gives half of max_length at most.
        (result,) = self.model.generate(
            features, [self.job["start"]], beam_size=1, max_length=2 * count
        )
        self.times = []
        yield from result.sequences_ids[0][:count]


class CTranslate2Int8(CTranslate2):
    """The same in 8 bits."""

    COMPUTE = "int8"


ENGINES: dict[str, type[Engine]] = {
    "mmedge": Mmedge,
    "mmedge int8": MmedgeInt8,
    "mmedge int4": MmedgeInt4,
    "onnxruntime, NumPy loop": OrtLoop,
    "torch eager": Torch,
    "torch.compile": Compiled,
    "transformers": Transformers,
    "Optimum": Optimum,
    "onnxruntime-genai": OrtGenAi,
    "onnxruntime-genai int4": OrtGenAiInt4,
    "OpenVINO GenAI, 4 and 8 bits": OpenVinoGenAi,
    "CTranslate2": CTranslate2,
    "CTranslate2 int8": CTranslate2Int8,
}


def serve(engine: Engine, answers: TextIO) -> None:
    """Answer questions: the tokens of a run, and when each came, in ms from its start."""

    def answer(**content: Any) -> None:  # noqa: ANN401
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    answer(version=engine.version())
    for line in sys.stdin:
        question = json.loads(line)
        engine.cached = question["cached"]
        start = time.perf_counter_ns()
        tokens, times = [], []
        for token in engine.tokens(question["count"]):
            times.append(time.perf_counter_ns())
            tokens.append(token)
        end = time.perf_counter_ns()
        times = times if engine.times is None else engine.times
        answer(
            tokens=tokens,
            token_ms=[(at - start) / 1e6 for at in times],
            total_ms=(end - start) / 1e6,
        )


if __name__ == "__main__":
    job = json.loads(Path(sys.argv.pop()).read_text())
    with_job: Any = {name: partial(kind, job=job) for name, kind in ENGINES.items()}
    answer_as(with_job, serve)
