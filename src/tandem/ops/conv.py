"""Causal depthwise convolution over packed documents: short, per channel, and reset at every document.

Each document is laid into one stream behind W - 1 rows of its own past (zeros, or the halo kept from an earlier call), so
that one plain convolution serves all documents and none sees its neighbor.

Shapes: T tokens, S documents, C channels, W taps, M = T + S (W - 1) rows of the stream.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tandem.ops.cpu.compiled import kernels_for
from tandem.ops.cpu.conv import conv as cpu_conv
from tandem.ops.layout import SequenceLayout
from tandem.ops.triton.support import triton_for


def causal_conv_reference(
    x_TC: Tensor, weight_CW: Tensor, bias_C: Tensor, layout: SequenceLayout, halo: Tensor | None = None
) -> Tensor:
    """y_t = b + Σ_w weight_w x_{t-W+1+w}, one document and one tap at a time; `causal_conv` is tested against it."""
    W = weight_CW.shape[1]
    pieces = []
    for document, rows in enumerate(x_TC.split(list(layout.lengths))):
        past = rows.new_zeros(W - 1, rows.shape[1]) if halo is None else halo[document]
        padded = torch.cat([past, rows])
        pieces.append(bias_C + sum(padded[w : w + len(rows)] * weight_CW[:, w] for w in range(W)))
    return torch.cat(pieces)


def causal_conv(
    x_TC: Tensor,
    weight_CW: Tensor,
    bias_C: Tensor | None,
    layout: SequenceLayout,
    halo: Tensor | None = None,
    *,
    silu: bool = False,
) -> Tensor:
    """Convolves each channel over its own document.

    Args:
        weight_CW: taps of each channel, the last one for the current token.
        bias_C: zeros when None.
        halo: the W - 1 inputs before each document's first token here, halo_SWC; zeros when None.
        silu: pass the result through SiLU.
    Returns:
        y_TC, in x's dtype.
    Raises:
        ValueError: lengths in layout do not add up to T.
    """
    if layout.tokens != x_TC.shape[0]:
        raise ValueError(f"layout.lengths add up to {layout.tokens} tokens but x has {x_TC.shape[0]}")
    bias_C = weight_CW.new_zeros(len(weight_CW)) if bias_C is None else bias_C
    fixed_halo = halo is None or not (halo.requires_grad or halo.dtype != x_TC.dtype)
    if fixed_halo and kernels_for(x_TC, weight_CW, bias_C):
        return cpu_conv(x_TC, weight_CW, bias_C, layout, halo, silu)
    if fixed_halo and triton_for(x_TC, weight_CW, bias_C):
        from tandem.ops.triton.conv import conv as triton_conv

        return triton_conv(x_TC, weight_CW, bias_C, layout, halo, silu)
    y_TC = _CausalConv.apply(x_TC, weight_CW.to(x_TC.dtype), bias_C.to(x_TC.dtype), halo, layout)
    return F.silu(y_TC) if silu else y_TC


def conv_step(x_SC: Tensor, weight_CW: Tensor, bias_C: Tensor, halo_SWC: Tensor) -> Tensor:
    """One token of each of S documents; moves `halo_SWC` on in place.

    Returns:
        y_SC, in x's dtype.
    """
    window_SWC = torch.cat([halo_SWC, x_SC[:, None]], dim=1)
    halo_SWC.copy_(window_SWC[:, 1:])
    return ((window_SWC * weight_CW.t()).sum(1) + bias_C).to(x_SC.dtype)


def conv_halo(x_TC: Tensor, layout: SequenceLayout, halo_SWC: Tensor) -> Tensor:
    """The last W - 1 inputs of each document, counting those that `halo_SWC` held before; a new tensor."""
    past = halo_SWC.shape[1]
    if min(layout.lengths) >= past:
        return x_TC[layout.last_S[:, None] + torch.arange(1 - past, 1, device=x_TC.device)]
    stream_MC = _stream(x_TC, past, halo_SWC, layout)
    end_S = layout.last_S + past * torch.arange(1, layout.documents + 1, device=x_TC.device) + 1
    return stream_MC[end_S[:, None] + torch.arange(-past, 0, device=x_TC.device)]


class _CausalConv(torch.autograd.Function):
    """Forward and input gradient are each one depthwise convolution; autograd's own backward is 10 times slower on CPU."""

    @staticmethod
    def forward(ctx, x_TC: Tensor, weight_CW: Tensor, bias_C: Tensor, halo: Tensor | None, layout: SequenceLayout):  # noqa: ANN001, ANN205
        past = weight_CW.shape[1] - 1
        stream_MC = _stream(x_TC, past, halo, layout)
        ctx.save_for_backward(stream_MC, weight_CW)
        ctx.layout, ctx.has_halo = layout, halo is not None
        return _depthwise(stream_MC, weight_CW, bias_C).index_select(0, _rows(layout, past) - past)

    @staticmethod
    def backward(ctx, grad_TC: Tensor):  # noqa: ANN001, ANN205
        stream_MC, weight_CW = ctx.saved_tensors
        layout, past = ctx.layout, weight_CW.shape[1] - 1
        rows_T = _rows(layout, past)
        grad_MC = grad_TC.new_zeros(stream_MC.shape[0] + past, grad_TC.shape[1]).index_copy_(0, rows_T, grad_TC)
        grad_stream_MC = _depthwise(grad_MC, weight_CW.flip(1), None)
        inner = grad_MC[past : stream_MC.shape[0]]
        taps = [(inner * stream_MC[w : w + len(inner)]).sum(0) for w in range(past + 1)]
        grad_halo = None
        if ctx.has_halo:
            first_S = rows_T[layout.offsets_S]
            grad_halo = grad_stream_MC[first_S[:, None] + torch.arange(-past, 0, device=grad_TC.device)]
        grad_x = grad_stream_MC.index_select(0, rows_T)
        return grad_x, torch.stack(taps, dim=1), grad_TC.sum(0), grad_halo, None


def _rows(layout: SequenceLayout, past: int) -> Tensor:
    """Row of each token in the stream."""
    return torch.arange(layout.tokens, device=layout.device) + past * (layout.document_T + 1)


def _stream(x_TC: Tensor, past: int, halo: Tensor | None, layout: SequenceLayout) -> Tensor:
    rows_T = _rows(layout, past)
    stream_MC = x_TC.new_zeros(x_TC.shape[0] + past * layout.documents, x_TC.shape[1])
    stream_MC.index_copy_(0, rows_T, x_TC)
    if halo is not None:
        first_S = rows_T[layout.offsets_S]
        stream_MC[first_S[:, None] + torch.arange(-past, 0, device=x_TC.device)] = halo.to(x_TC.dtype)
    return stream_MC


def _depthwise(stream_MC: Tensor, weight_CW: Tensor, bias_C: Tensor | None) -> Tensor:
    """A convolution of one row, channels last: the form that CPU libraries vectorize over channels."""
    M, C = stream_MC.shape
    image = stream_MC.contiguous().view(1, 1, M, C).permute(0, 3, 1, 2)
    y = F.conv2d(image, weight_CW.contiguous()[:, None, None, :], bias_C, groups=C)
    return y.permute(0, 2, 3, 1).reshape(-1, C)
