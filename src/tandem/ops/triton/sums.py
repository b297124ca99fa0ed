"""The sum of what programs have left side by side, in one launch; kernels of gradients end with it.

PyTorch's sums take longer where few numbers are added, and to cast their result takes another launch.

Shapes: A parts, N numbers to add, M sums of a part.
"""

import math
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from tandem.ops.triton.support import ceil_div, power_of_two

_CELLS = 8192  # of a tile
_COLUMNS = 32  # at least: what memory reads at once
_LANES = 1024  # at most


def sum_over(partial: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """The sum over one dimension of a float32 tensor, in `dtype`; the order is fixed, so that results repeat bit for bit.

    It is no operator to torch.compile by itself: those are that call it.
    """
    N, M = partial.shape[dim], math.prod(partial.shape[dim + 1 :])
    sums = partial.new_empty((*partial.shape[:dim], *partial.shape[dim + 1 :]), dtype=dtype or partial.dtype)
    if sums.numel():
        rows = min(power_of_two(N), _CELLS // _COLUMNS)
        columns = min(_CELLS // rows, _LANES, max(_COLUMNS, power_of_two(M)))
        grid = (ceil_div(M, columns), math.prod(partial.shape[:dim]))
        tile = {"BN": rows, "BM": columns, "num_warps": 8 if rows * columns > _CELLS // 2 else 4}
        _sum_over[grid](partial.contiguous(), sums, N, M, **tile)
    return sums


@no_type_check
@triton.jit
def _sum_over(partial, sums, N, M, BN: tl.constexpr, BM: tl.constexpr):
    n = tl.arange(0, BN)
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    part = tl.program_id(1).to(tl.int64)
    total = tl.zeros((BN, BM), tl.float32)
    for first in range(0, N, BN):
        mask = (first + n < N)[:, None] & (m < M)[None, :]
        total += tl.load(partial + (part * N + first + n)[:, None] * M + m[None, :], mask=mask, other=0.0)
    tl.store(sums + part * M + m, tl.sum(total, 0), mask=m < M)
