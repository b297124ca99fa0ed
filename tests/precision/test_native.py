"""Products of 8-bit floats: which there are, codes that are the emulation's, and results beside it on a GPU that has them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tandem.precision import Operand, QuantizedLinear, fp8_deepseek, quantize
from tandem.precision.native import multiplies, product
from tandem.precision.quantizing import to_codes

NARROW = Operand(format="ocp:e4m3fn", block=128, rounding="nearest-even")
SQUARE = Operand(format="ocp:e4m3fn", block=(128, 128), rounding="nearest-even")
CHANNEL = Operand(format="ocp:e4m3fn", rounding="nearest-even")
GRADIENT = Operand(format="ocp:e5m2", rounding="nearest-even")
HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)


@pytest.mark.parametrize("block", [1, 16, 100, 128, (16, 16), (128, 128), "channel", "tensor"])
@pytest.mark.parametrize("format", ["ocp:e4m3fn", "E2M1", "E0M7"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_times_scales_are_what_quantize_gives(format: str, block: int, dtype: torch.dtype):
    x = torch.randn(70, 300, generator=torch.Generator().manual_seed(0)).to(dtype)
    codes, scales = to_codes(x, format, block=block, rounding="nearest-even")
    rows, columns = (1, block) if isinstance(block, int) else block if isinstance(block, tuple) else (1, 300)
    if block == "tensor":
        scales = scales.flatten()[:1, None]
    else:
        scales = scales.repeat_interleave(rows, 0)[:70].repeat_interleave(columns, 1)[:, :300]
    assert torch.equal(codes * scales, quantize(x, format, block=block, rounding="nearest-even"))


def test_codes_of_eight_bits_are_numbers_of_torchs_format():
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    codes, _ = to_codes(x, "ocp:e4m3fn", block=128, rounding="nearest-even")
    assert torch.equal(codes.to(torch.float8_e4m3fn).to(torch.bfloat16), codes)
    assert codes.abs().max() == 448


def test_a_processor_multiplies_none():
    assert not multiplies(NARROW, NARROW, torch.device("cpu"))
    layer = QuantizedLinear(32, 16, recipe=fp8_deepseek())
    torch.nn.init.normal_(layer.weight)
    native = QuantizedLinear.of(layer, replace(layer.recipe, native=True))
    x = torch.randn(8, 32).bfloat16()
    assert torch.equal(native(x), layer(x))


@pytest.mark.skipif(not HOPPER, reason="needs a GPU of compute capability 9.0")
@pytest.mark.parametrize(
    ("a", "b", "there_is"),
    [
        *((NARROW, NARROW, True), (NARROW, SQUARE, True), (SQUARE, NARROW, True), (SQUARE, SQUARE, False)),
        *((CHANNEL, CHANNEL, True), (GRADIENT, CHANNEL, True), (GRADIENT, GRADIENT, False), (CHANNEL, NARROW, False)),
        *((None, NARROW, False), (Operand(format="E4M3", block=128), NARROW, False)),
        (Operand(format="ocp:e4m3fn", block=128, scale="e8m0"), NARROW, False),
    ],
)
@pytest.mark.parametrize("sizes", [(256, 384, 512), (100, 40, 300), (1, 16, 128)])
def test_products_beside_the_emulation(
    a: Operand | None, b: Operand | None, there_is: bool, sizes: tuple[int, int, int]
):
    assert multiplies(a, b, torch.device("cuda")) == there_is
    if a is None or b is None or not there_is:
        return
    M, N, K = sizes
    left, right = torch.randn(M, K, device="cuda").bfloat16(), torch.randn(N, K, device="cuda").bfloat16()
    exact = a.round(left, -1, torch.float32).double() @ b.round(right, -1, torch.float32).double().t()
    assert off(product(left, right, a, b), exact) < 4e-3  # 2e-3 is bfloat16's own rounding of the result


@pytest.mark.skipif(not HOPPER, reason="needs a GPU of compute capability 9.0")
@pytest.mark.parametrize("rows", [(4, 96), (300,)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_is_no_further_from_its_definition_than_the_emulation(rows: tuple[int, ...], bias: bool):
    torch.manual_seed(0)
    layer = QuantizedLinear(320, 272, bias, recipe=fp8_deepseek()).to("cuda")
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x, dy = torch.randn(*rows, 320, device="cuda"), torch.randn(*rows, 272, device="cuda")
    x, dy = x.bfloat16(), dy.bfloat16()
    exact = step(layer, x.float(), dy.float())
    emulated = step(layer, x, dy)
    layer.recipe = replace(layer.recipe, native=True)
    for got, was, want in zip(step(layer, x, dy), emulated, exact, strict=True):
        assert not torch.equal(got, was)
        assert off(got, want.double()) < max(1.1 * off(was, want.double()), 4e-3)


def step(layer: QuantizedLinear, x: Tensor, dy: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    return [y.detach(), *torch.autograd.grad(y, [x, layer.weight], dy)]


def off(got: Tensor, want: Tensor) -> float:
    return ((got.double() - want).norm() / want.norm()).item()
