"""A linear layer whose products see rounded operands, forward and backward.

What is rounded is what a product reads; the weight itself stays as it is, and gradients pass through each rounding as if it were
not there (straight-through estimator, Bengio et al. 2013, arXiv 1308.3432).

Shapes: T tokens, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import Tensor

from tandem.nn import Linear
from tandem.ops import linear
from tandem.precision.native import multiplies, product
from tandem.precision.recipe import Operand, Recipe


class QuantizedLinear(Linear):
    """y = x Wᵀ (+ b) with the operands of its three products rounded by a recipe; `Recipe()` gives `Linear`, bit for bit.

    Products are computed in x's dtype, to which rounded operands are cast: an emulation that needs no hardware with the format.
    A recipe that is `native` uses a GPU's own products of 8-bit floats instead, where x is bfloat16 and there are such.
    """

    def __init__(self, width_in: int, width_out: int, bias: bool = False, *, recipe: Recipe) -> None:
        super().__init__(width_in, width_out, bias)
        self.recipe = recipe

    @classmethod
    def of(cls, layer: Linear, recipe: Recipe) -> "QuantizedLinear":
        """The layer with a recipe, on the same parameters."""
        with torch.device("meta"):
            made = cls(layer.in_features, layer.out_features, recipe=recipe)
        made.weight, made.bias = layer.weight, layer.bias
        return made.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        """Maps the last dimension."""
        if not self.recipe.targets:
            return super().forward(input)
        return _QuantizedProduct.apply(input, self.weight, self.bias, self.recipe)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, targets={' '.join(sorted(self.recipe.targets)) or 'none'}"


class _QuantizedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, recipe: Recipe) -> Tensor:
        ctx.save_for_backward(x, weight_OI, bias_O)
        ctx.recipe = recipe
        if pair := _native(recipe, "P1", "P2", x):
            y = product(x.reshape(-1, x.shape[-1]), weight_OI, *pair).view(*x.shape[:-1], len(weight_OI))
            return y if bias_O is None else y + bias_O.to(y.dtype)
        return linear(rounded(recipe.P1, x, -1, x.dtype), rounded(recipe.P2, weight_OI, -1, x.dtype), bias_O)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight_OI, bias_O = ctx.saved_tensors
        dy_TO, dx, d_weight, d_bias = dy.reshape(-1, dy.shape[-1]), None, None, None
        if ctx.needs_input_grad[0]:
            dx = _input_gradient(ctx.recipe, dy_TO, weight_OI, x.dtype).view(x.shape)
        if ctx.needs_input_grad[1]:
            x_TI = x.reshape(-1, x.shape[-1])
            d_weight = _weight_gradient(ctx.recipe, dy_TO, x_TI).to(weight_OI.dtype)
        if ctx.needs_input_grad[2]:
            d_bias = dy_TO.sum(0).to(bias_O.dtype)
        return dx, d_weight, d_bias, None


def _input_gradient(recipe: Recipe, dy_TO: Tensor, weight_OI: Tensor, dtype: torch.dtype) -> Tensor:
    if pair := _native(recipe, "P3", "P4", dy_TO):
        return product(dy_TO, weight_OI.t().contiguous(), *pair)
    return rounded(recipe.P3, dy_TO, -1, dtype) @ rounded(recipe.P4, weight_OI, 0, dtype)


def _weight_gradient(recipe: Recipe, dy_TO: Tensor, x_TI: Tensor) -> Tensor:
    if pair := _native(recipe, "P5", "P6", x_TI):
        return product(dy_TO.t().contiguous(), x_TI.t().contiguous(), *pair)
    return rounded(recipe.P5, dy_TO, 0, x_TI.dtype).t() @ rounded(recipe.P6, x_TI, 0, x_TI.dtype)


def _native(recipe: Recipe, left: str, right: str, x: Tensor) -> tuple[Operand, Operand] | None:
    """The operands of a product if the GPU is to multiply it, and can."""
    a, b = getattr(recipe, left), getattr(recipe, right)
    return (a, b) if recipe.native and x.dtype == torch.bfloat16 and multiplies(a, b, x.device) else None


def rounded(operand: Operand | None, x: Tensor, axis: int, dtype: torch.dtype) -> Tensor:
    """What a product of that dtype reads of an operand whose blocks lie along `axis`."""
    return x.to(dtype) if operand is None else operand.round(x, axis, dtype)
