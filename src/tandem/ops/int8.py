"""Matrices in int8 with one scale an output: half the bytes of bfloat16, for decode steps, which are bound by them.

Symmetric: w ≈ scale · q with q in [-127, 127] and scale = max|w| / 127 over the inputs of each output.
"""

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_COPIES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def quantize_int8(weight: Tensor, axis: int = -1) -> tuple[Tensor, Tensor]:
    """Rounds a matrix to int8.

    Args:
        axis: that of the inputs, over which a scale is shared: 1 of experts (E, D, F), the last of (O, D).
    Returns:
        int8 values of the weight's shape, and float32 scales of its shape without `axis`.
    """
    wide = weight.detach().float()
    scale = (wide.abs().amax(axis, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return (wide / scale).round().to(torch.int8).contiguous(), scale.squeeze(axis).contiguous()


def dequantize_int8(values: Tensor, scale: Tensor, axis: int = -1) -> Tensor:
    """The float32 numbers that `quantize_int8` stands for."""
    return values.float() * scale.unsqueeze(axis)


def int8_copy(weight: Tensor, axis: int = -1) -> tuple[Tensor, Tensor]:
    """`quantize_int8`, kept as long as the weight lives and has not been written to."""
    mark = (weight.data_ptr(), None if weight.is_inference() else weight._version, axis)
    known = _COPIES.get(weight)
    if known is None or known[0] != mark:
        known = _COPIES[weight] = (mark, quantize_int8(weight, axis))
    return known[1]


@torch.no_grad()
def round_to_int8(weight: Tensor, axis: int = -1) -> None:
    """Rounds a matrix in place to what its int8 copy holds, as near as its own format can say it."""
    copy = quantize_int8(weight, axis)
    weight.copy_(dequantize_int8(*copy, axis))
    _COPIES[weight] = ((weight.data_ptr(), None if weight.is_inference() else weight._version, axis), copy)
