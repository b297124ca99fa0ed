"""The scale of each block: what its numbers are multiplied with before they are rounded, and after.

Shapes: O outer positions, Y blocks down, X blocks across, as in `tandem.ops.quantize`.
"""

import torch
from torch import Tensor

from tandem.ops import power_of_two, round_to_grid
from tandem.precision.formats import FloatFormat, IntFormat

SCALES = ("float32", "e8m0", "e8m0-ceil", "e8m0-even", "e4m3")
"""`float32`: S = max of the format / max|x|, so that the largest number of a block becomes the format's largest.

`e8m0`: a power of two, 2^(⌊log2 max|x|⌋ - ⌊log2 max of the format⌋), as OCP MX 1.0 has it in §6.3; what lies above the format
saturates. `e8m0-ceil` takes ⌈log2 max|x|⌉; `e8m0-even` takes ⌊log2⌋ of max|x| rounded to the format's mantissa.

`e4m3`: the scale of a block in `ocp:e4m3fn`, times one float32 for the tensor, which puts its largest block's at 448 (NVFP4).
"""
_E4M3 = FloatFormat(4, 3, "ocp:e4m3fn")


def block_scales(maxima_OYX: Tensor, format: FloatFormat | IntFormat, scale: str) -> tuple[Tensor, Tensor]:
    """S and s = 1 / S of each block.

    S stays below the largest power of two, whatever small numbers a block holds, or zeros. A format of 8 exponent bits, whose range
    is that of the numbers themselves, has S = 1.

    Args:
        maxima_OYX: the largest |x| of each block, float32 or float64, in which scales are held too.
    """
    if isinstance(format, FloatFormat) and format.exponent == 8:
        return torch.ones_like(maxima_OYX), torch.ones_like(maxima_OYX)
    if scale == "float32":
        S_OYX = (format.max / maxima_OYX).clamp_(max=1 / torch.finfo(maxima_OYX.dtype).tiny)
        return S_OYX, 1 / S_OYX
    s_OYX = _two_level(maxima_OYX, format) if scale == "e4m3" else _power_of_two(maxima_OYX, format, scale)
    return 1 / s_OYX, s_OYX


def _power_of_two(maxima_OYX: Tensor, format: FloatFormat | IntFormat, scale: str) -> Tensor:
    fraction, exponent = torch.frexp(maxima_OYX)  # max = fraction · 2^exponent, fraction in [1/2, 1)
    if scale == "e8m0-ceil":
        up = fraction > 0.5
    elif scale == "e8m0-even":
        # The mantissa rounds up to the next power of two from here on.
        up = fraction >= 1 - 2.0 ** -(format.rounding.mantissa_bits + 2)
    else:
        up = torch.zeros_like(fraction, dtype=torch.bool)
    power = exponent - 1 + up.to(exponent.dtype) - format.rounding.greatest_exponent
    # By way of float64: 2⁻¹²⁷ is no normal number of float32.
    return power_of_two(power.clamp(-127, 127), torch.float64).to(maxima_OYX.dtype)


def _two_level(maxima_OYX: Tensor, format: FloatFormat | IntFormat) -> Tensor:
    least = torch.finfo(maxima_OYX.dtype).tiny / _E4M3.min_subnormal
    tensor_scale = (maxima_OYX.max() / (format.max * _E4M3.max)).clamp(min=least)
    wanted_OYX = maxima_OYX / format.max / tensor_scale
    # A block that is small beside the tensor keeps the smallest scale there is: with 0 nothing could be divided.
    return round_to_grid(wanted_OYX, _E4M3.rounding).clamp(min=_E4M3.min_subnormal) * tensor_scale
