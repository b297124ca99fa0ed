"""Rounding of tensors to small number formats, with one scale a block: x ≈ Q(S x) · s.

A format is here a few numbers, a `Grid`; names, scales and granularity are `tandem.precision`'s. NaN and infinities pass through
and have no part in the largest value of a block, so a training that diverges shows.

Shapes: O outer positions, R rows, C columns; blocks of r rows and c columns, the last of either possibly short; Y = ⌈R/r⌉ blocks
down and X = ⌈C/c⌉ across.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tandem.ops.cpu import quantize as cpu
from tandem.ops.cpu.compiled import kernels_for
from tandem.ops.triton.support import triton_for

ROUNDINGS = ("nearest-away", "nearest-even", "stochastic")
"""Ties away from zero; ties to the even code; up with the probability of the rest, so that the mean is right."""


class Grid(NamedTuple):
    """The non-negative numbers of a format: m · 2^(least - M) below 2^least, then 2^e (1 + m / 2^M), up to `largest`."""

    mantissa_bits: int
    least_exponent: int
    largest: float

    @property
    def greatest_exponent(self) -> int:
        """⌊log2 largest⌋."""
        return math.frexp(self.largest)[1] - 1


def round_to_grid(x: Tensor, grid: Grid, rounding: str = "nearest-even", noise: Tensor | None = None) -> Tensor:
    """Rounds each number to the grid of both signs; larger ones become ± `grid.largest`.

    Every step is exact but the rounding: exponents are read from the numbers' bits, not from a logarithm, and what is rounded
    is the number in units of its step.

    Args:
        x: float32 or float64.
        noise: numbers in (0, 1] like x; only read by stochastic rounding.
    """
    size = x.abs().clamp(max=grid.largest)
    fraction, exponent = torch.frexp(size)  # size = fraction · 2^exponent, fraction in [1/2, 1)
    step = (exponent - 1).clamp(min=grid.least_exponent)
    # A shift below -126 would leave the format of the bits; what it shifts rounds to 0 in any case.
    units = fraction * power_of_two((exponent - step + grid.mantissa_bits).clamp(min=-126), x.dtype)
    whole = _round_units(units, rounding, noise)
    # Two factors, since the least step of an 8-bit exponent is below the normal numbers of float32.
    value = whole * 2.0**-grid.mantissa_bits * power_of_two(step.clamp(max=grid.greatest_exponent), x.dtype)
    return torch.where(x.isfinite(), value.copysign(x), x)


def block_maxima(x_ORC: Tensor, block: tuple[int, int]) -> Tensor:
    """The largest finite |x| of each block, maxima_OYX, in float32 or wider; 0 where there is none."""
    if triton_for(x_ORC):
        from tandem.ops.triton.quantize import block_maxima as triton_block_maxima

        return triton_block_maxima(x_ORC, *block)
    if kernels_for(x_ORC):
        return cpu.block_maxima(x_ORC, block)
    size_ORC = torch.where(x_ORC.isfinite(), x_ORC.abs(), 0).to(_wide(x_ORC))
    outer, R, C = size_ORC.shape
    r, c = block
    padded = F.pad(size_ORC, (0, -C % c, 0, -R % r))
    return padded.view(outer, -(-R // r), r, -(-C // c), c).amax((2, 4))


def round_blocks(
    x_ORC: Tensor,
    block: tuple[int, int],
    scales: tuple[Tensor, Tensor],
    grid: Grid,
    rounding: str = "nearest-even",
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Q(S x) · s.

    Args:
        scales: S and s of each block, each like the result of `block_maxima`.
        seed: of stochastic rounding, 64 bits. An element's noise is a hash of seed and place, equal on every device.
        dtype: of the result, x's when None.
    Returns:
        y_ORC; numbers that s would carry over the largest finite one are that.
    """
    dtype = dtype or x_ORC.dtype
    multiplier_OYX, step_OYX = scales
    if triton_for(x_ORC, *scales, torch.empty(0, dtype=dtype, device=x_ORC.device)) and _is_normal(grid):
        from tandem.ops.triton.quantize import round_blocks as triton_round_blocks

        form = (*grid, ROUNDINGS.index(rounding), *hash_keys(seed), dtype)
        return triton_round_blocks(x_ORC, *block, *scales, *form)
    if kernels_for(x_ORC, multiplier_OYX, step_OYX, torch.empty(0, dtype=dtype)) and _is_normal(grid):
        return cpu.round_blocks(x_ORC, block, scales, grid, ROUNDINGS.index(rounding), hash_keys(seed), dtype)
    wide = x_ORC.to(multiplier_OYX.dtype)
    noise = uniform_noise(wide, seed) if rounding == "stochastic" else None
    rounded = round_to_grid(wide * _spread(multiplier_OYX, block, wide), grid, rounding, noise)
    limit = torch.finfo(wide.dtype).max
    value = (rounded * _spread(step_OYX, block, wide)).clamp(-limit, limit)
    return torch.where(wide.isfinite(), value, wide).to(dtype)


def uniform_noise(like: Tensor, seed: int) -> Tensor:
    """Numbers in (0, 1] on a grid of 2⁻²⁴, a hash of the seed and of each element's place in the flattened tensor."""
    first, second = hash_keys(seed)
    place = torch.arange(like.numel(), device=like.device)
    bits = _hash(_hash((place + first) & _WORD) ^ second)
    return (((bits >> 8) + 1).to(like.dtype) * 2.0**-24).view(like.shape)


def hash_keys(seed: int) -> tuple[int, int]:
    """The low and the high 32 bits of a seed."""
    return seed & _WORD, (seed >> 32) & _WORD


_WORD = 0xFFFFFFFF


def _hash(word: Tensor) -> Tensor:
    """A mixing of 32 bits (lowbias32, C. Wellons 2018), in int64 whose high half is cleared."""
    word = ((word ^ (word >> 16)) * 0x7FEB352D) & _WORD
    word = ((word ^ (word >> 15)) * 0x846CA68B) & _WORD
    return word ^ (word >> 16)


def _round_units(units: Tensor, rounding: str, noise: Tensor | None) -> Tensor:
    if rounding == "nearest-even":
        return units.round()
    whole = units.floor()
    return whole + (units - whole >= (0.5 if noise is None else noise))


def power_of_two(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """2^exponent from its bits, exact as `ldexp` is not promised to be; exponents of normal numbers only."""
    if dtype == torch.float64:
        return ((exponent.long() + 1023) << 52).view(torch.float64)
    return ((exponent.int() + 127) << 23).view(torch.float32)


def _spread(scale_OYX: Tensor, block: tuple[int, int], x_ORC: Tensor) -> Tensor:
    """Each block's scale at each of its elements, or one that broadcasts."""
    for axis, size in ((1, block[0]), (2, block[1])):
        if scale_OYX.shape[axis] > 1:
            scale_OYX = scale_OYX.repeat_interleave(size, axis).narrow(axis, 0, x_ORC.shape[axis])
    return scale_OYX


def _is_normal(grid: Grid) -> bool:
    """Whether 2^±exponent and every step are normal numbers of float32, as kernels need: up to 7 exponent bits."""
    return grid.least_exponent - grid.mantissa_bits >= -126 and grid.greatest_exponent <= 126


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
