"""Decode steps as C++ kernels (kernels/decode.cpp, attention.cpp): a few rows against all weights. No gradients.

Shapes: S documents, L slots of a cache, D width, O outputs, E experts, K choices, F expert width, I = H P inner width,
H heads, P head width, G groups or key/value heads, N state width, C convolution channels, W taps.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tandem.ops.cpu.compiled import call, int64s, is_narrow, library

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


def linear_step(x: Tensor, weight_OD: Tensor) -> Tensor:
    """X Wᵀ over the last dimension, in x's dtype."""
    rows = x.contiguous()
    outputs, D = weight_OD.shape
    y = torch.empty(*x.shape[:-1], outputs, dtype=x.dtype)
    call("linear", rows.numel() // D, D, outputs, _FORMS[x.dtype, weight_OD.dtype], rows, weight_OD, y)
    return y


def attention_step(
    q_SHP: Tensor, k_SLGP: Tensor, v_SLGP: Tensor, lengths: Sequence[int], scale: float | None = None
) -> Tensor:
    """Attention of one token of each document to the first `lengths[s]` slots of its cache, in q's dtype; one format.

    Scores are multiplied by `scale`, by P^-0.5 when it is None.
    """
    (S, H, P), (_, L, G, _) = q_SHP.shape, k_SLGP.shape
    y_SHP = torch.empty(S, H, P, dtype=q_SHP.dtype)
    sizes = int64s(S, L, H, G, P)
    factor = P**-0.5 if scale is None else scale
    call("attention_step", sizes, int64s(*lengths), factor, is_narrow(q_SHP), q_SHP.contiguous(), k_SLGP, v_SLGP, y_SHP)
    return y_SHP


def mixture_is_supported(x: Tensor, router_ED: Tensor, gate_up_EDF: Tensor, *others: Tensor) -> bool:
    """Whether `mixture_step` can take these: `step_is_supported`, one format of experts, and widths of whole vectors."""
    _, D, F = gate_up_EDF.shape
    return (
        step_is_supported(x, gate_up_EDF, *others)
        and router_ED.dtype == torch.float32
        and len({gate_up_EDF.dtype, *(other.dtype for other in others)}) == 1
        and F % (2 * _LANES) == D % _LANES == 0
    )


def mixture_step(
    x_SD: Tensor,
    router: tuple[Tensor, Tensor | None, int],
    experts: tuple[Tensor, Tensor],
    shared: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`tandem.ops.mixture` for a few tokens."""
    (weight_ED, bias_E, top_k), (gate_up_EDF, down_EFD) = router, experts
    (S, D), (E, F, _) = x_SD.shape, down_EFD.shape
    expert_SK, weight_SK, scores_SE = torch.empty(S, top_k, dtype=torch.long), torch.empty(S, top_k), torch.empty(S, E)
    y_SD = torch.empty_like(x_SD)
    sizes = int64s(S, D, F, top_k, E, shared[1].shape[1] if shared else 0)
    read = (x_SD.contiguous(), weight_ED, bias_E, gate_up_EDF, down_EFD, *(shared or (None, None)))
    form = _FORMS[x_SD.dtype, gate_up_EDF.dtype]
    call("mixture", sizes, form, *read, expert_SK, weight_SK, scores_SE, y_SD)
    return y_SD, expert_SK, weight_SK, scores_SE


def mamba_step(
    x_SD: Tensor,
    weights: tuple[Tensor | None, Tensor | None, Tensor, Tensor, Tensor],
    decays: tuple[Tensor, Tensor, Tensor],
    norm: tuple[float, int],
    halo_SWC: Tensor,
    state_SHPN: Tensor,
    limits: tuple[float, float],
) -> Tensor:
    """`tandem.ops.mamba_step`; without its projections, from what the first gives to what the second takes."""
    _, H, P, N = state_SHPN.shape
    S, D = x_SD.shape
    W, C = halo_SWC.shape[1] + 1, halo_SWC.shape[2]
    sizes = int64s(S, H, P, (C - H * P) // (2 * N), N, W, norm[1], D)
    y = torch.empty_like(x_SD) if weights[1] is not None else x_SD.new_empty(S, H * P)
    form = _FORMS[x_SD.dtype, weights[2].dtype]
    call("mamba_step", sizes, norm[0], *limits, form, *weights, *decays, x_SD.contiguous(), halo_SWC, state_SHPN, y)
    return y
