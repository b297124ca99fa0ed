"""Routed experts whose grouped products see rounded operands: each expert as a `QuantizedLinear` on its own rows.

Shapes: R rows sorted by expert, E experts, I inputs, O outputs. Matrices are (I, O), `Linear`'s turned.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from tandem.nn import Experts
from tandem.ops import GroupedProduct, expert_rows
from tandem.precision.linear import rounded
from tandem.precision.recipe import Operand, Recipe


class QuantizedExperts(Experts):
    """The matrices of `Experts` with a recipe; scales never reach from one expert to another."""

    def __init__(self, gate_up_EDF: nn.Parameter, down_EFD: nn.Parameter, *, recipe: Recipe) -> None:
        super().__init__(gate_up_EDF, down_EFD)
        self.recipe = recipe

    @classmethod
    def of(cls, experts: Experts, recipe: Recipe) -> "QuantizedExperts":
        """The experts with a recipe, on the same parameters."""
        return cls(experts.gate_up_EDF, experts.down_EFD, recipe=recipe).train(experts.training)

    @property
    def product(self) -> GroupedProduct:
        """The grouped product with rounded operands."""
        recipe = self.recipe
        turned = dataclasses.replace(recipe, P2=_turned(recipe.P2), P4=_turned(recipe.P4))
        return lambda x_RI, w_EIO, ends: _QuantizedGrouped.apply(x_RI, w_EIO, ends, turned)

    def extra_repr(self) -> str:
        return f"targets={' '.join(sorted(self.recipe.targets)) or 'none'}"


class _QuantizedGrouped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RI: Tensor, w_EIO: Tensor, ends: list[int] | Tensor, recipe: Recipe) -> Tensor:
        ctx.save_for_backward(x_RI, w_EIO)
        ctx.ends = ends.tolist() if isinstance(ends, Tensor) else ends
        ctx.recipe, dtype = recipe, x_RI.dtype
        y_RO = x_RI.new_empty(len(x_RI), w_EIO.shape[2])
        for expert, rows in expert_rows(ctx.ends):
            w_IO = rounded(recipe.P2, w_EIO[expert], 0, dtype)
            torch.mm(rounded(recipe.P1, x_RI[rows], -1, dtype), w_IO, out=y_RO[rows])
        return y_RO

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy_RO: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x_RI, w_EIO = ctx.saved_tensors
        recipe, dtype = ctx.recipe, x_RI.dtype
        dx_RI, dw_EIO = torch.empty_like(x_RI), torch.zeros_like(w_EIO)
        for expert, rows in expert_rows(ctx.ends):
            w_IO = rounded(recipe.P4, w_EIO[expert], -1, dtype)
            torch.mm(rounded(recipe.P3, dy_RO[rows], -1, dtype), w_IO.t(), out=dx_RI[rows])
            rows_RI = rounded(recipe.P6, x_RI[rows], 0, dtype)
            dw_EIO[expert] = rows_RI.t() @ rounded(recipe.P5, dy_RO[rows], 0, dtype)
        return dx_RI, dw_EIO, None, None


def _turned(operand: Operand | None) -> Operand | None:
    if operand is None or not isinstance(operand.block, tuple):
        return operand
    return dataclasses.replace(operand, block=operand.block[::-1])
