"""A Mamba-2 layer for one token of each document.

Shapes: S documents, D model width, I = H P inner width, H heads, P head width, G groups, N state width, C = I + 2 G N
convolution channels, W taps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tandem.ops.conv import conv_step
from tandem.ops.cpu.decode import ROWS, step_is_supported
from tandem.ops.cpu.decode import mamba_step as cpu_mamba_step
from tandem.ops.linear import linear
from tandem.ops.norm import rms_norm
from tandem.ops.ssd import ssd_step
from tandem.ops.triton.support import triton_for

ANY_STEP = (0.0, float("inf"))  # limits that no step size reaches


def mamba_step(
    x_SD: Tensor,
    weights: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor],
    decays: tuple[Tensor, Tensor, Tensor],
    norm: tuple[float, int],
    halo_SWC: Tensor,
    state_SHPN: Tensor,
    limits: tuple[float, float] = ANY_STEP,
    biases: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """W_out norm(y · silu(z)), y = ssd(silu(conv([x | B | C])), step_sizes(dt)), [z | x | B | C | dt] = W_in x.

    Args:
        weights: of the projections in (2I + 2GN + H, D) and out (D, I), taps (C, W) and bias (C, or None for zeros) of the
            convolution, and of the gated RMSNorm (I).
        decays: A_log, dt_bias and D, one of each a head, in float32 or wider.
        norm: eps and number of groups of the RMSNorm.
        halo_SWC: the W - 1 inputs of the convolution before this token; moved on in place.
        state_SHPN: states, float32 or wider; moved on in place.
        limits: see `step_sizes`.
        biases: of the projections in and out, if they have any.
    Returns:
        y_SD, in x's dtype.
    """
    into, out, weight_CW, bias, norm_I = weights
    A_log_H, dt_bias_H, D_H = decays
    bias_in, bias_out = biases or (None, None)
    bias_C = weight_CW.new_zeros(len(weight_CW)) if bias is None else bias
    if len(x_SD) <= ROWS and _fits(x_SD, (into, out, weight_CW, bias_C, norm_I), decays, halo_SWC, state_SHPN):
        whole, added = (into, out, weight_CW, bias_C, norm_I), (_like(bias_in, x_SD), _like(bias_out, x_SD))
        return cpu_mamba_step(x_SD, whole, decays, norm, halo_SWC, state_SHPN, limits, added)
    if not torch.is_grad_enabled() and triton_for(x_SD, state_SHPN, halo_SWC, A_log_H):
        from tandem.ops.triton.mamba_step import mix

        between = (weight_CW, bias, norm_I)
        mixed_SI = mix(linear(x_SD, into, bias_in), between, decays, norm, halo_SWC, state_SHPN, limits)
        return linear(mixed_SI, out, bias_out)
    _, H, P, N = state_SHPN.shape
    C = len(weight_CW)
    z_SI, xBC_SC, dt_SH = linear(x_SD, into, bias_in).split([H * P, C, H], dim=-1)
    mixed_SC = F.silu(conv_step(xBC_SC, weight_CW.to(xBC_SC.dtype), bias_C.to(xBC_SC.dtype), halo_SWC))
    x_SI, B_SGN, C_SGN = mixed_SC.split([H * P, (C - H * P) // 2, (C - H * P) // 2], dim=-1)
    dt_SH = step_sizes(dt_SH, dt_bias_H, limits)
    y_SHP, new_SHPN = ssd_step(
        x_SI.unflatten(1, (H, P)),
        dt_SH,
        -A_log_H.exp(),
        B_SGN.unflatten(1, (-1, N)),
        C_SGN.unflatten(1, (-1, N)),
        D_H,
        state_SHPN,
    )
    state_SHPN.copy_(new_SHPN)
    eps, groups = norm
    return linear(rms_norm(y_SHP.flatten(1), norm_I, eps, groups=groups, gate=z_SI), out, bias_out)


def step_sizes(dt: Tensor, bias_H: Tensor, limits: tuple[float, float]) -> Tensor:
    """softplus(dt + bias) kept between two limits, in the bias's dtype (float32 or wider)."""
    dt = F.softplus(dt.to(bias_H.dtype) + bias_H)
    return dt if limits == ANY_STEP else dt.clamp(*limits)


def _like(bias: Tensor | None, x: Tensor) -> Tensor | None:
    return None if bias is None else bias.to(x.dtype)


def _fits(x_SD: Tensor, weights: tuple[Tensor, ...], decays: tuple[Tensor, ...], halo: Tensor, state: Tensor) -> bool:
    """Whether the kernel takes these: one format of weights, float32 decays and state, all contiguous."""
    wide = (*decays, state)
    return (
        step_is_supported(x_SD, *weights, *wide)
        and halo.dtype == x_SD.dtype
        and halo.is_contiguous()
        and len({weight.dtype for weight in weights}) == 1
        and all(t.dtype == torch.float32 for t in wide)
    )
