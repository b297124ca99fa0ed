"""A linear map whose weight follows its input's dtype.

Shapes: S rows, D width, O outputs.
"""

import torch.nn.functional as F
from torch import Tensor

from tandem.ops.cpu.decode import ROWS, linear_step, step_is_supported


def linear(x: Tensor, weight_OD: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """X Wᵀ + b over the last dimension of x; weight and bias are cast to x's dtype."""
    bias = None if bias_O is None else bias_O.to(x.dtype)
    if x.numel() <= ROWS * x.shape[-1] and step_is_supported(x, weight_OD):
        return linear_step(x, weight_OD, bias)
    return F.linear(x, weight_OD.to(x.dtype), bias)
