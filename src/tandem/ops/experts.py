"""Routed experts: tokens sorted by expert, so that each expert is one matrix product.

Shapes: T tokens, K experts a token, R rows (one a token and chosen expert, and some padding), E experts, D width, F expert
width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tandem.ops.cpu.decode import mixture_is_supported, mixture_step
from tandem.ops.cpu.experts import gather_sum as cpu_gather_sum
from tandem.ops.cpu.experts import scatter_gradient as cpu_scatter_gradient
from tandem.ops.cpu.library import kernels_for
from tandem.ops.cpu.pointwise import swiglu as cpu_swiglu
from tandem.ops.linear import linear
from tandem.ops.routing import route

_ROW_BLOCK = 32
_FEW = 4  # tokens: with more of them a CPU's matrix products are faster for the expert that all of them share
_SOME = 32  # tokens: with more of them the routed experts are faster as matrix products too


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up, the two stored side by side in the last dimension."""
    if kernels_for(gate_up):
        return cpu_swiglu(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def experts_reference(
    x_TD: Tensor,
    expert_TK: Tensor,
    weight_TK: Tensor,
    gate_up_EDF: Tensor,
    down_EFD: Tensor,
    activation: Callable[[Tensor], Tensor] = swiglu,
) -> Tensor:
    """Each token by itself through each of its experts; `routed_experts` is tested against it."""
    rows = []
    for x_D, experts, weights in zip(x_TD, expert_TK.tolist(), weight_TK, strict=True):
        outputs = [activation(x_D @ gate_up_EDF[e]) @ down_EFD[e] * w for e, w in zip(experts, weights, strict=True)]
        rows.append(torch.stack(outputs).sum(0))
    return torch.stack(rows)


def mixture(
    x_TD: Tensor,
    router: tuple[Tensor, Tensor | None, int],
    experts: tuple[Tensor, Tensor],
    shared: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """shared(x) + Σ_{e in top-k} p_e expert_e(x): routing, routed experts and the shared one.

    Args:
        router: weight (E, D), selection bias (E) or None, and how many experts a token gets; see `route`.
        experts: matrices of the routed experts, (E, D, 2F) and (E, F, D); see `routed_experts`.
        shared: matrices of the expert that is always on, (2F, D) and (D, F), or None.
    Returns:
        y_TD in x's dtype, then what `route` returns.
    """
    by_choice = len(x_TD) <= _SOME and mixture_is_supported(x_TD, router[0], *experts, *(shared or ()))
    if by_choice and len(x_TD) <= _FEW:
        return mixture_step(x_TD, router, experts, shared)
    if by_choice:
        y_TD, expert_TK, weight_TK, scores_TE = mixture_step(x_TD, router, experts, None)
    else:
        expert_TK, weight_TK, scores_TE = route(x_TD, *router)
        y_TD = routed_experts(x_TD, expert_TK, weight_TK, *experts)
    if shared:
        y_TD = y_TD + linear(swiglu(linear(x_TD, shared[0])), shared[1])
    return y_TD, expert_TK, weight_TK, scores_TE


def routed_experts(
    x_TD: Tensor,
    expert_TK: Tensor,
    weight_TK: Tensor,
    gate_up_EDF: Tensor,
    down_EFD: Tensor,
    activation: Callable[[Tensor], Tensor] = swiglu,
) -> Tensor:
    """Σ_k weight_k · expert_k(x) for each token.

    Args:
        gate_up_EDF: both input matrices of each expert side by side, (E, D, 2F), or one, (E, D, F), for an activation
            without a gate; down_EFD: (E, F, D).
    Returns:
        y_TD, in x's dtype.
    """
    counts, token_R, place_TK = _sort_by_expert(expert_TK, gate_up_EDF.shape[0])
    rows_RD = _Dispatch.apply(x_TD, token_R, place_TK)
    hidden_RF = activation(grouped_matmul(rows_RD, gate_up_EDF, counts))
    return _Combine.apply(grouped_matmul(hidden_RF, down_EFD, counts), place_TK, weight_TK)


def _sort_by_expert(expert_TK: Tensor, experts: int) -> tuple[list[int], Tensor, Tensor]:
    """Rows of each expert, the token of each row, and the row of each choice.

    An expert with many rows gets a multiple of 32; the rows that no choice takes repeat token 0. Otherwise every batch
    brings matrix shapes never seen, and a CPU's library takes longer to generate code for one than to multiply.
    """
    chosen_R = expert_TK.flatten()
    order_R = chosen_R.argsort(stable=True)
    counts = torch.bincount(chosen_R, minlength=experts).tolist()
    padded = [-(-n // _ROW_BLOCK) * _ROW_BLOCK if n > _ROW_BLOCK else n for n in counts]
    shifts = [sum(padded[:e]) - sum(counts[:e]) for e in range(experts)]
    rank_R = torch.arange(len(order_R), device=chosen_R.device)
    row_R = rank_R + torch.tensor(shifts, device=chosen_R.device)[chosen_R[order_R]]
    place_R = torch.empty_like(order_R).scatter_(0, order_R, row_R)
    token_R = order_R.new_zeros(sum(padded)).index_copy_(0, row_R, order_R // expert_TK.shape[1])
    return padded, token_R, place_R.view_as(expert_TK)


class _Dispatch(torch.autograd.Function):
    """Rows sorted by expert; the gradient of a token is gathered from its rows, where autograd would scatter."""

    @staticmethod
    def forward(ctx, x_TD: Tensor, token_R: Tensor, place_TK: Tensor):  # noqa: ANN001, ANN205
        ctx.save_for_backward(place_TK)
        return x_TD.index_select(0, token_R)

    @staticmethod
    def backward(ctx, grad_RD: Tensor):  # noqa: ANN001, ANN205
        (place_TK,) = ctx.saved_tensors
        if kernels_for(grad_RD):
            return cpu_gather_sum(grad_RD, place_TK, None), None, None
        return grad_RD[place_TK].sum(1), None, None


class _Combine(torch.autograd.Function):
    """y_t = Σ_k weight[t, k] · rows[place[t, k]], summed in the weights' dtype."""

    @staticmethod
    def forward(ctx, rows_RD: Tensor, place_TK: Tensor, weight_TK: Tensor):  # noqa: ANN001, ANN205
        ctx.save_for_backward(rows_RD, place_TK, weight_TK)
        if kernels_for(rows_RD) and weight_TK.dtype == torch.float32:
            return cpu_gather_sum(rows_RD, place_TK, weight_TK)
        return (rows_RD[place_TK] * weight_TK[..., None]).sum(1).to(rows_RD.dtype)

    @staticmethod
    def backward(ctx, grad_TD: Tensor):  # noqa: ANN001, ANN205
        rows_RD, place_TK, weight_TK = ctx.saved_tensors
        if kernels_for(rows_RD) and weight_TK.dtype == torch.float32:
            d_rows_RD, d_weight_TK = cpu_scatter_gradient(grad_TD, rows_RD, place_TK, weight_TK)
            return d_rows_RD, None, d_weight_TK
        d_weight_TK = (rows_RD[place_TK] * grad_TD[:, None]).sum(-1, dtype=weight_TK.dtype)
        d_TKD = (grad_TD[:, None] * weight_TK[..., None]).to(rows_RD.dtype)
        return torch.zeros_like(rows_RD).index_copy_(0, place_TK.flatten(), d_TKD.flatten(0, 1)), None, d_weight_TK


def grouped_matmul(x_RD: Tensor, w_EDF: Tensor, counts: list[int]) -> Tensor:
    """Rows sorted by expert times that expert's matrix: the one seam for a GPU's grouped matrix product.

    Args:
        counts: rows of each expert, in order; they add up to R.
    """
    return _GroupedMatmul.apply(x_RD, w_EDF.to(x_RD.dtype), counts)


class _GroupedMatmul(torch.autograd.Function):
    """A loop of products into one buffer; autograd over slices would allocate and add E full-size gradients."""

    @staticmethod
    def forward(ctx, x_RD: Tensor, w_EDF: Tensor, counts: list[int]):  # noqa: ANN001, ANN205
        ctx.save_for_backward(x_RD, w_EDF)
        ctx.counts = counts
        return _grouped(x_RD, w_EDF, counts)

    @staticmethod
    def backward(ctx, grad_RF: Tensor):  # noqa: ANN001, ANN205
        x_RD, w_EDF = ctx.saved_tensors
        grad_w_EDF = torch.zeros_like(w_EDF)
        for expert, rows in _spans(ctx.counts):
            torch.mm(x_RD[rows].t(), grad_RF[rows], out=grad_w_EDF[expert])
        return _grouped(grad_RF, w_EDF.transpose(1, 2), ctx.counts), grad_w_EDF, None


def _grouped(x_RD: Tensor, w_EDF: Tensor, counts: list[int]) -> Tensor:
    y_RF = x_RD.new_empty(x_RD.shape[0], w_EDF.shape[2])
    for expert, rows in _spans(counts):
        torch.mm(x_RD[rows], w_EDF[expert], out=y_RF[rows])
    return y_RF


def _spans(counts: list[int]) -> list[tuple[int, slice]]:
    spans, first = [], 0
    for expert, count in enumerate(counts):
        if count:
            spans.append((expert, slice(first, first + count)))
        first += count
    return spans
