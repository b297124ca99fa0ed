"""Codes of 8-bit floats and their scales for both ways a product can read a matrix, in one pass, as a Triton kernel.

A training step multiplies with a matrix twice: summed along its rows and, turned, along its columns. Blocks of 128 lie along the
sum, so a tile of 128 × 128 has whole blocks of both ways.

Shapes: R rows, C columns; Y = ⌈R/128⌉ and X = ⌈C/128⌉ tiles; R' and C' are R and C up to whole sixteens, or tiles if a
tile has one scale, as products want them.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from tandem.ops.triton.quantize import to_grid
from tandem.ops.triton.support import ceil_div, interpreted, opaque

_SIDE = 128
_WARPS = 8


def _room(x_RC: Tensor, dtype: torch.dtype, square: bool, *grid: float | int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (R, C), Y, X = x_RC.shape, ceil_div(x_RC.shape[0], _SIDE), ceil_div(x_RC.shape[1], _SIDE)
    whole = _SIDE if square else 16
    codes = x_RC.new_empty(ceil_div(R, whole) * whole, X * _SIDE, dtype=dtype)
    turned = x_RC.new_empty(ceil_div(C, whole) * whole, Y * _SIDE, dtype=dtype)
    if square:
        return codes, x_RC.new_empty(Y, X, dtype=torch.float32), turned, x_RC.new_empty(0, dtype=torch.float32)
    scales = (x_RC.new_empty(count, len(rows), dtype=torch.float32) for count, rows in ((X, codes), (Y, turned)))
    return codes, next(scales), turned, next(scales)


@opaque(_room)
def codes_both_ways(
    x_RC: Tensor,
    dtype: torch.dtype,
    square: bool,
    mantissa_bits: int,
    least_exponent: int,
    largest: float,
    rounding: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes (R', 128 X) and scales s (X, R') of x with x ≈ codes · s, and of xᵀ (C', 128 Y) and (Y, C').

    If `square`, a scale is that of a whole tile, (Y, X), and there is no second one. What x does not have is zero. Infinities
    and NaN become NaN, and no scale counts them.

    Args:
        dtype: of 8 bits, which has the numbers of the grid.
        rounding: 0 for ties away from zero, 1 for ties to even; the three before are a `Grid`.
    """
    made = codes, scales, turned, turned_scales = _room(x_RC, dtype, square)
    if not x_RC.numel():
        return made
    tiles = (ceil_div(x_RC.shape[0], _SIDE), ceil_div(x_RC.shape[1], _SIDE))
    sizes = (*x_RC.shape, len(codes), len(turned))
    form = {"MANTISSA": mantissa_bits, "LEAST": least_exponent, "LARGEST": largest, "ROUNDING": rounding}
    given = (x_RC.contiguous(), codes, scales, turned, turned_scales)
    # A GPU's conversion rounds ties to even; the interpreter's does not.
    options = {"SQUARE": square, "SIDE": _SIDE, "CONVERTS": rounding == 1 and not interpreted(), "num_warps": _WARPS}
    kernel: Any = _codes
    kernel[tiles](*given, *sizes, **form, **options)
    return made


@no_type_check
@triton.jit
def _inverse(x):
    return tl.div_rn(tl.full(x.shape, 1.0, tl.float32), x)


@no_type_check
@triton.jit
def _scale(greatest, LARGEST: tl.constexpr):
    """S and s = 1 / S with the bits of `float32` scales in PyTorch, which multiplies with the inverse."""
    scale = tl.minimum(_inverse(greatest) * LARGEST, 8.507059173023462e37)  # 2^126
    return scale, _inverse(scale)


@no_type_check
@triton.jit
def _code(
    x, scale, TO: tl.constexpr, MANTISSA: tl.constexpr, LEAST: tl.constexpr, LARGEST: tl.constexpr,
    ROUNDING: tl.constexpr, CONVERTS: tl.constexpr,
):  # fmt: skip
    finite = (x.to(tl.int32, bitcast=True) & 0x7F800000) != 0x7F800000
    code = tl.minimum(tl.maximum(x * scale, -LARGEST), LARGEST)
    if not CONVERTS:
        code = to_grid(code, 0, 0, 0, MANTISSA, LEAST, LARGEST, ROUNDING)
    return tl.where(finite, code, float("nan")).to(TO)


@no_type_check
@triton.jit
def _codes(
    x, codes, scales, turned, turned_scales, R, C, codes_R, turned_C,
    MANTISSA: tl.constexpr, LEAST: tl.constexpr, LARGEST: tl.constexpr, ROUNDING: tl.constexpr,
    SQUARE: tl.constexpr, SIDE: tl.constexpr, CONVERTS: tl.constexpr,
):  # fmt: skip
    y, column_x = tl.program_id(0), tl.program_id(1)
    row_S, column_S = y * SIDE + tl.arange(0, SIDE), column_x * SIDE + tl.arange(0, SIDE)
    mask = (row_S < R)[:, None] & (column_S < C)[None, :]
    x_SS = tl.load(x + row_S.to(tl.int64)[:, None] * C + column_S[None, :], mask=mask, other=0.0).to(tl.float32)
    size = x_SS.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    size_SS = tl.where(size < 0x7F800000, size, 0).to(tl.float32, bitcast=True)
    at = codes + row_S.to(tl.int64)[:, None] * (tl.num_programs(1) * SIDE) + column_S[None, :]
    turned_at = turned + column_S.to(tl.int64)[None, :] * (tl.num_programs(0) * SIDE) + row_S[:, None]
    to: tl.constexpr = codes.dtype.element_ty
    greatest_S = tl.max(size_SS, 1)
    if SQUARE:
        scale, step = _scale(tl.max(greatest_S, 0), LARGEST)
        code_SS = _code(x_SS, scale, to, MANTISSA, LEAST, LARGEST, ROUNDING, CONVERTS)
        tl.store(scales + y * tl.num_programs(1) + column_x, step)
        turned_SS = code_SS
    else:
        scale_S, step_S = _scale(greatest_S, LARGEST)
        code_SS = _code(x_SS, scale_S[:, None], to, MANTISSA, LEAST, LARGEST, ROUNDING, CONVERTS)
        tl.store(scales + column_x * codes_R + row_S, step_S, mask=row_S < codes_R)
        scale_S, step_S = _scale(tl.max(size_SS, 0), LARGEST)
        turned_SS = _code(x_SS, scale_S[None, :], to, MANTISSA, LEAST, LARGEST, ROUNDING, CONVERTS)
        tl.store(turned_scales + y * turned_C + column_S, step_S, mask=column_S < turned_C)
    tl.store(at, code_SS, mask=(row_S < codes_R)[:, None])
    tl.store(turned_at, turned_SS, mask=(column_S < turned_C)[None, :])
