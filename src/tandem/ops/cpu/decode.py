"""Decode steps as C++ kernels (kernels/step.h): a few rows against all weights. No gradients.

Shapes: S documents, L slots of a cache, D width, O outputs, E experts, K choices, F expert width, I = H P inner width,
H heads, P head width, G groups or key/value heads, N state width, C convolution channels, W taps.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tandem.ops.cpu.compiled import library
from tandem.ops.cpu.instructions import (
    FORMATS,
    Attend,
    Linear,
    MambaStep,
    Matrix,
    Mixture,
    matrix,
    pointer,
    run,
)

ROWS = 32  # with more of them a CPU's matrix products are faster
_LANES = 32  # widths of experts must be multiples of the widest vector of weights
_PIECE = 256  # PIECE of kernels/attention.cpp
_FLOATS = (torch.float32, torch.bfloat16)


def step_is_supported(x: Tensor, *weights: Tensor) -> bool:
    """Whether the kernels can take a step of x with these weights: nothing to differentiate, and known formats."""
    if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype not in _FLOATS or torch.compiler.is_compiling():
        return False
    for weight in weights:
        if weight.dtype not in _FLOATS or weight.device.type != "cpu" or not weight.is_contiguous():
            return False
    return library() is not None


def linear_step(x: Tensor, weight_OD: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """X Wᵀ + b over the last dimension, in x's dtype, which the bias has too."""
    rows, y = x.contiguous(), torch.empty(*x.shape[:-1], len(weight_OD), dtype=x.dtype)
    run(linear_instruction(rows, matrix(weight_OD), bias_O, y))
    return y


