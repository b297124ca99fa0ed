"""AdamW and the norm of gradients over many tensors, each as one Triton kernel; `tandem.ops.adamw` calls them.

A program takes one range of one tensor, which it finds by its address in a table. Sums of ranges are added in their order,
so that results repeat bit for bit.

Shapes: N tensors, R ranges, G groups.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

# Elements that a program has in registers, and its warps: the fastest of eight pairs on an H100, 2.87 of a copy's 3.02 TB/s;
# with twice as many elements a thread it is half as fast.
_FORM = {"BLOCK": 1024, "num_warps": 8}
_RANGE = tl.constexpr(8192)


def gradient_norm(table_N8: Tensor, ranges_R2: Tensor) -> Tensor:
    """Euclidean norm of all gradients in the table."""
    partial_R = torch.empty(len(ranges_R2), dtype=torch.float32, device=ranges_R2.device)
    with torch.cuda.device_of(table_N8):
        _squares[len(ranges_R2),](table_N8, ranges_R2, partial_R, **_FORM)
    return partial_R.sum().sqrt()


def update(
    table_N8: Tensor, ranges_R2: Tensor, rates_G2: Tensor, scalars: tuple[float, ...], narrow_moments: bool
) -> None:
    """One AdamW step; `scalars`: factor of the gradients, β₁, β₂, ε, 1 - β₁ᵗ, 1 - β₂ᵗ."""
    with torch.cuda.device_of(table_N8):
        _update[len(ranges_R2),](table_N8, ranges_R2, rates_G2, *scalars, MOMENTS_16=narrow_moments, **_FORM)


@no_type_check
@triton.jit
def _at(row, column: tl.constexpr, start, dtype: tl.constexpr):
    """Pointer to a tensor's element `start`. Memory of PyTorch begins at multiples of 16 bytes, and so do ranges."""
    pointer = tl.load(row + column).to(tl.pointer_type(dtype))
    return tl.multiple_of(pointer + start, 16)


@no_type_check
@triton.jit
def _gradient(row, start, place, mask):
    """Gradients in float32; a tensor with a narrow copy has them in bfloat16."""
    if tl.load(row + 4) != 0:
        gradient = tl.load(_at(row, 1, start, tl.bfloat16) + place, mask=mask, other=0.0).to(tl.float32)
    else:
        gradient = tl.load(_at(row, 1, start, tl.float32) + place, mask=mask, other=0.0)
    return gradient


@no_type_check
@triton.jit
def _squares(table, ranges, partial, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    row, first = table + tl.load(ranges + 2 * program) * 8, tl.load(ranges + 2 * program + 1)
    length = tl.minimum(tl.load(row + 5) - first, _RANGE)
    if tl.load(row + 1) == 0:
        length = length * 0
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, _RANGE, BLOCK):
        place = tl.arange(0, BLOCK)
        gradient = _gradient(row, first + start, place, place < length - start)
        total += gradient * gradient
    tl.store(partial + program, tl.sum(total, 0))


@no_type_check
@triton.jit
def _update(
    table, ranges, rates, factor, beta1, beta2, eps, unbias1, unbias2, MOMENTS_16: tl.constexpr, BLOCK: tl.constexpr
):
    program = tl.program_id(0)
    row, first = table + tl.load(ranges + 2 * program) * 8, tl.load(ranges + 2 * program + 1)
    if tl.load(row + 1) == 0:
        return
    length = tl.minimum(tl.load(row + 5) - first, _RANGE)
    rate = rates + 2 * tl.load(row + 6)
    lr, decay = tl.load(rate), tl.load(rate + 1)
    has_narrow = tl.load(row + 4) != 0
    dtype: tl.constexpr = tl.bfloat16 if MOMENTS_16 else tl.float32
    for start in range(0, _RANGE, BLOCK):
        begin, place = first + start, tl.arange(0, BLOCK)
        mask = place < length - start
        parameter_at = _at(row, 0, begin, tl.float32) + place
        mean_at, square_at = _at(row, 2, begin, dtype) + place, _at(row, 3, begin, dtype) + place
        gradient = _gradient(row, begin, place, mask) * factor
        parameter = tl.load(parameter_at, mask=mask, other=0.0)
        mean = tl.load(mean_at, mask=mask, other=0.0).to(tl.float32)
        square = tl.load(square_at, mask=mask, other=0.0).to(tl.float32)
        mean += (gradient - mean) * (1 - beta1)
        square = square * beta2 + gradient * gradient * (1 - beta2)
        parameter = parameter * (1 - lr * decay) - lr / unbias1 * mean / (tl.sqrt(square / unbias2) + eps)
        tl.store(parameter_at, parameter, mask=mask)
        tl.store(mean_at, mean.to(dtype), mask=mask)
        tl.store(square_at, square.to(dtype), mask=mask)
        if has_narrow:
            tl.store(_at(row, 4, begin, tl.bfloat16) + place, parameter.to(tl.bfloat16), mask=mask)
