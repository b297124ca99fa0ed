"""Decode steps as C++ kernels (kernels/decode.cpp): a few rows against all weights. No gradients.

Shapes: S documents, D width, O outputs, E experts, K choices, F expert width, I = H P inner width, H heads, P head width,
G groups, N state width, C convolution channels, W taps.
"""

import torch
from torch import Tensor

from tandem.ops.cpu.library import call, int64s, is_narrow, library

_LANES = 16  # widths of experts must be multiples of the widest vector
_FORMS = {
    (torch.float32, torch.float32): 0,
    (torch.bfloat16, torch.bfloat16): 1,
    (torch.bfloat16, torch.float32): 2,
    (torch.float32, torch.bfloat16): 3,
}


def step_is_supported(x: Tensor, *weights: Tensor) -> bool:
    """Whether the kernels can take a step of x with these weights: nothing to differentiate, and known formats."""
    if torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    for weight in weights:
        if (x.dtype, weight.dtype) not in _FORMS or not weight.is_contiguous():
            return False
    return library() is not None


def experts_are_supported(gate_up_EDF: Tensor, down_EFD: Tensor) -> bool:
    """Whether the widths suit `experts_step`."""
    _, F, D = down_EFD.shape
    return gate_up_EDF.dtype == down_EFD.dtype and F % _LANES == 0 and D % _LANES == 0


def linear_step(x: Tensor, weight_OD: Tensor) -> Tensor:
    """X Wᵀ over the last dimension, in x's dtype."""
    rows = x.contiguous()
    outputs, D = weight_OD.shape
    y = torch.empty(*x.shape[:-1], outputs, dtype=x.dtype)
    call("linear", rows.numel() // D, D, outputs, _FORMS[x.dtype, weight_OD.dtype], rows, weight_OD, y)
    return y


def route_step(x_SD: Tensor, weight_ED: Tensor, bias_E: Tensor | None, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """`tandem.ops.route` for a few tokens."""
    (S, D), E = x_SD.shape, len(weight_ED)
    expert_SK, weight_SK, scores_SE = torch.empty(S, top_k, dtype=torch.long), torch.empty(S, top_k), torch.empty(S, E)
    sizes = (S, D, E, top_k, is_narrow(x_SD))
    call("route", *sizes, x_SD.contiguous(), weight_ED, bias_E, expert_SK, weight_SK, scores_SE)
    return expert_SK, weight_SK, scores_SE


def experts_step(x_SD: Tensor, expert_SK: Tensor, weight_SK: Tensor, gate_up_EDF: Tensor, down_EFD: Tensor) -> Tensor:
    """`routed_experts` for a few tokens."""
    (S, K), (_, F, D) = expert_SK.shape, down_EFD.shape
    y_SD = torch.empty_like(x_SD)
    form = _FORMS[x_SD.dtype, gate_up_EDF.dtype]
    given = (x_SD.contiguous(), expert_SK.contiguous(), weight_SK.float().contiguous(), gate_up_EDF, down_EFD)
    call("experts_step", int64s(S, D, F, K), form, *given, y_SD)
    return y_SD


def mamba_step(
    projected_SI: Tensor,
    taps: tuple[Tensor, Tensor],
    decays: tuple[Tensor, Tensor, Tensor],
    norm: tuple[Tensor, float, int],
    halo_SWC: Tensor,
    state_SHPN: Tensor,
) -> Tensor:
    """`tandem.ops.mamba_step`: halo and state, both contiguous, are moved on in place."""
    S, H, P, N = state_SHPN.shape
    weight_I, eps, groups = norm
    W, C = halo_SWC.shape[1] + 1, halo_SWC.shape[2]
    G = (C - H * P) // (2 * N)
    y_SI = torch.empty(S, H * P, dtype=projected_SI.dtype)
    same = len({t.dtype for t in (*taps, weight_I)}) == 1 and weight_I.dtype in (torch.float32, torch.bfloat16)
    outer = (*taps, weight_I) if same else tuple(t.float() for t in (*taps, weight_I))
    sizes = int64s(S, H, P, G, N, W, groups, projected_SI.stride(0))
    form = (eps, is_narrow(projected_SI), is_narrow(outer[2]))
    taps_CW, bias_C, weight_I = (t.contiguous() for t in outer)
    given = (taps_CW, bias_C, *(t.float().contiguous() for t in decays), weight_I)
    call("mamba_step", sizes, *form, *given, projected_SI, halo_SWC, state_SHPN, y_SI)
    return y_SI
