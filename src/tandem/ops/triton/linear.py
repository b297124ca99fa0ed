"""A linear map of a few rows as a Triton kernel: the weight is read once, by as many programs as a GPU runs at a time.

What comes before and after costs no launch: the rows may be normalized, and the result added to a residual stream. A norm
divides a row by one number, so the product takes the row undivided and its result is divided. All rows go through tiles of
one shape, so a row's result does not depend, bit for bit, on the others.

Shapes: T rows, D width, O outputs.
"""

from typing import no_type_check

import triton
import triton.language as tl
from torch import Tensor

from tandem.ops.triton.support import ceil_div, opaque, power_of_two

_DEPTH = 128  # of the product, at a time
_COLUMNS = 16  # of a program
_ROWS = 32  # likewise; from 64 on the compiler takes other instructions, which round differently
_STAGES = 5  # of the pipeline that loads weights
_WARPS = 4


def _result(
    x_TD: Tensor,
    weight_OD: Tensor,
    bias_O: Tensor | None,
    norm_D: Tensor | None,
    eps: float,
    residual: Tensor | None,
    scale: float,
) -> Tensor:
    like = x_TD if residual is None else residual
    return like.new_empty(len(x_TD), len(weight_OD))


@opaque(_result)
def linear_step(
    x_TD: Tensor,
    weight_OD: Tensor,
    bias_O: Tensor | None,
    norm_D: Tensor | None,
    eps: float,
    residual: Tensor | None,
    scale: float,
) -> Tensor:
    """Gives residual + scale · (norm(x) Wᵀ + b); without a norm weight or a residual that part is left out. No gradients.

    Returns:
        y_TO, in the residual's format, else x's.
    """
    y_TO = _result(x_TD, weight_OD, bias_O, norm_D, eps, residual, scale)
    (T, D), outputs = x_TD.shape, len(weight_OD)
    rows = min(_ROWS, max(16, power_of_two(T)))
    form = {"BIASED": bias_O is not None, "NORMED": norm_D is not None, "ADDED": residual is not None}
    tile = {"BT": rows, "BD": _DEPTH, "BO": _COLUMNS, "num_stages": _STAGES, "num_warps": _WARPS}
    given = (x_TD.contiguous(), weight_OD.contiguous(), bias_O, norm_D, residual)
    grid = (ceil_div(outputs, _COLUMNS), ceil_div(T, rows))
    _product[grid](*given, y_TO, T, outputs, eps, scale, D=D, **form, **tile)
    return y_TO


@no_type_check
@triton.jit
def _product(
    x,
    weight,
    bias,
    norm,
    residual,
    y,
    T,
    outputs,
    eps,
    scale,
    D: tl.constexpr,
    BIASED: tl.constexpr,
    NORMED: tl.constexpr,
    ADDED: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BO: tl.constexpr,
):
    t = tl.program_id(1) * BT + tl.arange(0, BT)
    o = tl.program_id(0) * BO + tl.arange(0, BO)
    total, squares = tl.zeros((BT, BO), tl.float32), tl.zeros((BT, BD), tl.float32)
    for first in range(0, D, BD):
        d = first + tl.arange(0, BD)
        rows = tl.load(x + t[:, None] * D + d[None, :], mask=(t < T)[:, None] & (d < D)[None, :], other=0.0)
        w = tl.load(
            weight + o[None, :].to(tl.int64) * D + d[:, None], mask=(o < outputs)[None, :] & (d < D)[:, None], other=0.0
        )
        if NORMED:
            wide = rows.to(tl.float32)
            squares += wide * wide
            factor = tl.load(norm + d, mask=d < D, other=0.0).to(tl.float32)
            rows = (wide * factor[None, :]).to(rows.dtype)
        total = tl.dot(rows, w.to(rows.dtype), total, input_precision="ieee")
    if NORMED:
        total *= 1 / tl.sqrt(tl.sum(squares, 1) / D + eps)[:, None]
    mask = (t < T)[:, None] & (o < outputs)[None, :]
    at = t.to(tl.int64)[:, None] * outputs + o[None, :]
    if BIASED:
        total += tl.load(bias + o, mask=o < outputs, other=0.0).to(tl.float32)[None, :]
    if ADDED:
        total = tl.load(residual + at, mask=mask, other=0.0).to(tl.float32) + scale * total
    tl.store(y + at, total, mask=mask)
