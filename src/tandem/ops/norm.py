"""Root-mean-square normalization, with an optional gate as Mamba-2 uses it.

Shapes: T tokens, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tandem.ops.cpu.compiled import kernels_for
from tandem.ops.cpu.pointwise import norm as cpu_norm
from tandem.ops.cpu.pointwise import norm_is_supported
from tandem.ops.triton.support import triton_for


def rms_norm(
    x: Tensor,
    weight_D: Tensor,
    eps: float,
    *,
    groups: int = 1,
    gate: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """U / sqrt(mean(u²) + eps) · weight over each of `groups` equal parts of the last dimension.

    Args:
        gate: u is x · silu(gate) when given (the gated norm of Mamba-2), else x.
        dtype: format of the result; x's when None.
    Returns:
        a tensor of x's shape; squares are summed in float32 or wider.
    """
    dtype = dtype or x.dtype
    same = gate is None or gate.dtype == x.dtype
    if same and norm_is_supported(x.dtype, dtype) and kernels_for(x, weight_D, gate):
        return cpu_norm(x, weight_D, eps, groups, gate, dtype)
    if triton_for(x, weight_D, gate):
        from tandem.ops.triton.norm import norm as triton_norm

        return triton_norm(x, weight_D, eps, groups, gate, dtype)
    u = x if gate is None else x * F.silu(gate)
    weight = weight_D.to(u.dtype)
    if groups == 1:
        return F.rms_norm(u, u.shape[-1:], weight, eps).to(dtype)
    parts = u.unflatten(-1, (groups, -1))
    return (F.rms_norm(parts, parts.shape[-1:], None, eps).flatten(-2) * weight).to(dtype)


def add_rms_norm(
    x_TD: Tensor, y_TD: Tensor, scale: float, weight_D: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """X + scale · y in x's dtype, and `rms_norm` of that sum in `dtype`: what a residual stream does between two layers."""
    if x_TD.ndim == 2 and triton_for(x_TD, y_TD, weight_D):
        from tandem.ops.triton.norm import add_norm

        return add_norm(x_TD, y_TD, scale, weight_D, eps, dtype)
    sum_TD = torch.add(x_TD, y_TD, alpha=scale)
    return sum_TD, rms_norm(sum_TD, weight_D, eps, dtype=dtype)
