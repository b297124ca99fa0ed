"""`quantize`: the numbers of a tensor as a small format with block scales would keep them.

Shapes: a tensor is seen as O outer positions, R rows, C columns, with blocks of r rows and c columns.
"""

import math

import torch
from torch import Tensor

from tandem.ops import ROUNDINGS, block_maxima, round_blocks
from tandem.precision.formats import FloatFormat, Format, IntFormat, element_format
from tandem.precision.scales import SCALES, block_scales

Block = int | tuple[int, int] | str
"""Elements that share a scale: B neighbors along an axis, a rectangle of the last two axes, `channel` (the whole of an axis), or
`tensor`."""
_TENSOR_PIECE = 1 << 16  # so that threads share a block that is the whole tensor


@torch.no_grad()
def quantize(
    x: Tensor,
    format: str | Format,
    *,
    block: Block = "channel",
    axis: int = -1,
    rounding: str = "nearest-away",
    scale: str = "float32",
    out_dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Rounds to a format with block scales, and gives the numbers back at their own size: Q(S x) / S.

    NaN and infinities stay where they are, and no scale counts them. Numbers outside the format saturate. Computed in float32, or
    in float64 for float64, whatever the dtype of x; no gradient passes (`QuantizedLinear` has its own).

    Args:
        format: a format or its name: `E4M3`, `E0M7`, `ocp:e4m3fn`.
        block: what shares a scale: an int is so many neighbors along `axis`, (r, c) a rectangle of the last two axes, "channel"
            the whole of `axis`, "tensor" everything. Where a block does not divide the axis the last one is short.
        axis: along which blocks lie: that of the sum of a matrix product; unused by (r, c) and "tensor".
        rounding: ties away from zero, as the law's runs had it; ties to even, as hardware has it; or "stochastic".
        scale: how scales are kept, see `SCALES`.
        out_dtype: of the result; x's when None.
        generator: of stochastic rounding; the global one when None.
    Returns:
        a tensor of x's shape.
    Raises:
        ValueError: an argument is not one of these, or x has no floats.

    >>> quantize(torch.tensor([0.1, 0.7, -1.0, 3.0]), "E1M1", block=4)
    tensor([ 0.,  1., -1.,  3.])
    """
    dtype = out_dtype or x.dtype
    x_ORC, size, scales, elements = _scaled(x, format, block, axis, rounding, scale)
    if x.numel() == 0:
        return x.to(dtype, copy=True)
    seed = _seed(generator) if rounding == "stochastic" else 0
    return round_blocks(x_ORC, size, scales, elements.rounding, rounding, seed=seed, dtype=dtype).view(x.shape)


@torch.no_grad()
def to_codes(
    x: Tensor, format: str | Format, *, block: Block, rounding: str, scale: str = "float32"
) -> tuple[Tensor, Tensor]:
    """What `quantize` along the last axis rounds to, as numbers of the format, and the scales s with x ≈ codes · s.

    Args:
        x: (R, C).
    Returns:
        codes_RC in x's dtype, and s_YX, a number a block, in float32 or wider.
    """
    x_ORC, size, (multiplier_OYX, step_OYX), elements = _scaled(x, format, block, -1, rounding, scale)
    seed = _seed(None) if rounding == "stochastic" else 0
    scales = (multiplier_OYX, torch.ones_like(step_OYX))
    codes_ORC = round_blocks(x_ORC, size, scales, elements.rounding, rounding, seed=seed)
    return codes_ORC.view(x.shape), step_OYX.flatten(0, 1)


def _scaled(
    x: Tensor, format: str | Format, block: Block, axis: int, rounding: str, scale: str
) -> tuple[Tensor, tuple[int, int], tuple[Tensor, Tensor], FloatFormat | IntFormat]:
    """The tensor as (O, R, C), rows and columns of a block, S and s of each block, and the format."""
    elements = element_format(format)
    _require("rounding", rounding, ROUNDINGS)
    _require("scale", scale, SCALES)
    if not x.is_floating_point():
        raise ValueError(f"x.dtype={x.dtype} has no floats to round; pass x.float()")
    x_ORC, size = _as_blocks(x, block, axis)
    if x.numel() == 0:
        return x_ORC, size, (x.new_empty(0), x.new_empty(0)), elements
    maxima_OYX = block_maxima(x_ORC, size)
    if block == "tensor":
        maxima_OYX = maxima_OYX.amax().expand_as(maxima_OYX)
    return x_ORC, size, block_scales(maxima_OYX, elements, scale), elements


def _as_blocks(x: Tensor, block: Block, axis: int) -> tuple[Tensor, tuple[int, int]]:
    """The tensor as (O, R, C), and rows and columns of a block."""
    if block == "tensor":
        return x.reshape(1, 1, x.numel()), (1, _TENSOR_PIECE)
    if isinstance(block, tuple):
        if x.ndim < 2:
            raise ValueError(f"block={block} is a rectangle of two axes but x has {x.ndim}; use an int")
        if len(block) != 2 or min(block) < 1:
            raise ValueError(f"block={block} must be two numbers of 1 or more")
        R, C = x.shape[-2:]
        return x.reshape(math.prod(x.shape[:-2]), R, C), (min(block[0], max(R, 1)), min(block[1], max(C, 1)))
    return _along_axis(x, block, axis)


def _along_axis(x: Tensor, block: int | str, axis: int) -> tuple[Tensor, tuple[int, int]]:
    shape = x.shape or torch.Size([1])
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis={axis} is none of x's {len(shape)}; use {-len(shape)} to {len(shape) - 1}")
    axis %= len(shape)
    if isinstance(block, str):
        _require("block", block, ("channel", "tensor"))
        size = max(shape[axis], 1)
    elif block < 1:
        raise ValueError(f"block={block} must be 1 or more neighbors, (rows, columns), 'channel' or 'tensor'")
    else:
        size = min(block, max(shape[axis], 1))
    if axis == len(shape) - 1:
        return x.reshape(1, math.prod(shape[:-1]), shape[-1]), (1, size)
    return x.reshape(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])), (size, 1)


def _require(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not known; use {', '.join(allowed)}")


def _seed(generator: torch.Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))
