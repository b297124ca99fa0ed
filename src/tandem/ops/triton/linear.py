"""A linear map of one row as a Triton kernel: a few outputs a program, whose weights are all on their way at once.

Shapes: D width, O outputs.
"""

from typing import no_type_check

import triton
import triton.language as tl
from torch import Tensor

from tandem.ops.triton.support import ceil_div, opaque, power_of_two

_OUTPUTS = 4  # of a program
_WIDTH = 1024  # columns at a time


@opaque(lambda x, weight, bias: x.new_empty(1, len(weight)))
def linear_row(x_1D: Tensor, weight_OD: Tensor, bias_O: Tensor | None) -> Tensor:
    """X Wᵀ + b for one row, in x's format. No gradients."""
    outputs, D = weight_OD.shape
    y_1O = x_1D.new_empty(1, outputs)
    tile = {"D": D, "BO": _OUTPUTS, "BD": min(_WIDTH, power_of_two(D)), "BIASED": bias_O is not None, "num_warps": 8}
    _product[ceil_div(outputs, _OUTPUTS),](x_1D.contiguous(), weight_OD.contiguous(), bias_O, y_1O, outputs, **tile)
    return y_1O


@no_type_check
@triton.jit
def _product(x, weight, bias, y, outputs, D: tl.constexpr, BO: tl.constexpr, BD: tl.constexpr, BIASED: tl.constexpr):
    o = tl.program_id(0) * BO + tl.arange(0, BO)
    row = weight + o.to(tl.int64)[:, None] * D
    along = tl.zeros((BO, BD), tl.float32)
    for first in range(0, D, BD):
        d = first + tl.arange(0, BD)
        w = tl.load(row + d[None, :], mask=(o < outputs)[:, None] & (d < D)[None, :], other=0.0)
        along += w.to(tl.float32) * tl.load(x + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
    total = tl.sum(along, 1)
    if BIASED:
        total += tl.load(bias + o, mask=o < outputs, other=0.0).to(tl.float32)
    tl.store(y + o, total, mask=o < outputs)
