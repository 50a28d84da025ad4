"""What Triton's Python backend runs for a bundle of mmedge: loads it, and answers requests.

``mmedge triton`` copies this file into the model repository. It needs mmedge with a backend in the
Python that the server runs (``pip install "mmedge[cpu,text]"``), and nothing of mmedge-triton.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb_utils

import mmedge
from mmedge.execution.verify import verify

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Options of a call that a request may state as its parameters. The others take arrays or objects,
#: which parameters cannot hold.
OPTIONS = ("limit", "seed", "temperature", "top_k", "top_p", "deadline_ms")


class TritonPythonModel:
    """One instance of the model: a process with the bundle loaded."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the bundle, replay its golden samples, and make one call of each.

        Args:
            args: of Triton: the model's configuration as JSON, the folder, the version.

        Raises:
            TritonModelException: the bundle cannot be trusted or run here; the model is not ready.
        """
        config = json.loads(args["model_config"])
        parameters = {key: one["string_value"] for key, one in config["parameters"].items()}
        folder = Path(args["model_repository"]) / args["model_version"]
        self._texts: dict[str, str] = json.loads(parameters["texts"])
        self._outputs = [one["name"] for one in config["output"]]
        # A text that the bundle's tokenizer cuts is told in the server's log each time.
        warnings.simplefilter("always", UserWarning)
        try:
            self._pipe = _load(folder, parameters)
            _check(self._pipe, parameters["digest"])
        except (mmedge.MMEdgeError, ValueError) as error:
            raise pb_utils.TritonModelException(f"{type(error).__name__}: {error}") from error
        manifest = self._pipe.bundle.manifest
        self._inputs = manifest.inputs()
        open_questions = manifest.open_questions(self._pipe.variant)
        for line in (f"{self._pipe}, plan {self._pipe.plan}", *open_questions):
            pb_utils.Logger.log_info(f"{args['model_name']}: {line}")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request by a call of its own."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Free the bundle."""
        if hasattr(self, "_pipe"):
            self._pipe.close()

    def _answer(self, request: Any) -> Any:  # noqa: ANN401
        """The response: outputs, or an error that says whose fault it is."""
        try:
            inputs, options = self._read(request)
            outputs = self._pipe.run(inputs, **options)
        except mmedge.InputError as error:
            return _refusal(error, pb_utils.TritonError.INVALID_ARG)
        except TimeoutError as error:
            return _refusal(error, pb_utils.TritonError.UNAVAILABLE)
        except Exception as error:  # noqa: BLE001  # raised, it would fail all requests at hand
            return _refusal(error, pb_utils.TritonError.INTERNAL)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, _sent(outputs[name])) for name in self._outputs]
        )

    def _read(self, request: Any) -> tuple[dict[str, Any], dict[str, Any]]:  # noqa: ANN401
        """Inputs and options of a call.

        Raises:
            InputError: a text is no UTF-8, or a parameter is no option.
        """
        inputs: dict[str, Any] = {}
        for tensor in request.inputs():
            name, array = tensor.name(), tensor.as_numpy()
            if name in self._texts:
                name, array = self._texts[name], _text(name, array)
            elif not self._inputs[name].shape:
                array = array.reshape(())
            if name in inputs:
                raise mmedge.InputError(f"input {name!r} is given twice, as text and as tokens")
            inputs[name] = array
        options = json.loads(request.parameters() or "{}")
        for name in options:
            if name not in OPTIONS:
                raise mmedge.InputError(
                    f"parameter {name!r}: a request may state {', '.join(OPTIONS)}; leave it out"
                )
        return inputs, options


def _load(folder: Path, parameters: Mapping[str, str]) -> mmedge.Pipeline:
    """The bundle that the configuration names: a path in the model's folder, or an absolute one."""
    threads = parameters["threads"]
    plan: Any = parameters["plan"] or None
    return mmedge.load(
        folder / parameters["bundle"],
        parameters["variant"] or None,
        plan=plan,
        threads=int(threads) if threads else None,
        allow_non_finite=parameters["allow_non_finite"] == "true",
        trusted_keys=json.loads(parameters["trusted_keys"]),
        lowest_version=json.loads(parameters["lowest_version"]),
    )


def _check(pipe: mmedge.Pipeline, digest: str) -> None:
    """Check that it is the bundle that the configuration was written for, and that it works here.

    Raises:
        BundleError: another bundle.
        AccuracyError: golden samples are not reproduced.
    """
    bundle = pipe.bundle
    if bundle.digest != digest:
        raise mmedge.BundleError(
            f"{bundle.path}: its manifest has SHA-256 {bundle.digest}, the model's configuration "
            f"was written for {digest}; write it anew with mmedge triton"
        )
    if not bundle.manifest.samples:
        return
    verify(pipe).check()
    for sample in bundle.samples():
        pipe.run(sample.inputs)


def _text(name: str, array: Any) -> str:  # noqa: ANN401
    data = array.reshape(-1)[0]
    try:
        return data.decode() if isinstance(data, bytes) else str(data)
    except UnicodeDecodeError as error:
        raise mmedge.InputError(f"input {name!r}: a text in UTF-8 is expected: {error}") from error


def _sent(value: Any) -> Any:  # noqa: ANN401
    """A result of a call as an array that Triton sends."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        return np.array([text.encode() for text in value], np.object_)
    return value if value.ndim else value.reshape(1)


def _refusal(error: Exception, code: int) -> Any:  # noqa: ANN401
    message = f"{type(error).__name__}: {error}"
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
