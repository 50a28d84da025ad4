"""What an array means beside its numbers is not dropped, and nothing large is copied unasked."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import mmedge
from mmedge.errors import InputError
from mmedge.recording import Recorder

IMAGE = np.ones((1, 2, 2, 3), np.uint8)


class Quantity(np.ndarray):
    """As astropy has it: numbers with a unit."""


class Broken:
    """A producer that fails with whatever it likes."""

    def __init__(self, error):
        self.error = error

    def __dlpack__(self, **kw):
        raise self.error

    def __dlpack_device__(self):
        return 1, 0


@pytest.fixture(scope="module")
def pipe(sums):
    with mmedge.load(sums, threads=1) as loaded:
        yield loaded


class OnGpu:
    """An array that says it lies on a GPU."""

    def __init__(self, **changes):
        good = {"shape": (1, 2, 2, 3), "typestr": "|u1", "data": (1, False), "version": 3}
        self.__cuda_array_interface__ = {**good, **changes}


class Guarded:
    """As torch's tensors with a gradient: to ask is an error."""

    @property
    def __cuda_array_interface__(self):
        raise RuntimeError("can't get it of a variable that requires grad")


REFUSED = {
    "gpu mask": (OnGpu(mask=object()), "a masked array on a GPU"),
    "gpu shape": (OnGpu(shape=(-1,)), "has shape"),
    "gpu dtype": (OnGpu(typestr="nothing"), "cannot be read"),
    "gpu strides": (OnGpu(strides=(1,)), "strides"),
    "gradient": (Guarded(), "requires grad; detach it"),
    "masked": (np.ma.masked_array(IMAGE, IMAGE == 1), "a masked array: the mask would be lost"),
    "unit": (IMAGE.view(Quantity), "a Quantity, a subclass of ndarray"),
    "key error": (Broken(KeyError("x")), "over DLPack: 'x'"),
    "own error": (Broken(type("Own", (Exception,), {})("why")), "over DLPack: why"),
    "overflow": (Broken(OverflowError("far")), "over DLPack: far"),
    "list": ([[1]], "got list; pass a NumPy array"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arrays_that_are_refused(pipe, tmp_path, name):
    value, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        pipe(image=value)
    with pipe.stream(trigger="camera") as stream, pytest.raises(InputError, match=message):
        stream.push("camera", value)
    with (
        Recorder(tmp_path / "run", pipe.bundle) as recorder,
        pytest.raises(InputError, match=message),
    ):
        recorder.record("camera", value)


def test_subclasses_that_mean_nothing_more_are_taken(pipe, tmp_path):
    np.save(tmp_path / "a.npy", IMAGE)
    for value in (np.load(tmp_path / "a.npy", mmap_mode="r"), IMAGE.view(np.recarray)):
        assert pipe(image=value)["seen"] == 12


@pytest.mark.timeout(20)
@pytest.mark.parametrize("shape", [(1 << 40, 2, 2, 3), (1, 1 << 40, 2, 3), (1, 2, 2, 1 << 50)])
def test_sizes_are_checked_before_a_copy(pipe, shape):
    value = as_strided(np.ones(1, np.uint8), shape, (0, 0, 0, 0))
    with pytest.raises(InputError, match="may be 1 to 8|must have size"):
        pipe(image=value)
    with pipe.stream(trigger="camera") as stream, pytest.raises(InputError, match="may be|must"):
        stream.push("camera", value)


@pytest.mark.timeout(20)
def test_a_copy_of_an_array_without_limit_is_refused():
    from mmedge.execution.arrays import contiguous

    with pytest.raises(InputError, match="would have to be copied to 1099511627776 bytes"):
        contiguous(as_strided(np.ones(1, np.uint8), (1 << 40,), (0,)))
