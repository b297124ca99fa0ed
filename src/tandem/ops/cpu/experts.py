"""Moving tokens to their experts and back as C++ kernels (kernels/experts.cpp).

Shapes: T tokens, K choices a token, R = T K rows sorted by expert, D width.
"""

import torch
from torch import Tensor

from tandem.ops.cpu.compiled import call, is_narrow


def gather_sum(rows_RD: Tensor, place_TK: Tensor, weight_TK: Tensor | None) -> Tensor:
    """y_t = Σ_k weight[t, k] · rows[place[t, k]], in rows' dtype; a plain sum without weights. No gradients."""
    y_TD = torch.empty(len(place_TK), rows_RD.shape[1], dtype=rows_RD.dtype)
    weight = None if weight_TK is None else weight_TK.contiguous()
    call("gather_sum", *_sizes(place_TK, rows_RD), rows_RD.contiguous(), place_TK, weight, y_TD)
    return y_TD


def scatter_gradient(grad_TD: Tensor, rows_RD: Tensor, place_TK: Tensor, weight_TK: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `gather_sum` to rows (R, D) and to weights (T, K), in one pass."""
    d_rows_RD, d_weight_TK = torch.zeros_like(rows_RD), torch.empty_like(weight_TK)
    given = (rows_RD, place_TK, weight_TK.contiguous(), grad_TD.contiguous(), d_rows_RD, d_weight_TK)
    call("scatter_gradient", *_sizes(place_TK, rows_RD), *given)
    return d_rows_RD, d_weight_TK


def _sizes(place_TK: Tensor, rows_RD: Tensor) -> tuple[int, ...]:
    return (*place_TK.shape, rows_RD.shape[1], is_narrow(rows_RD))
