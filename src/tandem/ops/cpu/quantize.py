"""Rounding to small number formats as C++ kernels (kernels/quantize.cpp); the same bits as the PyTorch form.

Shapes: as in `tandem.ops.quantize`.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tandem.ops.cpu.compiled import call, int64s, is_narrow

if TYPE_CHECKING:
    from tandem.ops.quantize import Grid


def block_maxima(x_ORC: Tensor, block: tuple[int, int]) -> Tensor:
    """The largest finite |x| of each block, in float32."""
    outer, R, C = x_ORC.shape
    r, c = block
    maxima_OYX = torch.empty(outer, -(-R // r), -(-C // c))
    call("block_maxima", int64s(outer, R, C, r, c), is_narrow(x_ORC), x_ORC.contiguous(), maxima_OYX)
    return maxima_OYX


def round_blocks(
    x_ORC: Tensor,
    block: tuple[int, int],
    scales: tuple[Tensor, Tensor],
    grid: "Grid",
    rounding: int,
    keys: tuple[int, int],
    dtype: torch.dtype,
) -> Tensor:
    """Q(S x) · s; `rounding` and `keys` number the rounding and seed its noise."""
    y_ORC = torch.empty(x_ORC.shape, dtype=dtype)
    numbers = int64s(*x_ORC.shape, *block, grid.mantissa_bits, grid.least_exponent, rounding, *keys)
    read = (x_ORC.contiguous(), scales[0].contiguous(), scales[1].contiguous())
    call("round_blocks", numbers, grid.largest, is_narrow(x_ORC), is_narrow(y_ORC), *read, y_ORC)
    return y_ORC
