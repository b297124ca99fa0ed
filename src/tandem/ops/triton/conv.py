"""The causal convolution over packed documents, with an optional SiLU, as Triton kernels; `tandem.ops.causal_conv` calls them.

A tile of the forward pass is some tokens of some channels; the rows under its taps come from the cache of a multiprocessor,
so memory sees each row once. In the backward pass each row of a tile walks along a strip of tokens of its own, so that a
thread has what came before in its registers and nothing is exchanged. The sums of programs are added in their order: results
repeat bit for bit.

Shapes: T tokens, S documents, C channels, W taps.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from tandem.ops.layout import SequenceLayout
from tandem.ops.triton.sums import sum_over
from tandem.ops.triton.support import ceil_div, opaque, power_of_two

_CHANNELS = 128  # of a tile
_TOKENS = 16  # of a tile of the forward pass
_STRIPS, _LENGTH = 4, 64  # that a program of the backward pass walks along, and tokens of each
_AHEAD = 4  # tokens of a strip that are read at once


def conv(
    x_TC: Tensor, weight_CW: Tensor, bias_C: Tensor, layout: SequenceLayout, halo_SWC: Tensor | None, silu: bool
) -> Tensor:
    """`causal_conv` for float32 or narrower; no gradient flows to `halo_SWC`."""
    x = x_TC if x_TC.stride(1) == 1 else x_TC.contiguous()
    halo, document_T = (None, None) if halo_SWC is None else (halo_SWC.contiguous(), layout.document_T)
    run = _Conv.apply if torch.is_grad_enabled() else _conv
    return run(x, weight_CW.contiguous(), bias_C.contiguous(), halo, layout.index_T, document_T, silu)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *given):  # noqa: ANN002, ANN205
        *tensors, ctx.silu = given
        ctx.save_for_backward(*tensors)
        return _conv(*given)

    @staticmethod
    def backward(ctx, dy_TC: Tensor):  # noqa: ANN205
        return *_conv_gradient(dy_TC, *ctx.saved_tensors, ctx.silu), None, None, None, None


@opaque(lambda x_TC, *_: torch.empty(x_TC.shape, dtype=x_TC.dtype, device=x_TC.device))
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


def _gradients(dy_TC: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes of those of x, weight and bias."""
    dx_TC, d_weight_CW, d_bias_C = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in given[:3])
    return dx_TC, d_weight_CW, d_bias_C


@opaque(_gradients)
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
    dx_TC = torch.empty(x_TC.shape, dtype=x_TC.dtype, device=x_TC.device)
    sizes, tile = _sizes(x_TC, weight_CW, halo_SWC, silu)
    tile |= {"BT": _STRIPS, "LENGTH": _LENGTH, "AHEAD": _AHEAD}
    programs = ceil_div(T, _STRIPS * _LENGTH)
    # Taps by rows: by columns, as in the weight, stores take registers that keep a third program off a processor.
    partial = torch.empty(programs, W + 1, C, dtype=torch.float32, device=x_TC.device)
    given = (x_TC, weight_CW, bias_C, halo_SWC, index_T, document_T, dy_TC.contiguous())
    _backward[programs, ceil_div(C, tile["BC"])](*given, dx_TC, partial, *sizes, **tile)
    sums = sum_over(partial, 0)
    return dx_TC, torch.empty_like(weight_CW).copy_(sums[:W].t()), sums[W].to(bias_C.dtype)


def _sizes(
    x_TC: Tensor, weight_CW: Tensor, halo_SWC: Tensor | None, silu: bool
) -> tuple[tuple[int, ...], dict[str, Any]]:
    (T, C), W = x_TC.shape, weight_CW.shape[1]
    form = {"W": W, "SILU": silu, "HALO": halo_SWC is not None}
    return (T, C, x_TC.stride(0)), {**form, "BT": _TOKENS, "BC": min(_CHANNELS, power_of_two(C)), "num_warps": 4}


@no_type_check
@triton.jit
def _load(rows, t, c, T, C, stride):
    """Rows t in float32; zeros before the first and behind the last."""
    mask = ((t >= 0) & (t < T))[:, None] & (c < C)[None, :]
    return tl.load(rows + t[:, None] * stride + c[None, :], mask=mask, other=0.0).to(tl.float32)