def linear_instruction(x: Tensor, weight: Matrix, bias_O: Tensor | None, y: Tensor) -> Linear:
    """Y = x Wᵀ + b for contiguous x (..., D) and y (..., O)."""
    D, outputs = x.shape[-1], y.shape[-1]
    return Linear(x.numel() // D, D, outputs, FORMATS[x.dtype], weight, pointer(bias_O), x.data_ptr(), y.data_ptr())


def attention_step(
    q_SHP: Tensor, k_SLGP: Tensor, v_SLGP: Tensor, lengths: Sequence[int], scale: float | None = None
) -> Tensor:
    """Attention of one token of each document to the first `lengths[s]` slots of its cache, in q's dtype; one format.

    Scores are multiplied by `scale`, by P^-0.5 when it is None.
    """
    q, positions = q_SHP.contiguous(), torch.tensor(lengths) - 1
    y_SHP, scratch = torch.empty_like(q), attention_scratch(q, k_SLGP)
    run(attention_instruction(q, k_SLGP, v_SLGP, positions, scale, scratch, y_SHP))
    return y_SHP


def attention_scratch(q_SHP: Tensor, k_SLGP: Tensor) -> Tensor:
    """What attention to a full cache needs."""
    (S, H, P), L = q_SHP.shape, k_SLGP.shape[1]
    return torch.empty(S * H * -(-L // _PIECE) * (P + 2))


def attention_instruction(
    q_SHP: Tensor,
    k_SLGP: Tensor,
    v_SLGP: Tensor,
    positions_S: Tensor,
    scale: float | None,
    scratch: Tensor,
    y_SHP: Tensor,
) -> Attend:
    """Attention of `attention_step`; all tensors contiguous."""
    (S, H, P), (_, L, G, _) = q_SHP.shape, k_SLGP.shape
    factor = P**-0.5 if scale is None else scale
    pointers = map(pointer, (positions_S, q_SHP, k_SLGP, v_SLGP, scratch, y_SHP))
    return Attend(S, L, H, G, P, FORMATS[q_SHP.dtype], factor, *pointers)


def mixture_is_supported(x: Tensor, router_ED: Tensor, gate_up_EDF: Tensor, *others: Tensor) -> bool:
    """Whether `mixture_step` can take these: `step_is_supported`, one format of experts, and widths of whole vectors."""
    _, D, both = gate_up_EDF.shape
    return (
        step_is_supported(x, router_ED, gate_up_EDF, *others)
        and router_ED.dtype == torch.float32
        and len({gate_up_EDF.dtype, *(other.dtype for other in others)}) == 1
        and both % (2 * _LANES) == D % _LANES == 0
    )


def mixture_step(
    x_SD: Tensor,
    router: tuple[Tensor, Tensor | None, int],
    experts: tuple[Tensor, Tensor],
    shared: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`tandem.ops.mixture` for a few tokens."""
    (S, _), E, F, K = x_SD.shape, *experts[1].shape[:2], router[2]
    x, shared_F = x_SD.contiguous(), shared[1].shape[1] if shared else 0
    made = mixture_results(S, K, E), torch.empty_like(x), mixture_scratch(x, (E, F, K), shared_F)
    run(mixture_instruction(x, router, (E, F, shared_F), tuple(map(matrix, (*experts, *(shared or ())))), *made))
    return made[1], *made[0]


def mixture_results(S: int, K: int, E: int) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the choices, their weights and the scores."""
    return torch.empty(S, K, dtype=torch.long), torch.empty(S, K), torch.empty(S, E)


def mixture_scratch(x_SD: Tensor, sizes: tuple[int, int, int], shared_F: int = 0) -> Tensor:
    """What a mixture of (E, F, K) needs: sums of each thread, and the shared expert's."""
    (S, D), (E, F, K) = x_SD.shape, sizes
    each = S * K * 2 * F + S * D
    return torch.empty(max(torch.get_num_threads() * each + S * D + S * shared_F, S * E))


def mixture_instruction(
    x_SD: Tensor,
    router: tuple[Tensor, Tensor | None, int],
    sizes: tuple[int, int, int],
    matrices: Sequence[Matrix],
    results: tuple[Tensor, Tensor, Tensor],
    y_SD: Tensor,
    scratch: Tensor,
) -> Mixture:
    """Router (weight, bias, K); sizes (E, F, shared F); matrices of the routed experts, then of the shared one."""
    (S, D), (E, F, shared_F), (weight, bias, K) = x_SD.shape, sizes, router
    numbers = (S, D, F, K, E, shared_F, torch.get_num_threads(), FORMATS[x_SD.dtype])
    filled = (*matrices, *[matrix(None)] * (4 - len(matrices)))
    return Mixture(*numbers, *map(pointer, (weight, bias)), *filled, *map(pointer, (x_SD, scratch, *results, y_SD)))


def mamba_step(
    x_SD: Tensor,
    weights: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    decays: tuple[Tensor, Tensor, Tensor],
    norm: tuple[float, int],
    halo_SWC: Tensor,
    state_SHPN: Tensor,
    limits: tuple[float, float],
    biases: tuple[Tensor | None, Tensor | None],
) -> Tensor:
    """`tandem.ops.mamba_step` with biases in x's dtype."""
    into, out, *middle = weights
    x, y = x_SD.contiguous(), torch.empty_like(x_SD, memory_format=torch.contiguous_format)
    projected = x.new_empty(len(x), len(into))
    mixed, scratch = x.new_empty(len(x), out.shape[1]), torch.empty(len(x), halo_SWC.shape[2])
    run(
        linear_instruction(x, matrix(into), biases[0], projected),
        mamba_instruction(projected, middle, decays, norm, halo_SWC, state_SHPN, limits, scratch, mixed),
        linear_instruction(mixed, matrix(out), biases[1], y),
    )
    return y


def mamba_instruction(
    projected: Tensor,
    weights: Sequence[Tensor],
    decays: tuple[Tensor, Tensor, Tensor],
    norm: tuple[float, int],
    halo_SWC: Tensor,
    state_SHPN: Tensor,
    limits: tuple[float, float],
    scratch_SC: Tensor,
    y_SI: Tensor | None,
    qkv_SC: Tensor | None = None,
) -> MambaStep:
    """The middle of a layer, from what its first projection gives; weights: taps (C, W), bias (C) and norm (I).

    Without y the state moves on and qkv gets the rows [C | B | x].
    """
    (S, H, P, N), (W, C) = state_SHPN.shape, halo_SWC.shape[1:]
    sizes = (S, H, P, (C - H * P) // (2 * N), N, W + 1, norm[1], FORMATS[projected.dtype], FORMATS[weights[0].dtype])
    tensors = (*weights, *decays, projected, halo_SWC, state_SHPN, scratch_SC, y_SI, qkv_SC)
    return MambaStep(*sizes, norm[0], *limits, *map(pointer, tensors))
