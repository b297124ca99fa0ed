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
from tandem.precision.native import Codes, codes_of, multiplies, product, turned_codes
from tandem.precision.recipe import Operand, Recipe

_PRODUCTS = (("P1", "P2"), ("P3", "P4"), ("P5", "P6"))
_NO_CODES = (None, None)


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
        forward, dx, dw = natives = [_native(recipe, *pair, x) for pair in _PRODUCTS]
        x_TI, x_codes, weight_codes = x.reshape(-1, x.shape[-1]), None, None
        if forward:
            # What backward reads comes of the same pass, and takes half the memory of x.
            needs_dx, needs_dw, *_ = ctx.needs_input_grad
            of_x, x_codes = codes_of(x_TI, forward[0], dw[1] if dw and needs_dw else None)
            of_weight, weight_codes = codes_of(weight_OI, forward[1], dx[1] if dx and needs_dx else None)
            y_TO = product(of_x, of_weight, forward, (len(x_TI), len(weight_OI)))
            y_TO = y_TO if bias_O is None else y_TO + bias_O.to(y_TO.dtype)
        else:
            operands = rounded(recipe.P1, x_TI, -1, x.dtype), rounded(recipe.P2, weight_OI, -1, x.dtype)
            y_TO = linear(*operands, bias_O)
        given = None if x_codes else x_TI, None if weight_codes else weight_OI, bias_O
        ctx.save_for_backward(*given, *(x_codes or _NO_CODES), *(weight_codes or _NO_CODES))
        ctx.recipe, ctx.natives, ctx.x_shape, ctx.dtypes = recipe, natives, x.shape, (x.dtype, weight_OI.dtype)
        return y_TO.view(*x.shape[:-1], len(weight_OI))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        needs_dx, needs_dw, needs_db, _ = ctx.needs_input_grad
        _, native_dx, native_dw = ctx.natives
        dy_TO, of_dy, dy_codes, dx, d_weight, d_bias = dy.reshape(-1, dy.shape[-1]), None, None, None, None, None
        across = native_dw[0] if native_dw and needs_dw else None
        if native_dx and needs_dx:
            of_dy, dy_codes = codes_of(dy_TO, native_dx[0], across)
        elif across:
            dy_codes = turned_codes(dy_TO, across)
        if needs_dx:
            dx = _input_gradient(ctx, dy_TO, of_dy).view(ctx.x_shape)
        if needs_dw:
            d_weight = _weight_gradient(ctx, dy_TO, dy_codes).to(ctx.dtypes[1])
        if needs_db:
            d_bias = dy_TO.sum(0).to(ctx.saved_tensors[2].dtype)
        return dx, d_weight, d_bias, None


def _input_gradient(ctx: Any, dy_TO: Tensor, of_dy: Codes | None) -> Tensor:
    recipe, dtype, weight_OI, of_weight = ctx.recipe, ctx.dtypes[0], ctx.saved_tensors[1], ctx.saved_tensors[5:]
    if of_dy is None:
        return rounded(recipe.P3, dy_TO, -1, dtype) @ rounded(recipe.P4, weight_OI, 0, dtype)
    if weight_OI is not None:
        of_weight = turned_codes(weight_OI, recipe.P4)
    return product(of_dy, of_weight, ctx.natives[1], (len(dy_TO), ctx.x_shape[-1]))


def _weight_gradient(ctx: Any, dy_TO: Tensor, of_dy: Codes | None) -> Tensor:
    recipe, dtype, x_TI, of_x = ctx.recipe, ctx.dtypes[0], ctx.saved_tensors[0], ctx.saved_tensors[3:5]
    if of_dy is None:
        return rounded(recipe.P5, dy_TO, 0, dtype).t() @ rounded(recipe.P6, x_TI, 0, dtype)
    if x_TI is not None:
        of_x = turned_codes(x_TI, recipe.P6)
    return product(of_dy, of_x, ctx.natives[2], (dy_TO.shape[1], ctx.x_shape[-1]))


def _native(recipe: Recipe, left: str, right: str, x: Tensor) -> tuple[Operand, Operand] | None:
    """The operands of a product if the GPU is to multiply it, and can."""
    a, b = getattr(recipe, left), getattr(recipe, right)
    return (a, b) if recipe.native and x.dtype == torch.bfloat16 and multiplies(a, b, x.device) else None


def rounded(operand: Operand | None, x: Tensor, axis: int, dtype: torch.dtype) -> Tensor:
    """What a product of that dtype reads of an operand whose blocks lie along `axis`."""
    return x.to(dtype) if operand is None else operand.round(x, axis, dtype)
