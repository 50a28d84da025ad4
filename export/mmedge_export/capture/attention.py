"""Segmented attention as a torch operator, ``torch.ops.mmedge.segmented_attention``.

Networks that use it are traced to standard operators
(:mod:`mmedge_export.capture.attention_standard`), in which export finds attention over segments
again. In torch itself the native kernels compute it where they can and were measured to be no
slower (:mod:`mmedge.native.dispatch`): float32 on the CPU, float16 and bfloat16 on a GPU for which
they were built; everything else and all gradients go through the standard operators.

The shell is Python over the C API and not a C++ extension: one build serves every version of torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmedge import native
from mmedge.errors import InputError
from mmedge.native.describe import ArrayView, describe, lse_shape, out_shape, write_to
from mmedge.native.dispatch import choose
from mmedge_export.capture.attention_standard import decompose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmedge.native.describe import Mode

__all__ = ["NAME", "segmented_attention"]

NAME = "mmedge::segmented_attention"

#: ``biased`` are the segments that ``bias`` is of: torch has no gradients for lists with gaps.
SCHEMA = (
    "(Tensor q, Tensor[] k, Tensor[] v, Tensor?[] lens, Tensor?[] key_valid, Tensor[] bias, "
    "int[] biased, Tensor? seg_bias, Tensor? gamma, bool independent, float scale, "
    "int num_splits, bool return_lse) -> (Tensor, Tensor)"
)

Optional = Tensor | None


def segmented_attention(
    q: Tensor,
    k: Sequence[Tensor],
    v: Sequence[Tensor],
    *,
    lens: Sequence[Optional] | None = None,
    key_valid: Sequence[Optional] | None = None,
    bias: Sequence[Optional] | None = None,
    seg_bias: Optional = None,
    gamma: Optional = None,
    mode: Mode = "joint",
    scale: float | None = None,
    num_splits: int = 0,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attend over segments in one softmax, without putting them together.

    Args:
        q: queries ``[B, Lq, H, D]``.
        k: keys of 1 to 8 segments, ``[B or 1, L_s, Hkv, D]``; Hkv divides H.
        v: values ``[B or 1, L_s, Hkv, Dv]``.
        lens: by segment, int32 ``[B]``: how many of its keys count; None: all.
        key_valid: by segment, bool ``[B or 1, L_s]``: False hides a key; None: none.
        bias: by segment, float32 or q's dtype, ``[B or 1, H or 1, Lq or 1, L_s]``; None: none.
        seg_bias: float32 ``[M]``, ``[B, M]`` or ``[B, H, M]``, added to a segment's scores.
        gamma: weights of independent segments, of the same shapes; None: 1.
        mode: ``joint``, or ``independent`` for the sum of ``gamma`` times each segment's attention.
        scale: of the scores; None: 1 / sqrt(D).
        num_splits: parts into which the kernel cuts keys; 0: chosen by the shape.
        return_lse: also return the log-sum-exp of the scores, float32 ``[B, H, Lq]``.

    Returns:
        ``[B, Lq, H, Dv]`` of q's dtype. A row with no key to attend to is 0. With ``return_lse``
        a pair.

    Raises:
        InputError: dtypes, shapes or strides that do not fit.
    """
    none: list[Optional] = [None] * len(k)
    out, lse = torch.ops.mmedge.segmented_attention(
        q,
        list(k),
        list(v),
        none if lens is None else list(lens),
        none if key_valid is None else list(key_valid),
        [] if bias is None else [tensor for tensor in bias if tensor is not None],
        [] if bias is None else [s for s, tensor in enumerate(bias) if tensor is not None],
        seg_bias,
        gamma,
        mode == "independent",
        1.0 / math.sqrt(q.shape[-1]) if scale is None else scale,
        num_splits,
        return_lse,
    )
    return (out, lse) if return_lse else out


def _fake(
    q: Tensor,
    k: Sequence[Tensor],
    v: Sequence[Tensor],
    *rest: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor]:
    del k
    batch, rows, heads, _ = q.shape
    lse = (batch, heads, rows) if rest[-1] else (0,)
    return q.new_empty(batch, rows, heads, v[0].shape[-1]), q.new_empty(lse, dtype=torch.float32)


def _on_cpu(
    q: Tensor,
    k: Sequence[Tensor],
    v: Sequence[Tensor],
    *rest: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor]:
    fits = all(tensor.dtype == torch.float32 for tensor in (q, *k, *v))
    if not fits or native.why_absent() or not _pays(f"cpu-{native.cpu_isa()}", q, k):
        return _standard(q, k, v, *rest)
    call, out, lse, _copies = _describe(q, k, v, *rest)
    if out.numel():
        native.library().run(call, torch.get_num_threads())
    return out, lse


