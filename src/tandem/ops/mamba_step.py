"""The middle of a Mamba-2 layer for one token of each document, between its two projections.

Shapes: S documents, I = H P inner width, H heads, P head width, G groups, N state width, C = I + 2 G N convolution channels,
W taps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tandem.ops.conv import conv_step
from tandem.ops.cpu.decode import mamba_step as cpu_mamba_step
from tandem.ops.cpu.decode import step_is_supported
from tandem.ops.norm import rms_norm
from tandem.ops.ssd import ssd_step


def mamba_step(
    projected_SI: Tensor,
    taps: tuple[Tensor, Tensor],
    decays: tuple[Tensor, Tensor, Tensor],
    norm: tuple[Tensor, float, int],
    halo_SWC: Tensor,
    state_SHPN: Tensor,
) -> Tensor:
    """norm(y · silu(z)) with y = ssd(silu(conv([x | B | C])), softplus(dt + dt_bias)); moves halo and state on in place.

    Args:
        projected_SI: [z | x | B | C | dt] side by side, of widths I, I, G N, G N and H.
        taps: weight_CW and bias_C of the convolution.
        decays: A_log, dt_bias and D, one of each a head, in float32 or wider.
        norm: weight, eps and number of groups of the gated RMSNorm.
        halo_SWC: the W - 1 inputs of the convolution before this token.
        state_SHPN: states, float32 or wider.
    Returns:
        the normalized output (S, I), in projected's dtype.
    """
    same = halo_SWC.dtype == projected_SI.dtype and halo_SWC.is_contiguous() and state_SHPN.dtype == torch.float32
    if same and step_is_supported(projected_SI, state_SHPN):
        return cpu_mamba_step(projected_SI, taps, decays, norm, halo_SWC, state_SHPN)
    _, H, P, N = state_SHPN.shape
    (weight_CW, bias_C), (A_log_H, dt_bias_H, D_H) = taps, decays
    C = len(weight_CW)
    z_SI, xBC_SC, dt_SH = projected_SI.split([H * P, C, H], dim=-1)
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
    weight_I, eps, groups = norm
    return rms_norm(y_SHP.flatten(1), weight_I, eps, groups=groups, gate=z_SI)
