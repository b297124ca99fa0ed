"""A linear map whose weight follows its input's dtype.

Shapes: S rows, D width, O outputs.
"""

import torch.nn.functional as F
from torch import Tensor

from tandem.ops.cpu.decode import linear_step, step_is_supported

_FEW = 4  # rows: with more of them a CPU's matrix product is faster than one pass over the weights


def linear(x: Tensor, weight_OD: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """X Wᵀ + b over the last dimension of x; weight and bias are cast to x's dtype."""
    if x.numel() <= _FEW * x.shape[-1] and step_is_supported(x, weight_OD):
        y = linear_step(x, weight_OD)
        return y if bias_O is None else y + bias_O.to(x.dtype)
    return F.linear(x, weight_OD.to(x.dtype), None if bias_O is None else bias_O.to(x.dtype))