def _on_gpu(
    q: Tensor,
    k: Sequence[Tensor],
    v: Sequence[Tensor],
    *rest: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor]:
    fits = all(tensor.dtype == q.dtype for tensor in (*k, *v))
    capability = "".join(map(str, torch.cuda.get_device_capability(q.device)))
    has_kernel = fits and q.dtype in (torch.float16, torch.bfloat16) and native.cuda_archs()
    if not has_kernel or not _pays(f"sm_{capability}", q, k):
        return _standard(q, k, v, *rest)
    call, out, lse, _copies = _describe(q, k, v, *rest)
    if out.numel():
        library, stream = native.library(), torch.cuda.current_stream(q.device)
        with torch.cuda.device(q.device):
            size = library.workspace_bytes(call)
            if size is None:
                return _standard(q, k, v, *rest)
            # Kernels leave it zeroed, but the allocator may give it to somebody else in between.
            memory = torch.zeros(size, dtype=torch.uint8, device=q.device) if size else None
            library.enqueue(
                call, memory.data_ptr() if memory is not None else 0, stream.cuda_stream
            )
    return out, lse


def _pays(device: str, q: Tensor, k: Sequence[Tensor]) -> bool:
    """Whether the kernel was measured to be no slower than standard operators."""
    keys = sum(tensor.shape[1] for tensor in k)
    dtype = str(q.dtype).removeprefix("torch.")
    rows, dim = q.shape[1], q.shape[3]
    return choose("torch", device, dtype, rows=rows, keys=keys, dim=dim).kernel


def _standard(
    q: Tensor,
    k: Sequence[Tensor],
    v: Sequence[Tensor],
    *rest: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor]:
    out, lse = decompose(q, k, v, *rest, exact=True)
    return out.contiguous(), lse.contiguous()


def _describe(
    q: Tensor,
    k: Sequence[Tensor],
    v: Sequence[Tensor],
    lens: Sequence[Optional],
    key_valid: Sequence[Optional],
    bias: Sequence[Tensor],
    biased: Sequence[int],
    seg_bias: Optional,
    gamma: Optional,
    independent: bool,  # noqa: FBT001
    scale: float,
    num_splits: int,
    return_lse: bool,  # noqa: FBT001
) -> tuple[native.SegAttn, Tensor, Tensor, list[Tensor]]:
    """The call, where its results go, and what has to live until it has run."""
    operands = (q, *k, *v, *lens, *key_valid, *bias, seg_bias, gamma)
    by_segment = dict(zip(biased, bias, strict=True))
    devices = {tensor.device for tensor in operands if tensor is not None}
    if len(devices) > 1:
        raise InputError(f"expected all tensors on one device, got {sorted(map(str, devices))}")
    copies: list[Tensor] = []

    def view(tensor: Tensor) -> ArrayView:
        if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            tensor = tensor.contiguous()
            copies.append(tensor)
        dtype = str(tensor.dtype).removeprefix("torch.")
        return ArrayView(tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), dtype)

    def views(tensors: Sequence[Optional]) -> list[ArrayView | None]:
        return [None if tensor is None else view(tensor) for tensor in tensors]

    call = describe(
        view(q),
        [view(tensor) for tensor in k],
        [view(tensor) for tensor in v],
        lens=views(lens),
        key_valid=views(key_valid),
        bias=views([by_segment.get(s) for s in range(len(k))]),
        seg_bias=None if seg_bias is None else view(seg_bias),
        gamma=None if gamma is None else view(gamma),
        mode="independent" if independent else "joint",
        scale=scale,
        num_splits=num_splits,
    )
    out = q.new_empty(out_shape(call))
    lse = q.new_empty(lse_shape(call) if return_lse else (0,), dtype=torch.float32)
    write_to(call, view(out), view(lse) if return_lse else None)
    return call, out, lse, copies


# Gradients: the standard operators are run again and torch goes back through them.


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401, ARG001
    ctx.inputs = inputs


def _backward(ctx: Any, out_grad: Tensor, lse_grad: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
    tensors: list[Tensor] = []

    def detached(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, list | tuple):
            return [detached(one) for one in value]
        if isinstance(value, Tensor) and value.is_floating_point():
            tensors.append(value.detach().requires_grad_())
            return tensors[-1]
        return value

    with torch.enable_grad():
        inputs = [detached(value) for value in ctx.inputs]
        out, lse = decompose(*inputs, exact=True)
    outputs, grads = [out], [out_grad]
    if lse.numel() and lse_grad is not None:
        outputs.append(lse)
        grads.append(lse_grad)
    gradients = iter(torch.autograd.grad(outputs, tensors, grads, allow_unused=True))

    def attached(value: Any) -> Any:  # noqa: ANN401
        # torch counts a list as a list where all of it are tensors, and else as one input.
        if isinstance(value, list | tuple) and all(isinstance(one, Tensor) for one in value):
            return [attached(one) for one in value]
        return next(gradients) if isinstance(value, Tensor) and value.is_floating_point() else None

    return tuple(attached(value) for value in ctx.inputs)


torch.library.define(NAME, SCHEMA)
torch.library.register_fake(NAME, _fake)
torch.library.impl(NAME, "CompositeExplicitAutograd", _standard)
torch.library.impl(NAME, "CPU", _on_cpu)
torch.library.impl(NAME, "CUDA", _on_gpu)
torch.library.register_autograd(NAME, _backward, setup_context=_save)
