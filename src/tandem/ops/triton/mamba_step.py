"""One token of each document through a Mamba-2 layer, between its projections, as Triton kernels.

The first kernel has a program for each document, head and block of channels: it convolves what it needs, moves its part of
the state on and reads the result from it. The second normalizes, and moves the convolution's inputs on, which all programs
of the first one read. No size of a batch changes a bit of any document's result.

Shapes: S documents, J = 2 I + 2 G N + H outputs of the projection, I = H P inner width, H heads, P head width, G groups,
N state width, C = I + 2 G N convolution channels, W taps.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from tandem.ops.triton.support import ceil_div, opaque, power_of_two

_CHANNELS = 16  # of a head that a program takes
_HALO = 256  # channels of the halo that a program moves


def mix(
    projected_SJ: Tensor,
    weights: tuple[Tensor, Tensor | None, Tensor],
    decays: tuple[Tensor, Tensor, Tensor],
    norm: tuple[float, int],
    halo_SWC: Tensor,
    state_SHPN: Tensor,
    limits: tuple[float, float],
) -> Tensor:
    """`tandem.ops.mamba_step` without its projections: from what the first gives to what the second takes.

    Args:
        weights: taps (C, W) and bias (C) of the convolution, and of the gated RMSNorm (I).
    Returns:
        y_SI, in the format of the projection.
    """
    taps_CW, bias_C, norm_I = weights
    return _mix(projected_SJ, taps_CW, bias_C, norm_I, *decays, *norm, halo_SWC, state_SHPN, *limits)


def _result(projected_SJ: Tensor, taps_CW: Tensor, bias_C: Tensor | None, norm_I: Tensor, *_: object) -> Tensor:
    return projected_SJ.new_empty(len(projected_SJ), len(norm_I))


@opaque(_result, mutates=("halo_SWC", "state_SHPN"))
def _mix(
    projected_SJ: Tensor,
    taps_CW: Tensor,
    bias_C: Tensor | None,
    norm_I: Tensor,
    A_log_H: Tensor,
    dt_bias_H: Tensor,
    D_H: Tensor,
    eps: float,
    norm_groups: int,
    halo_SWC: Tensor,
    state_SHPN: Tensor,
    least: float,
    most: float,
) -> Tensor:
    (S, H, P, N), (C, W) = state_SHPN.shape, taps_CW.shape
    inner, given = H * P, projected_SJ.contiguous()
    sizes = (H, (C - inner) // (2 * N), C, given.stride(0))
    scanned_SI = given.new_empty(S, inner)
    tile = {"W": W, "P": P, "N": N, "BP": min(_CHANNELS, power_of_two(P)), "BN": power_of_two(N)}
    read = (given, taps_CW.contiguous(), bias_C, A_log_H, dt_bias_H, D_H, halo_SWC)
    steps = {"BIASED": bias_C is not None, "LIMITED": (least, most) != (0.0, float("inf"))}
    _scan[S, H, ceil_div(P, tile["BP"])](*read, state_SHPN, scanned_SI, *sizes, least, most, **steps, **tile)
    y_SI = torch.empty_like(scanned_SI)
    width = inner // norm_groups
    parts = {
        "WIDTH": width,
        "BD": power_of_two(width),
        "W": W,
        "BW": power_of_two(max(W - 1, 1)),
        "BC": _HALO,
        "num_warps": 8,
    }
    grid = (S, norm_groups + ceil_div(C, _HALO))
    where = (given.stride(0), inner, C, norm_groups, eps)
    _finish[grid](given, scanned_SI, norm_I.contiguous(), halo_SWC, y_SI, *where, **parts)
    return y_SI


@no_type_check
@triton.jit
def _convolve(row, taps, bias, halo, C, c, mask, BIASED: tl.constexpr, W: tl.constexpr):
    """silu(conv) of some channels, rounded to the format of the projection as a prefill does."""
    new = tl.load(row + c, mask=mask, other=0.0)
    total = new.to(tl.float32) * tl.load(taps + c * W + W - 1, mask=mask, other=0.0).to(tl.float32)
    for w in tl.static_range(W - 1):
        past = tl.load(halo + w * C + c, mask=mask, other=0.0).to(tl.float32)
        total += past * tl.load(taps + c * W + w, mask=mask, other=0.0).to(tl.float32)
    if BIASED:
        total += tl.load(bias + c, mask=mask, other=0.0).to(tl.float32)
    return (total * tl.sigmoid(total)).to(new.dtype).to(tl.float32)


@no_type_check
@triton.jit
def _softplus(x):
    """log(1 + eˣ); what rounding 1 + eˣ loses is put back (Kahan's log1p)."""
    e = tl.exp(tl.minimum(x, 20.0))
    u = 1.0 + e
    small = tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))
    return tl.where(x > 20.0, x, small)


