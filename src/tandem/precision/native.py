"""A GPU's own products of 8-bit floats, for operands whose format, blocks and scales it multiplies.

Codes are those of the emulation. Sums differ: here they are of exact codes, with the scales behind each block's sum; there each
operand is rounded to the dtype of the product once more.

Shapes: y_MN = a_MK b_NKᵀ, blocks along K.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

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


def product(a_MK: Tensor, b_NK: Tensor, a: Operand, b: Operand) -> Tensor:
    """Q(a) Q(b)ᵀ in bfloat16, for operands that `multiplies`."""
    a_codes, a_scales, a_way = _side(a_MK, a)
    b_codes, b_scales, b_way = _side(b_NK, b)
    if b_way == F.ScalingType.RowWise:
        b_scales = b_scales.t()
    y_MN = F.scaled_mm(a_codes, b_codes.t(), a_scales, a_way, b_scales, b_way, output_dtype=torch.bfloat16)
    return y_MN[: len(a_MK), : len(b_NK)]


def _side(x: Tensor, operand: Operand) -> tuple[Tensor, Tensor, F.ScalingType]:
    """Codes, the scales of their blocks as the product reads them, and how it calls such scales."""
    square = operand.block == _SQUARE
    x = _padded(x, _BLOCK if square else _WHOLE, _WHOLE if operand.block == "channel" else _BLOCK)
    codes, scales_YX = to_codes(x, operand.format, block=operand.block, rounding=operand.rounding)
    codes = codes.to(_CODES[str(operand.format)])  # exact; infinities become NaN, and a training that diverges shows
    if operand.block == "channel":
        return codes, scales_YX, F.ScalingType.RowWise
    if square:
        return codes, _padded(scales_YX, 1, 4).t(), F.ScalingType.BlockWise128x128
    return codes, scales_YX.t().contiguous().t(), F.ScalingType.BlockWise1x128


def _padded(x: Tensor, rows: int, columns: int) -> Tensor:
    """With zeros up to whole numbers of these, which change neither a sum nor the largest number of a block."""
    down, across = -x.shape[0] % rows, -x.shape[1] % columns
    return F.pad(x, (0, across, 0, down)) if down or across else x
