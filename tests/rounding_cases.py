"""Formats and numbers on which kernels that round must give the bits of the PyTorch form."""

import torch
from torch import Tensor

from tandem.ops import Grid

# Floats of 1 to 7 exponent bits, with and without a mantissa, and integers.
GRIDS = [
    *(Grid(1, 1, 3.0), Grid(1, 0, 6.0), Grid(0, 0, 4.0), Grid(0, -6, 256.0), Grid(3, -6, 448.0), Grid(2, -14, 57344.0)),
    *(Grid(22, -14, 2.0**16), Grid(22, -62, 2.0**64), Grid(6, 6, 127.0), Grid(22, 22, 2.0**23 - 1)),
]
E4M3 = GRIDS[4]
NARROW = [torch.float32, torch.bfloat16]
SIZES = [1e-44, 1e-38, 1e-3, 1.0, 1e30]


def bits(x: Tensor) -> Tensor:
    """The numbers' bits: equal for -0.0 and 0.0 only if they are the same."""
    return x.view(torch.int16 if x.element_size() == 2 else torch.int32)


def numbers(shape: tuple[int, ...], size: float, dtype: torch.dtype, seed: int) -> Tensor:
    """Normal numbers of a size, with infinities and a negative zero among them."""
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size).to(dtype)
    x.view(-1)[:3] = torch.tensor([float("inf"), float("-inf"), -0.0])[: min(3, x.numel())]
    return x


def every_number_of_sixteen_bits() -> Tensor:
    """All bfloat16 numbers, NaN of all kinds among them, shape (1, 1, 65536)."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16).view(1, 1, -1)
