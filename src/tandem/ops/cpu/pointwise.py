"""RMSNorm with a gate, SwiGLU and the softmax of a cross-entropy as C++ kernels (kernels/pointwise.cpp).

Shapes: T tokens, D width, F expert width, V vocabulary, Q tokens of a block.
"""

from typing import Any

import torch
from torch import Tensor

from tandem.ops.cpu.compiled import call, int64s, is_narrow

# (dtype in, dtype out) of a norm, in the numbering of the kernel.
_FORMS = {
    (torch.float32, torch.float32): 0,
    (torch.bfloat16, torch.bfloat16): 1,
    (torch.float32, torch.bfloat16): 2,
}


def norm_is_supported(dtype_in: torch.dtype, dtype_out: torch.dtype) -> bool:
    """Whether the kernel has this pair of formats."""
    return (dtype_in, dtype_out) in _FORMS


def norm(x: Tensor, weight_D: Tensor, eps: float, groups: int, gate: Tensor | None, dtype: torch.dtype) -> Tensor:
    """`rms_norm` for the supported formats; x and gate have one dtype."""
    if torch.is_grad_enabled():
        return _Norm.apply(x, weight_D.float(), eps, groups, gate, dtype)
    return _norm(x, weight_D, eps, groups, gate, dtype)[0]  # a decode step feels the cost of `apply`


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up of the last dimension's halves, for float32 or bfloat16."""
    return _SwiGLU.apply(gate_up) if torch.is_grad_enabled() else _swiglu(gate_up)[0]


def softmax_gradient(logits_QV: Tensor, targets_Q: Tensor, weights_Q: Tensor) -> Tensor:
    """Writes weight · (softmax - one hot of the target) over the logits, in place.

    Returns:
        nll_Q, -log softmax(logits)[target], in float32.
    """
    nll_Q = torch.empty(len(logits_QV))
    Q, V = logits_QV.shape
    call(
        "softmax_gradient",
        *(Q, V, is_narrow(logits_QV)),
        *(logits_QV, targets_Q.contiguous(), weights_Q.float().contiguous(), nll_Q),
    )
    return nll_Q


def _norm(
    x: Tensor, weight_D: Tensor, eps: float, groups: int, gate: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, tuple[Tensor, Tensor | None, Tensor], tuple[Any, ...]]:
    """The result, the tensors that were read, and the sizes, both in the form that the kernels take."""
    read = (_as_rows(x), None if gate is None else _as_rows(gate), weight_D.contiguous())
    T, D = read[0].shape
    sizes = int64s(T, D, groups, read[0].stride(0), 0 if read[1] is None else read[1].stride(0))
    tables = (sizes, eps, _FORMS[x.dtype, dtype])
    y = torch.empty(x.shape, dtype=dtype)
    call("norm_forward", *tables, is_narrow(read[2]), *read, y)
    return y, read, tables


def _swiglu(gate_up: Tensor) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
    read = gate_up.contiguous()
    F = read.shape[-1] // 2
    y = torch.empty(*read.shape[:-1], F, dtype=read.dtype)
    sizes = (y.numel() // F, F, is_narrow(read))
    call("swiglu_forward", *sizes, read, y)
    return y, read, sizes


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight_D, eps, groups, gate, dtype):  # noqa: ANN001, ANN205
        y, read, ctx.tables = _norm(x, weight_D, eps, groups, gate, dtype)
        ctx.save_for_backward(*read)
        ctx.shape = x.shape
        return y

    @staticmethod
    def backward(ctx, dy: Tensor):  # noqa: ANN001, ANN205
        x_TD, gate_TD, weight = ctx.saved_tensors
        dx = torch.empty(ctx.shape, dtype=x_TD.dtype)
        d_gate = None if gate_TD is None else torch.empty_like(dx)
        partial = torch.zeros(torch.get_num_threads(), len(weight))
        call("norm_backward", *ctx.tables, x_TD, gate_TD, weight, dy.contiguous(), dx, d_gate, partial)
        return dx, partial.sum(0), None, None, d_gate, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up):  # noqa: ANN001, ANN205
        y, read, ctx.sizes = _swiglu(gate_up)
        ctx.save_for_backward(read)
        return y

    @staticmethod
    def backward(ctx, dy: Tensor):  # noqa: ANN001, ANN205
        (given,) = ctx.saved_tensors
        d_given = torch.empty_like(given)
        call("swiglu_backward", *ctx.sizes, given, dy.contiguous(), d_given)
        return d_given


def _as_rows(t: Tensor) -> Tensor:
    """(T, D) with neighbors side by side; rows may lie apart, as in a slice of a projection."""
    rows = t if t.ndim == 2 else t.reshape(-1, t.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()
