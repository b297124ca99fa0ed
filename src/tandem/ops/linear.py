"""A linear map whose weight follows its input's dtype.

Shapes: S rows, D width, O outputs.
"""

import torch.nn.functional as F
from torch import Tensor

from tandem.ops.cpu.decode import linear_step, step_is_supported

_FEW = 4  # rows: with more of them a CPU's matrix product is faster than one pass over the weights


def linear(x: Tensor, weight_OD: Tensor) -> Tensor:
    """X Wᵀ over the last dimension of x, without bias; the weight is cast to x's dtype."""
    if x.numel() <= _FEW * x.shape[-1] and step_is_supported(x, weight_OD):
        return linear_step(x, weight_OD)
    return F.linear(x, weight_OD.to(x.dtype))
