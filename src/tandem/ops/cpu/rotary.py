"""Rotary positions as one C++ kernel (kernels/rotary.cpp), both ways; `tandem.ops.rotary` calls it.

Shapes: T tokens, H heads, P head width, K pairs of channels that turn.
"""

import torch
from torch import Tensor

from tandem.ops.cpu.compiled import call, int64s, is_narrow, rows_of_heads


def rotary(x_THP: Tensor, position_T: Tensor, frequency_K: Tensor, amplitude: float) -> Tensor:
    """`tandem.ops.rotary` for float32 or bfloat16 x; no gradient flows to the frequencies."""
    return _Rotary.apply(x_THP, position_T.contiguous(), frequency_K.float().contiguous(), amplitude)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_THP, position_T, frequency_K, amplitude):  # noqa: ANN001, ANN205
        ctx.save_for_backward(position_T, frequency_K)
        ctx.amplitude = amplitude
        return _turned(x_THP, position_T, frequency_K, amplitude, 1.0)

    @staticmethod
    def backward(ctx, dy_THP):  # noqa: ANN001, ANN205
        position_T, frequency_K = ctx.saved_tensors
        return _turned(dy_THP, position_T, frequency_K, ctx.amplitude, -1.0), None, None, None


def _turned(x_THP: Tensor, position_T: Tensor, frequency_K: Tensor, amplitude: float, direction: float) -> Tensor:
    x = rows_of_heads(x_THP)
    # Of a fixed stride: a view of one token may have any.
    sizes = int64s(*x.shape, len(frequency_K), x.stride(0) if len(x) > 1 else x.shape[1] * x.shape[2])
    y_THP = torch.empty(x.shape, dtype=x.dtype)
    # A channel past the pairs passes through in both directions.
    call("rotary", sizes, amplitude, direction, is_narrow(x), position_T, frequency_K, x, y_THP)
    return y_THP
