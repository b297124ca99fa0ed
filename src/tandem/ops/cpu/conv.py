"""The causal convolution as one C++ kernel (kernels/conv.cpp); `tandem.ops.causal_conv` calls it.

Shapes: T tokens, S documents, C channels, W taps.
"""

import torch
from torch import Tensor

from tandem.ops.cpu.compiled import call, int64s, is_narrow
from tandem.ops.layout import SequenceLayout


def conv(
    x_TC: Tensor, weight_CW: Tensor, bias_C: Tensor, layout: SequenceLayout, halo_SWC: Tensor | None, silu: bool
) -> Tensor:
    """`causal_conv` for float32 or bfloat16 x; no gradient flows to `halo_SWC`, which has x's dtype."""
    return _Conv.apply(x_TC, weight_CW.float(), bias_C.float(), halo_SWC, layout, silu)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_TC, weight_CW, bias_C, halo_SWC, layout, silu):  # noqa: ANN001, ANN205
        x = x_TC if x_TC.stride(1) == 1 else x_TC.contiguous()
        halo = None if halo_SWC is None else halo_SWC.contiguous()
        weight, bias = weight_CW.contiguous(), bias_C.contiguous()
        offsets = [0]
        for length in layout.lengths:
            offsets.append(offsets[-1] + length)
        C, W = weight.shape
        ctx.tables = (int64s(layout.documents, C, W, silu, x.stride(0)), int64s(*offsets), is_narrow(x))
        ctx.save_for_backward(x, weight, bias, halo)
        y = torch.empty(x.shape, dtype=x.dtype)
        call("conv_forward", *ctx.tables, x, weight, bias, halo, y)
        return y

    @staticmethod
    def backward(ctx, dy_TC: Tensor):  # noqa: ANN001, ANN205
        x, weight, bias, halo = ctx.saved_tensors
        (T, C), W = x.shape, weight.shape[1]
        dx, pull_TC = torch.empty(x.shape, dtype=x.dtype), torch.empty(T, C)
        partial = torch.zeros(torch.get_num_threads(), W + 1, C)  # taps, then the bias, of each thread
        call("conv_backward", *ctx.tables, x, weight, bias, halo, dy_TC.contiguous(), dx, pull_TC, partial)
        total = partial.sum(0)
        return dx, total[:W].t(), total[W], None, None, None
