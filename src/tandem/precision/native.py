"""A GPU's own products of 8-bit floats, for operands whose format, blocks and scales it multiplies.

Codes are those of the emulation. Sums differ: here they are of exact codes, with the scales behind each block's sum; there each
operand is rounded to the dtype of the product once more.

Shapes: y_MN = a_MK b_NKᵀ, blocks along K.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tandem.ops import ROUNDINGS
from tandem.ops.triton.support import triton_for
from tandem.precision.formats import element_format
from tandem.precision.quantizing import to_codes
from tandem.precision.recipe import Operand

_CODES = {"ocp:e4m3fn": torch.float8_e4m3fn, "ocp:e5m2": torch.float8_e5m2}
_BLOCK = 128
_SQUARE = (_BLOCK, _BLOCK)
_WHOLE = 16  # sizes are whole numbers of these


def multiplies(a: Operand | None, b: Operand | None, device: torch.device) -> bool:
    """Whether a GPU multiplies these: `ocp:e4m3fn` and `ocp:e5m2`, not both the latter, with float32 scales.

    Scales of whole channels from compute capability 8.9 on. Scales of 128 numbers, or of 128 × 128 on one side, on 9.0 alone: what
    came later scales by powers of two instead.
    """
    if a is None or b is None or device.type != "cuda" or torch.version.hip is not None:
        return False
    formats = {str(operand.format) for operand in (a, b)}
    if not formats <= set(_CODES) or formats == {"ocp:e5m2"} or {a.scale, b.scale} != {"float32"}:
        return False
    capability = torch.cuda.get_device_capability(device)
    if a.block == b.block == "channel":
        return capability >= (8, 9)
    blocks = {a.block, b.block}
    return capability == (9, 0) and blocks <= {_BLOCK, _SQUARE} and blocks != {_SQUARE}


Codes = tuple[Tensor, Tensor]
"""A matrix as a product reads it: 8-bit floats with zeros up to the sizes that it takes, and the scales of their blocks."""


def product(a: Codes, b: Codes, operands: tuple[Operand, Operand], shape: tuple[int, int]) -> Tensor:
    """Q(a) Q(b)ᵀ in bfloat16, of this shape, for codes of operands that `multiplies`."""
    (a_codes, a_scales), (b_codes, b_scales) = a, b
    a_way, b_way = (_way(operand) for operand in operands)
    if b_way == F.ScalingType.RowWise:
        b_scales = b_scales.t()
    y_MN = F.scaled_mm(a_codes, b_codes.t(), a_scales, a_way, b_scales, b_way, output_dtype=torch.bfloat16)
    return y_MN[: shape[0], : shape[1]]


def codes_of(x_RC: Tensor, along: Operand, across: Operand | None = None) -> tuple[Codes, Codes | None]:
    """Codes of x with blocks along its rows, and, with `across`, of xᵀ with blocks along the columns of x.

    Both are made in one pass where there is a kernel for that: it has no order for stochastic noise.
    """
    if along == across and along.rounding != "stochastic" and along.block != "channel" and triton_for(x_RC):
        return _both(x_RC, along)
    return _codes(x_RC, along), None if across is None else turned_codes(x_RC, across)


def turned_codes(x_RC: Tensor, across: Operand) -> Codes:
    """Codes of xᵀ with blocks along the columns of x."""
    return _codes(x_RC.t().contiguous(), across)


def _both(x_RC: Tensor, operand: Operand) -> tuple[Codes, Codes]:
    from tandem.ops.triton.codes import codes_both_ways

    square, grid = operand.block == _SQUARE, element_format(operand.format).rounding
    form = (_CODES[str(operand.format)], square, *grid, ROUNDINGS.index(operand.rounding))
    codes, scales, turned, turned_scales = codes_both_ways(x_RC, *form)
    if square:
        return (codes, _padded(scales, 1, 4).t()), (turned, _padded(scales.t().contiguous(), 1, 4).t())
    return (codes, scales.t()), (turned, turned_scales.t())


def _codes(x: Tensor, operand: Operand) -> Codes:
    square = operand.block == _SQUARE
    x = _padded(x, _BLOCK if square else _WHOLE, _WHOLE if operand.block == "channel" else _BLOCK)
    codes, scales_YX = to_codes(x, operand.format, block=operand.block, rounding=operand.rounding)
    codes = codes.to(_CODES[str(operand.format)])  # exact; infinities become NaN, and a training that diverges shows
    if operand.block == "channel":
        return codes, scales_YX
    return codes, _padded(scales_YX, 1, 4).t() if square else scales_YX.t().contiguous().t()


def _way(operand: Operand) -> F.ScalingType:
    """What the product calls the operand's scales."""
    if operand.block == "channel":
        return F.ScalingType.RowWise
    return F.ScalingType.BlockWise128x128 if operand.block == _SQUARE else F.ScalingType.BlockWise1x128


def _padded(x: Tensor, rows: int, columns: int) -> Tensor:
    """With zeros up to whole numbers of these, which change neither a sum nor the largest number of a block."""
    down, across = -x.shape[0] % rows, -x.shape[1] % columns
    return F.pad(x, (0, across, 0, down)) if down or across else x
