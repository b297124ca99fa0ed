"""The causal convolution over packed documents, with an optional SiLU, as Triton kernels; `tandem.ops.causal_conv` calls them.

A tile is some tokens of some channels. The rows under its taps come from the cache of a multiprocessor, so memory sees each
row once. In the backward pass a program walks along a strip of tokens and leaves its sums of the gradients of taps and bias;
the sums of strips are added in their order, so that results repeat bit for bit.

Shapes: T tokens, S documents, C channels, W taps.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from tandem.ops.layout import SequenceLayout
from tandem.ops.triton.support import ceil_div, power_of_two

_TOKENS, _CHANNELS, _WARPS = 16, 128, 8  # of a tile
_STRIP = 16  # tiles that one program of the backward pass walks along


def conv(
    x_TC: Tensor, weight_CW: Tensor, bias_C: Tensor, layout: SequenceLayout, halo_SWC: Tensor | None, silu: bool
) -> Tensor:
    """`causal_conv` for float32 or narrower; no gradient flows to `halo_SWC`."""
    x = x_TC if x_TC.stride(1) == 1 else x_TC.contiguous()
    halo, document_T = (None, None) if halo_SWC is None else (halo_SWC.contiguous(), layout.document_T)
    return _conv(x, weight_CW.contiguous(), bias_C.contiguous(), halo, layout.index_T, document_T, silu)


@torch.library.custom_op("tandem::conv", mutates_args=())
def _conv(
    x_TC: Tensor,
    weight_CW: Tensor,
    bias_C: Tensor,
    halo_SWC: Tensor | None,
    index_T: Tensor,
    document_T: Tensor | None,
    silu: bool,
) -> Tensor:
    y_TC = torch.empty(x_TC.shape, dtype=x_TC.dtype, device=x_TC.device)
    sizes, tile = _sizes(x_TC, weight_CW, halo_SWC, silu)
    grid = (ceil_div(x_TC.shape[0], tile["BT"]), ceil_div(x_TC.shape[1], tile["BC"]))
    _forward[grid](x_TC, weight_CW, bias_C, halo_SWC, index_T, document_T, y_TC, *sizes, **tile)
    return y_TC


@_conv.register_fake
def _(
    x_TC: Tensor,
    weight_CW: Tensor,
    bias_C: Tensor,
    halo_SWC: Tensor | None,
    index_T: Tensor,
    document_T: Tensor | None,
    silu: bool,
) -> Tensor:
    return torch.empty(x_TC.shape, dtype=x_TC.dtype, device=x_TC.device)


@torch.library.custom_op("tandem::conv_gradient", mutates_args=())
def _conv_gradient(
    dy_TC: Tensor,
    x_TC: Tensor,
    weight_CW: Tensor,
    bias_C: Tensor,
    halo_SWC: Tensor | None,
    index_T: Tensor,
    document_T: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    (T, C), W = x_TC.shape, weight_CW.shape[1]
    dx_TC, d_weight_CW, d_bias_C = _gradients(x_TC, weight_CW, bias_C)
    sizes, tile = _sizes(x_TC, weight_CW, halo_SWC, silu)
    strips = ceil_div(T, tile["BT"] * _STRIP)
    partial = torch.empty(strips, W + 1, C, dtype=torch.float32, device=x_TC.device)
    given = (x_TC, weight_CW, bias_C, halo_SWC, index_T, document_T, dy_TC.contiguous())
    grid = (strips, ceil_div(C, tile["BC"]))
    _backward[grid](*given, dx_TC, partial, *sizes, **tile, STRIP=_STRIP, WP=power_of_two(W + 1))
    total = partial.sum(0)
    return dx_TC, d_weight_CW.copy_(total[:W].t()), d_bias_C.copy_(total[W])


@_conv_gradient.register_fake
def _(
    dy_TC: Tensor,
    x_TC: Tensor,
    weight_CW: Tensor,
    bias_C: Tensor,
    halo_SWC: Tensor | None,
    index_T: Tensor,
    document_T: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(x_TC, weight_CW, bias_C)


def _gradients(*given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dx_TC, d_weight_CW, d_bias_C = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in given)
    return dx_TC, d_weight_CW, d_bias_C


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _pull(ctx: Any, dy_TC: Tensor) -> tuple[Tensor | None, ...]:
    return (*_conv_gradient(dy_TC, *ctx.saved_tensors, ctx.silu), None, None, None, None)


_conv.register_autograd(_pull, setup_context=_keep)


def _sizes(
    x_TC: Tensor, weight_CW: Tensor, halo_SWC: Tensor | None, silu: bool
) -> tuple[tuple[int, ...], dict[str, Any]]:
    (T, C), W = x_TC.shape, weight_CW.shape[1]
    form = {"W": W, "SILU": silu, "HALO": halo_SWC is not None}
    return (T, C, x_TC.stride(0)), {
        **form,
        "BT": _TOKENS,
        "BC": min(_CHANNELS, power_of_two(C)),
        "num_warps": _WARPS,
    }


@no_type_check
@triton.jit
def _row(x, halo, t, c, place, slot, shift: tl.constexpr, T, C, x_stride, W: tl.constexpr, HALO: tl.constexpr):
    """The rows `shift` behind the tokens t, in the documents of t; zeros, or the halo, before their first token."""
    position = place + shift
    mask = ((t < T) & (t + shift < T) & (position >= 0))[:, None] & (c < C)[None, :]
    row = tl.load(x + (t + shift)[:, None] * x_stride + c[None, :], mask=mask, other=0.0).to(tl.float32)
    if HALO and shift < 0:
        kept = slot * (W - 1) + W - 1 + position
        mask = ((t < T) & (position < 0))[:, None] & (c < C)[None, :]
        row += tl.load(halo + kept[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
    return row


@no_type_check
@triton.jit
def _tap(weight, c, C, back: tl.constexpr, W: tl.constexpr):
    """The tap for the row `back` tokens ago."""
    return tl.load(weight + c * W + W - 1 - back, mask=c < C, other=0.0).to(tl.float32)[None, :]


@no_type_check
@triton.jit
def _forward(
    x,
    weight,
    bias,
    halo,
    index,
    document,
    y,
    T,
    C,
    x_stride,
    W: tl.constexpr,
    SILU: tl.constexpr,
    HALO: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
):
    t = (tl.program_id(0) * BT + tl.arange(0, BT)).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    place = tl.load(index + t, mask=t < T, other=0)
    slot = tl.load(document + t, mask=t < T, other=0) if HALO else place
    total = tl.zeros((BT, BC), tl.float32) + tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    for back in tl.static_range(W):
        total += _row(x, halo, t, c, place, slot, -back, T, C, x_stride, W, HALO) * _tap(weight, c, C, back, W)
    if SILU:
        total *= tl.sigmoid(total)
    tl.store(y + t[:, None] * C + c[None, :], total, mask=(t < T)[:, None] & (c < C)[None, :])


@no_type_check
@triton.jit
def _backward(
    x,
    weight,
    bias,
    halo,
    index,
    document,
    dy,
    dx,
    partial,
    T,
    C,
    x_stride,
    W: tl.constexpr,
    SILU: tl.constexpr,
    HALO: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    STRIP: tl.constexpr,
    WP: tl.constexpr,
):
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    offset = tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    tap = tl.arange(0, WP)[:, None]
    d_taps = tl.zeros((WP, BC), tl.float32)  # the last one is the bias's
    for step in range(STRIP):
        t = ((tl.program_id(0) * STRIP + step) * BT + tl.arange(0, BT)).to(tl.int64)
        place = tl.load(index + t, mask=t < T, other=0)
        slot = tl.load(document + t, mask=t < T, other=0) if HALO else place
        pulled = tl.zeros((BT, BC), tl.float32)
        for ahead in tl.static_range(W):
            # What the output `ahead` tokens later hands back, if it belongs to the same document.
            reached = tl.load(index + t + ahead, mask=t + ahead < T, other=-1) >= ahead
            mask = reached[:, None] & (c < C)[None, :]
            g = tl.load(dy + (t + ahead)[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
            if SILU:
                total = tl.zeros((BT, BC), tl.float32) + offset
                for back in tl.static_range(W):
                    row = _row(x, halo, t, c, place, slot, ahead - back, T, C, x_stride, W, HALO)
                    total += row * _tap(weight, c, C, back, W)
                open_ = tl.sigmoid(total)
                g *= open_ * (1 + total * (1 - open_))
            pulled += g * _tap(weight, c, C, ahead, W)
            if ahead == 0:
                for back in tl.static_range(W):
                    row = _row(x, halo, t, c, place, slot, -back, T, C, x_stride, W, HALO)
                    d_taps += tl.where(tap == W - 1 - back, tl.sum(g * row, 0)[None, :], 0.0)
                d_taps += tl.where(tap == W, tl.sum(g, 0)[None, :], 0.0)
        tl.store(dx + t[:, None] * C + c[None, :], pulled, mask=(t < T)[:, None] & (c < C)[None, :])
    into = partial + (tl.program_id(0) * (W + 1) + tap).to(tl.int64) * C + c[None, :]
    tl.store(into, d_taps, mask=(tap <= W) & (c < C)[None, :])
