"""Is somebody speaking? The voice detector of silero-vad 6.2.3 (MIT), with its weights.

The network hears 512 samples at 16 kHz (32 ms) at a time. It has two states: the last 64 samples
before them, and the memory of its LSTM. In the package's ONNX files the first is not a state: their
``input`` [batch, 576] has both, and the package's Python class keeps the 64. Their ``state``
[2, batch, 128] comes back as ``stateN``, and ``sr``, an int64 scalar, chooses one of two networks
by an ``If``: 16000, or 8000, which takes 32 and 256 samples. ``output`` [batch, 1] is the
probability of speech. The weights here are those of the ONNX files; ``silero_vad_16k.safetensors``
in the same package holds others, whose probabilities differ by up to 0.7.

``python benchmarks/networks/silero.py`` holds the probabilities of 60 s of speech against those of
the package's own class and ONNX file.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from generation import command_line
from onnx import numpy_helper
from package_files import PackageFile
from speech_clips import RATE, speech
from torch import Tensor, nn
from torch.nn import functional as F

from mmedge_export import Input, Model, StateInput

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "CHUNK",
    "STATES",
    "Detector",
    "factory",
    "load",
    "package_probabilities",
    "probabilities",
]

_PACKAGE = "silero-vad==6.2.3"
WEIGHTS = PackageFile(
    _PACKAGE,
    "silero_vad/data/silero_vad_16k_op15.onnx",
    "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
)
GRAPH = PackageFile(
    _PACKAGE,
    "silero_vad/data/silero_vad.onnx",
    "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
)
SOURCE = PackageFile(
    _PACKAGE,
    "silero_vad/utils_vad.py",
    "15d0f6b3ef9590e22ca2f146e1436f6901da356cb552d3183df4100862b333cb",
)

#: Samples that the network hears at a time, and those before them that it hears again.
CHUNK, CONTEXT = 512, 64
MEMORY = 128
#: Which input takes which output of the run before; zeros in the first.
STATES = {"context": "last_context", "memory": "last_memory"}
#: How far a probability may be from that of the package.
TOLERANCE = 1e-4


class Detector(nn.Module):
    """512 new samples to the probability of speech in them."""

    def __init__(self) -> None:
        super().__init__()
        #: Windowed Fourier transform: 129 cosines, 129 sines.
        self.spectrum = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.encoder = nn.Sequential(
            *(nn.Conv1d(129, 128, 3, padding=1), nn.ReLU()),
            *(nn.Conv1d(128, 64, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv1d(64, 64, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv1d(64, MEMORY, 3, padding=1), nn.ReLU()),
        )
        self.memory = nn.LSTMCell(MEMORY, MEMORY)
        self.output = nn.Linear(MEMORY, 1)

    def forward(self, audio: Tensor, context: Tensor, memory: Tensor) -> dict[str, Tensor]:
        """The probability [batch, 1] and the new states.

        Args:
            audio: [batch, 512], from -1 to 1.
            context: the 64 samples before, [batch, 64].
            memory: hidden and cell state, [2, batch, 128].
        """
        heard = torch.cat([context, audio], dim=1)
        parts = self.spectrum(F.pad(heard, (0, CONTEXT), mode="reflect")[:, None])
        real, imaginary = parts.chunk(2, dim=1)
        x = self.encoder((real * real + imaginary * imaginary).sqrt())
        hidden, cell = self.memory(x.squeeze(-1), (memory[0], memory[1]))
        return {
            "probability": self.output(hidden.relu()).sigmoid(),
            "last_context": audio[:, -CONTEXT:],
            "last_memory": torch.stack([hidden, cell]),
        }


def load(cache: Path | None = None) -> Detector:
    """The network with the package's weights for 16 kHz.

    Args:
        cache: folder for the package's files; None: the user's cache.

    Raises:
        PackageError: the package cannot be had.
    """
    graph = onnx.load(WEIGHTS.fetch(cache)).graph
    tensors = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in graph.initializer
    }
    weights = {"spectrum.weight": tensors["model.stft.forward_basis_buffer"]}
    for kind in ("weight", "bias"):
        for n in range(4):
            weights[f"encoder.{2 * n}.{kind}"] = tensors[f"model.encoder.{n}.reparam_conv.{kind}"]
        for side in ("ih", "hh"):
            weights[f"memory.{kind}_{side}"] = tensors[f"model.decoder.rnn.{kind}_{side}"]
        weights[f"output.{kind}"] = tensors[f"model.decoder.decoder.2.{kind}"]
    # A convolution over one place.
    weights["output.weight"] = weights["output.weight"].squeeze(2)
    detector = Detector()
    detector.load_state_dict(weights)
    return detector.eval()


def factory() -> Model:
    """The network as ``mmedge export`` takes it, with states that a stream keeps."""
    heard = chunks(speech(30))[:, None]
    # A stream takes what is far louder than all samples for a fault.
    loudest = heard[np.abs(heard).max((1, 2)).argmax()]
    return Model(
        load(),
        inputs={"audio": Input(heard[0], rate_hz=RATE / CHUNK, sample_rate_hz=RATE)},
        outputs=["probability"],
        samples=[({"audio": chunk}, None) for chunk in (*heard[10:17], loudest)],
        name="silero-vad",
        state={
            "context": StateInput("last_context", (1, CONTEXT)),
            "memory": StateInput("last_memory", (2, 1, MEMORY)),
        },
    )


def first_states() -> dict[str, Tensor]:
    """What the first run takes, for one row."""
    return {"context": torch.zeros(1, CONTEXT), "memory": torch.zeros(2, 1, MEMORY)}


def chunks(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples in pieces of 512, [pieces, 512], the last filled with silence."""
    return np.pad(samples, (0, -len(samples) % CHUNK)).reshape(-1, CHUNK)


@torch.no_grad()
def probabilities(detector: Detector, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probability of speech in each 32 ms of ``samples``."""
    states, values = first_states(), []
    for chunk in chunks(samples):
        outputs = detector(torch.from_numpy(chunk)[None], **states)
        states = {name: outputs[output] for name, output in STATES.items()}
        values.append(float(outputs["probability"]))
    return np.array(values, np.float32)


def package_probabilities(
    samples: NDArray[np.float32], cache: Path | None = None
) -> NDArray[np.float32]:
    """The same by the package's class ``OnnxWrapper`` and its ONNX file, in ONNX Runtime.

    Args:
        samples: at 16 kHz.
        cache: see :func:`load`.
    """
    wrapper = SOURCE.define("OnnxWrapper", cache, torch=torch, warnings=warnings)
    model = wrapper(str(GRAPH.fetch(cache)), force_onnx_cpu=True)
    result: NDArray[np.float32] = model.audio_forward(torch.from_numpy(samples)[None], RATE)[
        0
    ].numpy()
    return result


def main() -> int:
    """Probabilities of 60 s of speech, by this network and by the package."""
    cache = command_line(__doc__ or "", [WEIGHTS, GRAPH, SOURCE])
    samples = speech(60, cache)
    values, expected = probabilities(load(cache), samples), package_probabilities(samples, cache)
    worst = float(np.abs(values - expected).max())
    print(
        f"{len(values)} pieces of 32 ms, {(expected > 0.5).mean():.0%} of them speech: largest "
        f"difference of a probability to the package's {worst:.1e}"
    )
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
