"""Routed SwiGLU experts: tokens sorted by expert, so that each expert is one matrix product.

Shapes: T tokens, K experts a token, R = T K rows (one a token and chosen expert), E experts, D width, F expert width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up, the two stored side by side in the last dimension."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def experts_reference(
    x_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor, gate_up_EDF: Tensor, down_EFD: Tensor
) -> Tensor:
    """Each token by itself through each of its experts; `routed_experts` is tested against it."""
    rows = []
    for x_D, experts, weights in zip(x_TD, expert_TK.tolist(), weight_TK, strict=True):
        outputs = [swiglu(x_D @ gate_up_EDF[e]) @ down_EFD[e] * w for e, w in zip(experts, weights, strict=True)]
        rows.append(torch.stack(outputs).sum(0))
    return torch.stack(rows)


def routed_experts(x_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor, gate_up_EDF: Tensor, down_EFD: Tensor) -> Tensor:
    """Σ_k weight_k · expert_k(x) for each token.

    Args:
        gate_up_EDF: both input matrices of each expert side by side, (E, D, 2F); down_EFD: (E, F, D).
    Returns:
        y_TD, in x's dtype.
    """
    T, K = expert_TK.shape
    order_R = expert_TK.flatten().argsort(stable=True)
    counts = torch.bincount(expert_TK.flatten(), minlength=gate_up_EDF.shape[0]).tolist()
    rows_RD = x_TD.index_select(0, order_R // K)
    hidden_RF = swiglu(grouped_matmul(rows_RD, gate_up_EDF, counts))
    y_RD = grouped_matmul(hidden_RF, down_EFD, counts)
    place_R = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(T * K, device=order_R.device))
    y_TKD = y_RD.index_select(0, place_R).view(T, K, -1)
    return torch.matmul(weight_TK.to(x_TD.dtype)[:, None], y_TKD)[:, 0]


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
