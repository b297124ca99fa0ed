"""Quantized experts against each expert as a `QuantizedLinear` on the rows it got."""

import pytest
import torch
from torch import Tensor

from tandem.nn import Experts, Linear, MixtureOfExperts, MoEConfig, SequenceLayout
from tandem.ops import swiglu
from tandem.precision import Operand, QuantizedExperts, QuantizedLinear, Recipe, mxfp8, nvfp4, same_for
from tandem.precision.recipe import TARGETS

T, D, E = 150, 32, 3  # an expert with more than 32 rows gets padding on a CPU
HURTS = {"P1": "y", "P2": "y", "P3": "dx", "P4": "dx", "P5": "dw", "P6": "dw"}
RECIPES = {
    "rectangles": same_for(TARGETS, Operand(format="E2M1", block=(8, 16))),
    "tensor": same_for(TARGETS, Operand(format="E2M1", block="tensor")),
    "channel": same_for(TARGETS, Operand(format="E2M1", block="channel")),
    "mxfp8": mxfp8(),
    "two levels": nvfp4().only(["P1", "P2", "P4", "P6"]),  # the others round by chance
}


def mixture() -> MixtureOfExperts:
    torch.manual_seed(0)
    layer = MixtureOfExperts(MoEConfig(experts=E, top_k=2, hidden=16, shared=0), D)
    layer.init_weights(1.0)
    return layer.double()


def x_TD() -> Tensor:
    x_TD = torch.randn(T, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x_TD[0] *= 100  # what padding repeats would raise every scale over rows
    return x_TD.requires_grad_()


def results(layer: MixtureOfExperts) -> dict[str, Tensor]:
    x = x_TD()
    y, _ = layer(x, SequenceLayout.from_lengths([T], chunk=64))
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype))
    gate_up, down = layer.experts.gate_up_EDF.grad, layer.experts.down_EFD.grad
    assert x.grad is not None
    assert gate_up is not None
    assert down is not None
    return {"y": y.detach(), "dx": x.grad, "dw": torch.cat([gate_up.flatten(), down.flatten()])}


def one_by_one(layer: MixtureOfExperts, recipe: Recipe) -> dict[str, Tensor]:
    """The same from `QuantizedLinear`s, an expert at a time."""
    x = x_TD()
    choice, y = layer._route(x, None), torch.zeros_like(x)
    weights = []
    for expert in range(E):
        maps = []
        for matrix in (layer.experts.gate_up_EDF[expert], layer.experts.down_EFD[expert]):
            linear = Linear(*matrix.shape).double()
            linear.weight = torch.nn.Parameter(matrix.detach().t().contiguous())
            maps.append(QuantizedLinear.of(linear, recipe))
        token, slot = (choice.expert_TK == expert).nonzero(as_tuple=True)
        result = maps[1](swiglu(maps[0](x[token])))
        y = y.index_add(0, token, result * choice.weight_TK[token, slot, None])
        weights.append([linear.weight for linear in maps])
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype))
    assert x.grad is not None
    grads = [torch.cat([pair[n].grad.t().flatten() for pair in weights if pair[n].grad is not None]) for n in (0, 1)]
    return {"y": y.detach(), "dx": x.grad, "dw": torch.cat(grads)}


@pytest.mark.parametrize("name", RECIPES)
def test_each_expert_is_a_quantized_linear_on_its_own_rows(name: str):
    layer = mixture()
    layer.experts = QuantizedExperts.of(layer.experts, RECIPES[name])
    # Stable order of rows: those of an expert are in the order of (token, slot), as in `one_by_one`.
    got, want = results(layer), one_by_one(mixture(), RECIPES[name])
    for key, value in want.items():
        torch.testing.assert_close(got[key], value, rtol=1e-9, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_changes_its_own_product(target: str):
    layer, plain = mixture(), results(mixture())
    layer.experts = QuantizedExperts.of(layer.experts, same_for([target], Operand(format="E1M1", block=8)))
    got = results(layer)
    changed = {key for key in plain if not torch.equal(got[key], plain[key])}
    # Two products in a row: what changes the first one's result or the second's gradient reaches the others.
    reached = {"y": {"y", "dx", "dw"}, "dx": {"dx", "dw"}, "dw": {"dw"}}
    assert HURTS[target] in changed
    assert changed <= reached[HURTS[target]]


def test_without_targets_every_bit_is_experts():
    layer, plain = mixture(), results(mixture())
    layer.experts = QuantizedExperts.of(layer.experts, Recipe())
    assert all(torch.equal(value, plain[key]) for key, value in results(layer).items())


def test_plain_experts_have_no_product_of_their_own():
    assert type(mixture().experts) is Experts
    assert mixture().experts.product is None
