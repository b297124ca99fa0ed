"""A Mamba-2 layer for one token of each document.

Shapes: S documents, D model width, I = H P inner width, H heads, P head width, G groups, N state width, C = I + 2 G N
convolution channels, W taps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tandem.ops.conv import conv_step
from tandem.ops.cpu.decode import mamba_step as cpu_mamba_step
from tandem.ops.cpu.decode import step_is_supported
from tandem.ops.linear import linear
from tandem.ops.norm import rms_norm
from tandem.ops.ssd import ssd_step

_FEW = 4  # documents: with more of them a CPU's matrix products are faster than one pass over the weights


def mamba_step(
    x_SD: Tensor,
    weights: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    decays: tuple[Tensor, Tensor, Tensor],
    norm: tuple[float, int],
    halo_SWC: Tensor,
    state_SHPN: Tensor,
) -> Tensor:
    """W_out norm(y · silu(z)), y = ssd(silu(conv([x | B | C])), softplus(dt + dt_bias)), [z | x | B | C | dt] = W_in x.

    Args:
        weights: of the projections in (2I + 2GN + H, D) and out (D, I), taps (C, W) and bias (C) of the convolution, and
            of the gated RMSNorm (I).
        decays: A_log, dt_bias and D, one of each a head, in float32 or wider.
        norm: eps and number of groups of the RMSNorm.
        halo_SWC: the W - 1 inputs of the convolution before this token; moved on in place.
        state_SHPN: states, float32 or wider; moved on in place.
    Returns:
        y_SD, in x's dtype.
    """
    into, out, weight_CW, bias_C, norm_I = weights
    A_log_H, dt_bias_H, D_H = decays
    if _fits(x_SD, weights, decays, halo_SWC, state_SHPN):
        if len(x_SD) <= _FEW:
            return cpu_mamba_step(x_SD, weights, decays, norm, halo_SWC, state_SHPN)
        between = (None, None, weight_CW, bias_C, norm_I)
        return linear(cpu_mamba_step(linear(x_SD, into), between, decays, norm, halo_SWC, state_SHPN), out)
    _, H, P, N = state_SHPN.shape
    C = len(weight_CW)
    z_SI, xBC_SC, dt_SH = linear(x_SD, into).split([H * P, C, H], dim=-1)
    mixed_SC = F.silu(conv_step(xBC_SC, weight_CW.to(xBC_SC.dtype), bias_C.to(xBC_SC.dtype), halo_SWC))
    x_SI, B_SGN, C_SGN = mixed_SC.split([H * P, (C - H * P) // 2, (C - H * P) // 2], dim=-1)
    dt_SH = F.softplus(dt_SH.to(dt_bias_H.dtype) + dt_bias_H)
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
    return linear(rms_norm(y_SHP.flatten(1), norm_I, eps, groups=groups, gate=z_SI), out)


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