@no_type_check
@triton.jit
def _before(row, halo, t, c, place, slot, back: tl.constexpr, T, C, W: tl.constexpr, HALO: tl.constexpr):
    """`row`, which lies `back` rows before token t, if it is of the same document; else of the halo, or zeros."""
    if HALO:
        mask = ((t < T) & (place < back))[:, None] & (c < C)[None, :]
        kept = slot * (W - 1) + W - 1 + place - back
        other = tl.load(halo + kept[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
    else:
        other = tl.zeros(row.shape, tl.float32)
    return tl.where((place >= back)[:, None], row, other)


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
        row = _load(x, t - back, c, T, C, x_stride)
        if back > 0:
            row = _before(row, halo, t, c, place, slot, back, T, C, W, HALO)
        total += row * _tap(weight, c, C, back, W)
    if SILU:
        total *= tl.sigmoid(total)
    tl.store(y + t[:, None] * C + c[None, :], total, mask=(t < T)[:, None] & (c < C)[None, :])


@no_type_check
@triton.jit
def _gradient_of_sum(g, rows, taps, offset, W: tl.constexpr, SILU: tl.constexpr):
    """The gradient of what goes into SiLU from that of what comes out."""
    if SILU:
        total = tl.zeros(g.shape, tl.float32) + offset
        for back in tl.static_range(W):
            total += rows[back] * taps[back]
        open_ = tl.sigmoid(total)
        g *= open_ * (1 + total * (1 - open_))
    return g


@no_type_check
@triton.jit
def _spread(g, own, rows, taps, d_taps, pending, place, W: tl.constexpr):
    """Adds what one token hands back to the gradients of the taps, and to those of the rows under them."""
    sums, moved = (), ()
    for back in tl.static_range(W):
        sums = sums + (d_taps[back] + own * rows[back],)
        pull = tl.where((place >= back)[:, None], g * taps[back], 0.0)
        if back > 0:
            pull += pending[back - 1]
        moved = moved + (pull,)
    return sums, moved


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
    LENGTH: tl.constexpr,
    AHEAD: tl.constexpr,
):
    first = (tl.program_id(0) * BT + tl.arange(0, BT)).to(tl.int64) * LENGTH
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    offset = tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    taps, seen, pending, d_taps = (), (), (), ()
    d_bias = tl.zeros((BT, BC), tl.float32)
    for back in tl.static_range(W):
        taps = taps + (_tap(weight, c, C, back, W),)
        d_taps = d_taps + (tl.zeros((BT, BC), tl.float32),)
        pending = pending + (tl.zeros((BT, BC), tl.float32),)  # gradients of the last rows, the newest first
    for back in tl.static_range(W - 1):
        seen = seen + (_load(x, first - (W - 1) + back, c, T, C, x_stride),)  # rows before the strip, in order
    for block in range(LENGTH // AHEAD + (W - 2 + AHEAD) // AHEAD):
        given = ()
        for u in tl.static_range(AHEAD):  # all that is read, before anything waits for it
            t = first + block * AHEAD + u
            seen = seen + (_load(x, t, c, T, C, x_stride),)
            given = given + (_load(dy, t, c, T, C, C),)
        for u in tl.static_range(AHEAD):
            t = first + block * AHEAD + u
            place = tl.load(index + t, mask=t < T, other=0)
            slot = tl.load(document + t, mask=t < T, other=0) if HALO else place
            rows = (seen[W - 1 + u],)
            for back in tl.static_range(1, W):
                rows = rows + (_before(seen[W - 1 + u - back], halo, t, c, place, slot, back, T, C, W, HALO),)
            g = _gradient_of_sum(given[u], rows, taps, offset, W, SILU)
            own = tl.where((t < first + LENGTH)[:, None], g, 0.0)
            d_bias += own
            d_taps, pending = _spread(g, own, rows, taps, d_taps, pending, place, W)
            done = t - (W - 1)  # this row has got all of its gradient
            mask = (done >= first) & (done < first + LENGTH) & (done < T)
            tl.store(dx + done[:, None] * C + c[None, :], pending[W - 1], mask=mask[:, None] & (c < C)[None, :])
        kept = ()
        for back in tl.static_range(W - 1):
            kept = kept + (seen[AHEAD + back],)
        seen = kept
    into = partial + tl.program_id(0).to(tl.int64) * (W + 1) * C + c
    for back in tl.static_range(W):
        tl.store(into + (W - 1 - back) * C, tl.sum(d_taps[back], 0), mask=c < C)
    tl.store(into + W * C, tl.sum(d_bias, 0), mask=c < C)
