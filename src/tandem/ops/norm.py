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
