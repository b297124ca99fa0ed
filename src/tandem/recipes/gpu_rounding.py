"""What rounding to 8 bits costs on a GPU, and what its own products of 8-bit floats give back. Start at `measure_on_gpu`.

Timed as `tandem.recipes.kernels` times ops: events on the device, several sets of inputs in turn.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from tandem.nn import Linear
from tandem.ops.triton.support import without_triton
from tandem.precision import Block, Operand, QuantizedLinear, Recipe, fp8_deepseek, quantize, same_for
from tandem.precision.recipe import TARGETS
from tandem.recipes.benchmark import Ceiling
from tandem.recipes.kernels import milliseconds

TOKENS, WIDTH = 16_384, 4096
BLOCKS: tuple[tuple[Block, int], ...] = ((128, -1), (128, 0), ((128, 128), -1), ("channel", -1), ("channel", 0))
"""What shares a scale, and the axis."""
_SETS = 3
_PATIENCE = 200.0


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuCost:
    """Milliseconds of one work, run by run, of the same without kernels or without rounding, and the least there could be."""

    name: str
    ours: tuple[float, ...]
    other: tuple[float, ...]
    floor: float

    def cells(self) -> list[str]:
        """Name, our time with its range, the other's, the other's by ours, and the share of the ceiling."""
        ours, other = statistics.median(self.ours), statistics.median(self.other)
        times = f"{ours:.3f} ({min(self.ours):.3f}–{max(self.ours):.3f})"
        return [self.name, times, f"{other:.3f}", f"{other / ours:.2f}", f"{self.floor / ours:.0%}"]


def measure_rounding(ceiling: Ceiling) -> Iterator[GpuCost]:
    """`quantize` of a bfloat16 matrix to `ocp:e4m3fn`, beside the same in PyTorch's operations; the floor is a copy."""
    sets = [[torch.randn(TOKENS, WIDTH, device="cuda").bfloat16()] for _ in range(_SETS)]
    floor = 2 * sets[0][0].nbytes / ceiling.read * 1e3
    for block, axis in BLOCKS:
        call = partial(_quantized, block, axis)
        with without_triton():
            plain = milliseconds(call, sets, _PATIENCE)
        yield GpuCost(name=f"{block}, axis {axis}", ours=milliseconds(call, sets), other=plain, floor=floor)


def _quantized(block: Block, axis: int, leaves: list[Tensor]) -> None:
    quantize(leaves[0], "ocp:e4m3fn", block=block, axis=axis, rounding="nearest-even")


def measure_products(ceiling: Ceiling) -> Iterator[GpuCost]:
    """Forward and backward of a linear layer with all operands rounded, beside the layer in bfloat16, whose products are the floor."""
    channel = same_for(TARGETS, Operand(format="ocp:e4m3fn", rounding="nearest-even"))
    recipes: dict[str, Recipe] = {
        "fp8-deepseek, emulated": fp8_deepseek(),
        "fp8-deepseek, native": replace(fp8_deepseek(), native=True),
        "channel, emulated": channel,
        "channel, native": replace(channel, native=True),
    }
    layer = Linear(WIDTH, WIDTH).to("cuda", torch.bfloat16)
    torch.nn.init.normal_(layer.weight, std=WIDTH**-0.5)
    sets = [[torch.randn(TOKENS, WIDTH, device="cuda").bfloat16().requires_grad_()] for _ in range(_SETS)]
    pull = torch.randn(TOKENS, WIDTH, device="cuda").bfloat16()
    floor = 6.0 * TOKENS * WIDTH**2 / ceiling.matmul * 1e3
    plain = milliseconds(partial(_step, layer, pull), sets)
    for name, recipe in recipes.items():
        ours = milliseconds(partial(_step, QuantizedLinear.of(layer, recipe), pull), sets)
        yield GpuCost(name=name, ours=ours, other=plain, floor=floor)


def _step(layer: Callable[[Tensor], Tensor], pull: Tensor, leaves: list[Tensor]) -> None:
    assert isinstance(layer, Linear)
    torch.autograd.grad(layer(leaves[0]), [leaves[0], layer.weight], pull)
