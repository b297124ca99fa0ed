"""Rounding to small number formats as Triton kernels; the same bits as the PyTorch form.

A program has a tile of elements of whole blocks, or a piece of one block that is larger than a tile.

Shapes: as in `tandem.ops.quantize`; a tile is BY blocks down of PR rows each, BX blocks across of PC columns each.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from tandem.ops.triton.support import ceil_div, opaque, power_of_two

_CELLS = 4096  # of a tile, at most
_ROW = 128  # columns of it, where the tensor has as many: what a warp reads lies side by side


@opaque(lambda x, rows, columns: x.new_empty(_blocks(x, rows, columns), dtype=torch.float32))
def block_maxima(x_ORC: Tensor, rows: int, columns: int) -> Tensor:
    """The largest finite |x| of each block of rows × columns, maxima_OYX in float32."""
    # Non-negative floats are ordered like their bits; pieces of a block meet in one number, in any order.
    bits_OYX = torch.zeros(_blocks(x_ORC, rows, columns), dtype=torch.int32, device=x_ORC.device)
    if x_ORC.numel():
        grid, sizes, tile = _tiles(x_ORC, rows, columns)
        _maxima[grid](x_ORC.contiguous(), bits_OYX, *sizes, **tile)
    return bits_OYX.view(torch.float32)


@opaque(lambda x, *rest: torch.empty(x.shape, dtype=rest[-1], device=x.device))
def round_blocks(
    x_ORC: Tensor,
    rows: int,
    columns: int,
    multiplier_OYX: Tensor,
    step_OYX: Tensor,
    mantissa_bits: int,
    least_exponent: int,
    largest: float,
    rounding: int,
    first_key: int,
    second_key: int,
    dtype: torch.dtype,
) -> Tensor:
    """Q(S x) · s; the last numbers are a `Grid`, the number of the rounding, and the keys of its noise."""
    y_ORC = torch.empty(x_ORC.shape, dtype=dtype, device=x_ORC.device)
    scales = (multiplier_OYX.contiguous(), step_OYX.contiguous())
    keys = (_signed(first_key), _signed(second_key))
    form = {"MANTISSA": mantissa_bits, "LEAST": least_exponent, "LARGEST": largest, "ROUNDING": rounding}
    if x_ORC.numel():
        grid, sizes, tile = _tiles(x_ORC, rows, columns)
        _round[grid](x_ORC.contiguous(), *scales, y_ORC, *keys, *sizes, **form, **tile)
    return y_ORC


def _blocks(x_ORC: Tensor, rows: int, columns: int) -> tuple[int, int, int]:
    outer, R, C = x_ORC.shape
    return outer, ceil_div(R, rows), ceil_div(C, columns)


def _signed(key: int) -> int:
    """The same 32 bits as a signed number, so that one kernel serves all keys."""
    return key - (1 << 32) if key >> 31 else key


def _tiles(x_ORC: Tensor, rows: int, columns: int) -> tuple[tuple[int], tuple[int, ...], dict[str, int]]:
    """The programs, what they divide among themselves, and the tile."""
    outer, Y, X = _blocks(x_ORC, rows, columns)
    rows, columns = min(rows, x_ORC.shape[1]), min(columns, x_ORC.shape[2])
    PC = min(_CELLS, power_of_two(columns))
    BX = max(1, min(_ROW // PC, power_of_two(X)))
    PR = min(_CELLS // (BX * PC), power_of_two(rows))
    BY = min(_CELLS // (BX * PC * PR), power_of_two(Y))
    pieces = (ceil_div(rows, PR), ceil_div(columns, PC))
    programs = outer * ceil_div(Y, BY) * pieces[0] * ceil_div(X, BX) * pieces[1]
    return (programs,), (*x_ORC.shape[1:], rows, columns), {"PC": PC, "BX": BX, "PR": PR, "BY": BY}


@no_type_check
@triton.jit
def _tile(R, C, rows, columns, BY: tl.constexpr, PR: tl.constexpr, BX: tl.constexpr, PC: tl.constexpr):
    """Where the elements of this program's tile lie, which of them there are, and the same of their blocks."""
    Y, X = tl.cdiv(R, rows), tl.cdiv(C, columns)
    down, across = tl.cdiv(rows, PR), tl.cdiv(columns, PC)
    rest = tl.program_id(0)
    column_piece, rest = rest % across, rest // across
    x, rest = (rest % tl.cdiv(X, BX)) * BX, rest // tl.cdiv(X, BX)
    row_piece, rest = rest % down, rest // down
    y, outer = (rest % tl.cdiv(Y, BY)) * BY, (rest // tl.cdiv(Y, BY)).to(tl.int64)
    block_y, block_x = y + tl.arange(0, BY), x + tl.arange(0, BX)
    in_row, in_column = row_piece * PR + tl.arange(0, PR), column_piece * PC + tl.arange(0, PC)
    row = block_y[:, None] * rows + in_row[None, :]
    column = block_x[:, None] * columns + in_column[None, :]
    of_row = (in_row < rows)[None, :] & (row < R)
    of_column = (in_column < columns)[None, :] & (column < C)
    at = (outer * R + row)[:, :, None, None] * C + column[None, None, :, :]
    block = (outer * Y + block_y)[:, None] * X + block_x[None, :]
    is_block = (block_y < Y)[:, None] & (block_x < X)[None, :]
    return at, of_row[:, :, None, None] & of_column[None, None, :, :], block, is_block


@no_type_check
@triton.jit
def _maxima(x, maxima, R, C, rows, columns, BY: tl.constexpr, PR: tl.constexpr, BX: tl.constexpr, PC: tl.constexpr):
    at, mask, block, is_block = _tile(R, C, rows, columns, BY, PR, BX, PC)
    size = tl.load(x + at, mask=mask, other=0.0).to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF
    finite = tl.where(size < 0x7F800000, size, 0)
    tl.atomic_max(maxima + block, tl.max(tl.max(finite, 3), 1), mask=is_block)


@no_type_check
@triton.jit
def _hash(word):
    word = (word ^ (word >> 16)) * 0x7FEB352D
    word = (word ^ (word >> 15)) * 0x846CA68B
    return word ^ (word >> 16)


@no_type_check
@triton.jit
def _power_of_two(exponent):
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@no_type_check
@triton.jit
def _to_grid(
    x, place, first_key, second_key, MANTISSA: tl.constexpr, LEAST: tl.constexpr, LARGEST: tl.constexpr, ROUNDING
):
    """`round_to_grid` of finite numbers."""
    bits = x.to(tl.int32, bitcast=True)
    size = tl.minimum((bits & 0x7FFFFFFF).to(tl.float32, bitcast=True), LARGEST)
    exponent = tl.maximum((size.to(tl.int32, bitcast=True) >> 23) - 127, LEAST)
    units = size * _power_of_two(MANTISSA - exponent)
    whole = tl.floor(units)
    rest = units - whole
    if ROUNDING == 0:
        up = rest >= 0.5
    elif ROUNDING == 1:
        up = (rest > 0.5) | ((rest == 0.5) & (whole.to(tl.int32) % 2 == 1))
    else:
        keyed = _hash(place.to(tl.uint32) + first_key.to(tl.uint32))
        noise = (_hash(keyed ^ second_key.to(tl.uint32)) >> 8).to(tl.int32) + 1
        up = rest >= noise.to(tl.float32) * 5.9604644775390625e-08  # 2^-24
    value = (whole + up.to(tl.float32)) * _power_of_two(exponent - MANTISSA)
    # x's sign, also of zeros; -2147483648 is that bit alone.
    return (value.to(tl.int32, bitcast=True) | (bits & -2147483648)).to(tl.float32, bitcast=True)


@no_type_check
@triton.jit(do_not_specialize=["first_key", "second_key"])
def _round(
    x,
    multipliers,
    steps,
    y,
    first_key,
    second_key,
    R,
    C,
    rows,
    columns,
    MANTISSA: tl.constexpr,
    LEAST: tl.constexpr,
    LARGEST: tl.constexpr,
    ROUNDING: tl.constexpr,
    BY: tl.constexpr,
    PR: tl.constexpr,
    BX: tl.constexpr,
    PC: tl.constexpr,
):
    at, mask, block, is_block = _tile(R, C, rows, columns, BY, PR, BX, PC)
    multiplier = tl.load(multipliers + block, mask=is_block, other=1.0)[:, None, :, None]
    step = tl.load(steps + block, mask=is_block, other=1.0)[:, None, :, None]
    given = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    rounded = _to_grid(given * multiplier, at, first_key, second_key, MANTISSA, LEAST, LARGEST, ROUNDING)
    most = 3.4028234663852886e38
    value = tl.minimum(tl.maximum(rounded * step, -most), most)
    infinite = (given.to(tl.int32, bitcast=True) & 0x7F800000) == 0x7F800000
    tl.store(y + at, tl.where(infinite, given, value).to(y.dtype.element_ty), mask=mask)
