"""The largest number of each row, and whether it is one.

Shapes: S rows, V columns.
"""

import torch
from torch import Tensor

from tandem.ops.triton.support import triton_for


def greatest(x_SV: Tensor) -> Tensor:
    """Index of each row's largest number, the first of equal ones, int64; -1 where a row holds NaN or its largest is infinite."""
    if x_SV.is_cuda and triton_for(x_SV):
        from tandem.ops.triton.greatest import greatest as triton_greatest

        return triton_greatest(x_SV)
    top_S, index_S = x_SV.max(-1)  # hands on NaN
    return torch.where(torch.isfinite(top_S), index_S, -1)