@no_type_check
@triton.jit
def _scan(
    projected,
    taps,
    bias,
    A_log,
    dt_bias,
    skip,
    halo,
    state,
    y,
    H,
    G,
    C,
    stride,
    least,
    most,
    BIASED: tl.constexpr,
    LIMITED: tl.constexpr,
    W: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    BP: tl.constexpr,
    BN: tl.constexpr,
):
    s, h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    p, n = tl.program_id(2) * BP + tl.arange(0, BP), tl.arange(0, BN)
    at = ((s * H + h) * P + p)[:, None] * N + n[None, :]
    mask = (p < P)[:, None] & (n < N)[None, :]
    old = tl.load(state + at, mask=mask, other=0.0)
    I = H * P  # noqa: E741
    row, past = projected + s * stride + I, halo + s * (W - 1) * C
    first = I + h // (H // G) * N
    x = _convolve(row, taps, bias, past, C, h * P + p, p < P, BIASED, W)
    B = _convolve(row, taps, bias, past, C, first + n, n < N, BIASED, W)
    read = _convolve(row, taps, bias, past, C, first + G * N + n, n < N, BIASED, W)
    dt = _softplus(tl.load(row + C + h).to(tl.float32) + tl.load(dt_bias + h))
    if LIMITED:
        dt = tl.minimum(tl.maximum(dt, least), most)
    decay = tl.exp(-dt * tl.exp(tl.load(A_log + h)))
    new = old * decay + (dt * x)[:, None] * B[None, :]
    tl.store(state + at, new, mask=mask)
    out = tl.sum(new * read[None, :], 1) + tl.load(skip + h) * x
    tl.store(y + s * I + h * P + p, out, mask=p < P)


@no_type_check
@triton.jit
def _finish(
    projected,
    scanned,
    weight,
    halo,
    y,
    stride,
    I,  # noqa: E741
    C,
    GROUPS,
    eps,
    WIDTH: tl.constexpr,
    BD: tl.constexpr,
    W: tl.constexpr,
    BW: tl.constexpr,
    BC: tl.constexpr,
):
    s, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if part < GROUPS:
        d = tl.arange(0, BD)
        column, mask = part * WIDTH + d, d < WIDTH
        z = tl.load(projected + s * stride + column, mask=mask, other=0.0).to(tl.float32)
        u = tl.load(scanned + s * I + column, mask=mask, other=0.0).to(tl.float32) * z * tl.sigmoid(z)
        scale = 1 / tl.sqrt(tl.sum(u * u, 0) / WIDTH + eps)
        factor = tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
        tl.store(y + s * I + column, u * scale * factor, mask=mask)
    else:
        w = tl.arange(0, BW)[:, None]
        c = ((part - GROUPS) * BC + tl.arange(0, BC))[None, :]
        at = halo + (s * (W - 1) + w) * C + c
        new = tl.load(projected + s * stride + I + c + w * 0, mask=(c < C) & (w == W - 2), other=0.0)
        past = tl.load(at + C, mask=(c < C) & (w < W - 2), other=0.0)
        tl.debug_barrier()  # all rows are read before one is written
        moved = tl.where(w == W - 2, new.to(past.dtype), past)
        tl.store(at, moved, mask=(c < C) & (w < W - 1))
