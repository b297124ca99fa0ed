"""Moves of whole rows, cheap in both directions."""

import torch
from torch import Tensor


def move_rows(rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """Takes rows by index where every row is taken at most once; the backward is the opposite move, not a scatter-add.

    Args:
        rows: (T, …).
        index: one past the end takes a row of zeros (padding).
        inverse: where each row went; likewise one past the end for rows that nobody took.
    """
    return _Move.apply(rows, index, inverse)


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, index: Tensor, inverse: Tensor):  # noqa: ANN001, ANN205
        ctx.save_for_backward(index, inverse)
        return _take(rows, index)

    @staticmethod
    def backward(ctx, grad: Tensor):  # noqa: ANN001, ANN205
        index, inverse = ctx.saved_tensors
        return _Move.apply(grad.contiguous(), inverse, index), None, None


def _take(rows: Tensor, index: Tensor) -> Tensor:
    taken = rows.index_select(0, index.clamp(max=rows.shape[0] - 1))
    padding = index == rows.shape[0]  # not its places: a GPU would have to count them first
    return taken.masked_fill_(padding.view(-1, *[1] * (rows.ndim - 1)), 0)
