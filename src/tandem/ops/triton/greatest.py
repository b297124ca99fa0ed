"""The largest number of each row as Triton kernels: of blocks of columns first, then of the blocks.

Shapes: S rows, V columns.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from tandem.ops.triton.support import ceil_div, opaque, power_of_two

_COLUMNS = 4096  # of a block


@opaque(lambda x: x.new_empty(len(x), dtype=torch.int64))
def greatest(x_SV: Tensor) -> Tensor:
    """`tandem.ops.greatest` for float32 or narrower."""
    (S, V), columns = x_SV.shape, min(_COLUMNS, power_of_two(x_SV.shape[1]))
    blocks, given = ceil_div(V, columns), x_SV.contiguous()
    top = torch.empty(S, blocks, dtype=torch.float32, device=given.device)
    index = torch.empty(S, blocks, dtype=torch.int32, device=given.device)
    _of_blocks[S, blocks](given, top, index, V, blocks, BV=columns)
    result_S = torch.empty(S, dtype=torch.int64, device=given.device)
    _of_rows[S,](top, index, result_S, blocks, BB=power_of_two(blocks))
    return result_S


@no_type_check
@triton.jit
def _largest(x, index):
    """The largest and the first index that has it; NaN if there is one."""
    top = tl.max(x, 0)
    first = tl.min(tl.where(x == top, index, 2147483647), 0)
    return tl.where(tl.max((x != x).to(tl.int32), 0) > 0, float("nan"), top), first


@no_type_check
@triton.jit
def _of_blocks(x, tops, indices, V, blocks, BV: tl.constexpr):
    s, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    v = block * BV + tl.arange(0, BV)
    top, first = _largest(tl.load(x + s * V + v, mask=v < V, other=float("-inf")).to(tl.float32), v)
    tl.store(tops + s * blocks + block, top)
    tl.store(indices + s * blocks + block, first)


@no_type_check
@triton.jit
def _of_rows(tops, indices, result, blocks, BB: tl.constexpr):
    s, block = tl.program_id(0).to(tl.int64), tl.arange(0, BB)
    at = s * blocks + block
    values = tl.load(tops + at, mask=block < blocks, other=float("-inf"))
    top, first = _largest(values, tl.load(indices + at, mask=block < blocks, other=2147483647))
    finite = (top - top) == 0.0
    tl.store(result + s, tl.where(finite, first, -1).to(tl.int64))
