"""Each target changes its own product and no other; without targets the layer is `Linear`."""

import pytest
import torch
from torch import Tensor

from tandem.nn import Linear
from tandem.precision import (
    Operand,
    QuantizedLinear,
    Recipe,
    fp8_deepseek,
    mxfp4,
    mxfp8,
    nvfp4,
    quantize,
    same_for,
    w8a8g8,
)
from tandem.precision.recipe import TARGETS

HURTS = {"P1": "y", "P2": "y", "P3": "dx", "P4": "dx", "P5": "dw", "P6": "dw"}
DTYPES = [torch.float32, torch.bfloat16]


def layer(bias: bool = False, dtype: torch.dtype = torch.float32) -> Linear:
    torch.manual_seed(0)
    made = Linear(64, 96, bias)
    made.init_weights()
    if made.bias is not None:
        torch.nn.init.normal_(made.bias)
    return made.to(dtype)


def results(module: Linear, dtype: torch.dtype, rows: tuple[int, ...] = (160,)) -> dict[str, Tensor]:
    """The output and the gradients of one step."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*rows, 64, generator=generator).to(dtype).requires_grad_()
    module.zero_grad()
    y = module(x)
    y.backward(torch.randn(y.shape, generator=generator).to(dtype))
    assert x.grad is not None
    assert module.weight.grad is not None
    got = {"y": y.detach(), "dx": x.grad, "dw": module.weight.grad.clone()}
    return got | ({} if module.bias is None or module.bias.grad is None else {"db": module.bias.grad.clone()})


def changed(got: dict[str, Tensor], want: dict[str, Tensor]) -> set[str]:
    return {name for name in want if not torch.equal(got[name], want[name])}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", DTYPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [(1,), (160,), (4, 40)])
def test_without_targets_every_bit_is_linears(
    dtype: torch.dtype, weights: torch.dtype, bias: bool, rows: tuple[int, ...]
):
    plain = layer(bias, weights)
    assert changed(results(QuantizedLinear.of(plain, Recipe()), dtype, rows), results(plain, dtype, rows)) == set()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_a_target_changes_exactly_its_product(target: str, bias: bool, dtype: torch.dtype):
    plain = layer(bias)
    recipe = same_for([target], Operand(format="E1M1", block=32))
    want, got = results(plain, dtype), results(QuantizedLinear.of(plain, recipe), dtype)
    assert changed(got, want) == {HURTS[target]}
    name = HURTS[target]
    error = (got[name] - want[name]).norm() / want[name].norm()
    assert 0.15 < error < 0.3  # 0.21 to 0.23 elsewhere


def test_products_are_those_of_rounded_operands_with_blocks_along_their_sums():
    plain, options = layer(), {"block": 32, "rounding": "nearest-even"}
    got = results(QuantizedLinear.of(plain, same_for(TARGETS, Operand(format="E2M1", **options))), torch.float32)
    generator = torch.Generator().manual_seed(1)
    x, dy, w = (
        torch.randn(160, 64, generator=generator),
        torch.randn(160, 96, generator=generator),
        plain.weight.detach(),
    )

    def rounded(t: Tensor, axis: int) -> Tensor:
        return quantize(t, "E2M1", axis=axis, **options).double()

    exact = {
        "y": rounded(x, 1) @ rounded(w, 1).t(),
        "dx": rounded(dy, 1) @ rounded(w, 0),
        "dw": rounded(dy, 0).t() @ rounded(x, 0),
    }
    for name, want in exact.items():
        torch.testing.assert_close(got[name].double(), want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("recipe", [fp8_deepseek(), mxfp8(), mxfp4(), nvfp4(), w8a8g8()])
@pytest.mark.parametrize("dtype", DTYPES)
def test_recipes_stay_near_the_plain_layer(recipe: Recipe, dtype: torch.dtype):
    plain = layer(bias=True)
    want, got = results(plain, dtype), results(QuantizedLinear.of(plain, recipe), dtype)
    assert set(got) == {"y", "dx", "dw", "db"}
    for name, value in want.items():
        assert got[name].dtype == value.dtype
        assert (got[name] - value).norm() < 0.3 * value.norm()


def test_the_weight_learns_though_its_products_see_it_rounded():
    """A weight whose steps are far below the format's moves on: the roundings pass gradients straight through."""
    torch.manual_seed(0)
    student = QuantizedLinear.of(layer(), same_for(["P2", "P4", "P6"], Operand(format="E2M1", block=32)))
    x, teacher = torch.randn(512, 64), torch.randn(96, 64) / 8
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        loss = (student(x) - x @ teacher.t()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_parameters_are_shared_and_only_asked_gradients_are_made():
    plain = layer(bias=True)
    made = QuantizedLinear.of(plain.eval(), mxfp8())
    assert made.weight is plain.weight
    assert made.bias is plain.bias
    assert not made.training
    assert "targets=P1 P2 P3 P4 P5 P6" in repr(made)
    made.weight.requires_grad_(False)
    x = torch.randn(8, 64, requires_grad=True)
    made(x).sum().backward()
    assert made.weight.grad is None
    assert x.grad is not None
    with torch.no_grad():
        assert not made(x).requires_grad


def test_no_tokens_are_no_trouble():
    made = QuantizedLinear.of(layer(), mxfp8())
    x = torch.randn(0, 64, requires_grad=True)
    made(x).sum().backward()
    assert made.weight.grad is not None
    assert torch.equal(made.weight.grad, torch.zeros(96, 64))
