"""Real exports, run by ONNX Runtime at sizes other than the traced ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmedge_export.zoo.recurrent import GRU
from mmedge_export.zoo.vqa.network import VqaNet

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter's own


def export(net: nn.Module, example: dict[str, torch.Tensor], dynamic, path: Path, output: str):
    torch.onnx.export(
        net,
        tuple(example.values()),
        path,
        dynamo=True,
        opset_version=20,
        input_names=list(example),
        output_names=[output],
        dynamic_shapes=dynamic,
        external_data=False,
        verbose=False,
    )
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_the_gru_exports_with_a_dynamic_length(tmp_path):
    torch.manual_seed(0)
    net = GRU(24).eval()
    batch, steps = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("steps", min=1)
    example = {"x": torch.randn(2, 9, 24)}
    session = export(net, example, ({0: batch, 1: steps},), tmp_path / "gru.onnx", "y")
    for rows, length in [(1, 1), (1, 2), (3, 9), (2, 50), (1, 499)]:
        x = torch.randn(rows, length, 24)
        with torch.inference_mode():
            want = net(x).numpy()
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], want, atol=1e-5)


@pytest.mark.parametrize(
    "parts",
    [
        {"image": "resnet", "text": "transformer", "audio": "cnn", "fusion": "attention"},
        {"image": "vit", "text": "gru", "audio": "crnn", "fusion": "conv"},
        {"image": "classical", "text": "gru", "audio": "spectrum-cnn", "fusion": "weighted"},
    ],
    ids=lambda parts: "-".join(parts.values()),
)
def test_the_network_exports_with_a_dynamic_batch_and_voice(parts, tmp_path):
    torch.manual_seed(0)
    net = VqaNet(**parts).eval()

    def inputs(rows: int, samples: int) -> dict[str, torch.Tensor]:
        return {
            "image": torch.randint(0, 256, (rows, 64, 64, 3), dtype=torch.uint8),
            "text": torch.randint(0, 28, (rows, 16)),
            "audio": torch.randn(rows, samples) * 0.1,
        }

    batch = torch.export.Dim("batch", min=1, max=64)
    samples = torch.export.Dim("samples", min=1_600, max=80_000)
    dynamic = ({0: batch}, {0: batch}, {0: batch, 1: samples})
    session = export(net, inputs(2, 16_000), dynamic, tmp_path / "net.onnx", "answer")
    for rows, length in [(1, 1_600), (1, 1_650), (3, 31_999), (2, 80_000)]:
        given = inputs(rows, length)
        given["audio"][0] = 0
        given["text"][-1] = 0
        with torch.inference_mode():
            want = net(**given)["answer"].numpy()
        found = session.run(None, {name: value.numpy() for name, value in given.items()})[0]
        assert np.abs(found - want).max() <= 1e-4 * np.abs(want).max()
