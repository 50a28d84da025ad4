"""Requests to a Triton server over HTTP and gRPC, as its own client library makes them."""

from __future__ import annotations

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

__all__ = ["PROTOCOLS", "Client", "refusal"]

PROTOCOLS = ("http", "grpc")
#: What a request is answered with where the client is at fault.
CLIENT_ERROR = {"http": "400", "grpc": "StatusCode.INVALID_ARGUMENT"}


class Client:
    """A connection. ``library`` is the client's module, ``connection`` its client."""

    def __init__(self, server, protocol: str) -> None:
        self.protocol = protocol
        self.library = getattr(tritonclient, protocol)
        address = getattr(server, protocol)
        self.connection = self.library.InferenceServerClient(address)

    def close(self) -> None:
        """End the connection."""
        self.connection.close()

    def call(self, model: str, inputs, **parameters) -> dict:
        """Outputs of a request by name; a string among the inputs is sent as BYTES [1]."""
        tensors = [self._tensor(name, value) for name, value in inputs.items()]
        result = self.connection.infer(model, tensors, parameters=parameters or None)
        response = result.get_response()
        outputs = response["outputs"] if isinstance(response, dict) else response.outputs
        names = [one["name"] if isinstance(one, dict) else one.name for one in outputs]
        return {name: result.as_numpy(name) for name in names}

    def _tensor(self, name: str, value):
        if isinstance(value, str | bytes):
            data = value.encode() if isinstance(value, str) else value
            value = np.array([data], np.object_)
        kind = "BYTES" if value.dtype == object else np_to_triton_dtype(value.dtype)
        tensor = self.library.InferInput(name, list(value.shape), kind)
        tensor.set_data_from_numpy(value)
        return tensor


def refusal(client: Client, model: str, inputs, **parameters) -> str:
    """What a bad request is told; fails unless it is the client's fault by the status."""
    with pytest.raises(InferenceServerException) as raised:
        client.call(model, inputs, **parameters)
    assert raised.value.status() == CLIENT_ERROR[client.protocol], raised.value
    return raised.value.message()
