"""What a caller hands over as an array becomes a plain NumPy array, or is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array

__all__ = ["contiguous", "gpu_interface", "host_array"]

#: Bytes of a copy that is made unasked.
MAX_COPY_BYTES = 1 << 30
#: Subclasses of ndarray that say nothing which a plain array would not.
_PLAIN = (np.memmap, np.recarray, np.matrix)


def host_array(value: Any) -> Array:  # noqa: ANN401
    """``value`` as a plain array over the same memory: a NumPy array, or one that offers DLPack.

    Raises:
        InputError: neither; an array whose mask, unit or other meaning would be lost; or DLPack
            fails. The message does not name the input.
    """
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(
            "a masked array: the mask would be lost and what lies under it used; pass "
            "value.filled(...) and, where the network takes one, the mask as an input of its own"
        )
    if isinstance(value, np.ndarray):
        if not isinstance(value, _PLAIN):
            raise InputError(
                f"a {type(value).__name__}, a subclass of ndarray that may mean more than its "
                "numbers, such as a unit; pass np.asarray(value) of what the network was trained on"
            )
        base_array: Array = value.view(np.ndarray)
        return base_array
    if value is None:
        raise InputError("got None; leave out what is absent")
    if _read_attribute(value, "__dlpack__") is None:
        raise InputError(
            f"got {type(value).__name__}; pass a NumPy array or one that offers DLPack"
        )
    try:
        return np.from_dlpack(value)
    except Exception as error:  # another library's code runs here
        raise InputError(
            f"NumPy cannot take this {type(value).__name__} over DLPack: {error}. Move it to the "
            "host and detach it from any gradient"
        ) from error


def gpu_interface(value: Any) -> Mapping[str, Any] | None:  # noqa: ANN401
    """What an array on a GPU says of itself; None for a value that is none.

    Raises:
        InputError: it cannot say it, or has a mask, which would be lost. The message does not name
            the input.
    """
    interface = _read_attribute(value, "__cuda_array_interface__")
    if interface is None:
        return None
    try:
        shape, strides = interface["shape"], interface.get("strides")
        np.dtype(interface["typestr"])
        is_valid = all(type(size) is int and size >= 0 for size in shape)
        is_valid = is_valid and (strides is None or len(strides) == len(shape))
    except Exception as error:  # another library's data
        raise InputError(
            f"a {type(value).__name__} whose __cuda_array_interface__ cannot be read: {error!r}"
        ) from error
    if not is_valid:
        raise InputError(
            f"a {type(value).__name__} whose __cuda_array_interface__ has shape {shape!r:.80} and "
            f"strides {strides!r:.80}"
        )
    if interface.get("mask") is not None:
        raise InputError("a masked array on a GPU: the mask would be lost; fill it first")
    description: Mapping[str, Any] = interface
    return description


def _read_attribute(value: Any, attribute: str) -> Any:  # noqa: ANN401
    """An attribute of another library's array; None where it has none."""
    try:
        return getattr(value, attribute, None)
    except Exception as error:  # a property of another library, such as of one with a gradient
        raise InputError(
            f"a {type(value).__name__} that cannot be taken: {error}; detach it from any gradient"
        ) from error


def contiguous(array: Array) -> Array:
    """``array`` in C order, copied where it is not; unlike ``ascontiguousarray`` of any rank.

    Raises:
        InputError: the copy would have over 1 GiB, as a small array that is broadcast may say.
    """
    if array.flags.c_contiguous:
        return array
    if array.nbytes > MAX_COPY_BYTES:
        raise InputError(
            f"an array {list(array.shape)} that is not contiguous would have to be copied to "
            f"{array.nbytes} bytes; make it contiguous where it is made"
        )
    return array.copy(order="C")
