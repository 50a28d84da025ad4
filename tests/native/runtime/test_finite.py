"""Inputs with NaN and infinity: libmmedge finds them wherever they are, as Python does."""

from __future__ import annotations

import numpy as np
import pytest
from loop_bundles import Graph

import mmedge
from mmedge.bundle import Bundle
from mmedge.errors import InputError
from mmedge.spec import Dimension, Manifest, Modality, Stage, TensorSpec, Tolerance, Variant

DTYPES = ("float16", "float32", "float64")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A bundle that takes any number of floats of each kind, in both runtimes."""
    specs = tuple(TensorSpec(name, name, (f"n_{name}",)) for name in DTYPES)
    outputs = tuple(TensorSpec(f"out_{name}", name, (f"n_{name}",)) for name in DTYPES)
    g = Graph()
    for name in DTYPES:
        g("Identity", name, name=f"out_{name}")
    file = {"net": "onnx/net.onnx"}
    manifest = Manifest(
        name="floats",
        modalities=tuple(Modality(name, (name,)) for name in DTYPES),
        stages=(Stage("net", file["net"], specs, outputs),),
        outputs=tuple(spec.name for spec in outputs),
        variants=(Variant("ort", "fp32", "cpu", file, Tolerance(1e-6, 1e-6)),),
        files={},
        dimensions={f"n_{name}": Dimension(0, 1) for name in DTYPES},
    )
    path = tmp_path_factory.mktemp("floats") / "floats.mmedge"
    Bundle.write(path, manifest, {file["net"]: g.bytes(specs, outputs)}).close()
    pipes = [mmedge.load(path, threads=1, runtime=runtime) for runtime in ("python", "native")]
    yield pipes
    for pipe in pipes:
        pipe.close()


def is_refused(pipe, values):
    try:
        pipe.run(values)
    except InputError as error:
        assert "NaN" in str(error) or "infinity" in str(error)  # noqa: PT017 - one of many
        return True
    return False


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_that_is_not_finite_is_found_at_every_place(both, dtype):
    others = {name: np.zeros(1, name) for name in DTYPES if name != dtype}
    largest = np.finfo(dtype).max
    for count in (0, 1, 3, 8, 9, 17, 33):
        values = np.full(count, -largest, dtype)
        assert not any(is_refused(pipe, {**others, dtype: values}) for pipe in both)
        for place in range(count):
            for bad in (np.nan, np.inf, -np.inf):
                values[place] = bad
                assert all(is_refused(pipe, {**others, dtype: values}) for pipe in both)
            values[place] = largest
    rng = np.random.default_rng(0)
    values = rng.normal(size=100_003).astype(dtype)
    assert not is_refused(both[1], {**others, dtype: values})
    for place in (0, 4095, 4096, 4097, 100_000, 100_002, *rng.integers(0, 100_003, 20)):
        kept, values[place] = values[place], np.nan
        assert is_refused(both[1], {**others, dtype: values})
        values[place] = kept
