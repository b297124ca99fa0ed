"""Sorting choices by expert, and moving tokens to their experts and back, as Triton kernels; counts stay on the device.

Every order and every sum is fixed, so results repeat bit for bit.

Shapes: T tokens, K choices a token, R = T K rows sorted by expert, E experts, D width, B blocks of rows.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from tandem.ops.triton.support import ceil_div, opaque, power_of_two

_ROWS = 256  # that one program sorts
_CELLS = 2048  # of a tile of rows


@opaque(
    lambda expert, experts: (
        expert.new_empty(experts, dtype=torch.int32),
        expert.new_empty(expert.shape, dtype=torch.int64),
    )
)
def sort_by_expert(expert_TK: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """Where each expert's rows end, an int32 tensor, and the row of each choice, place_TK; earlier tokens come first."""
    chosen, R = expert_TK.contiguous(), expert_TK.numel()
    blocks, width = ceil_div(R, _ROWS), power_of_two(experts)
    count_EB = torch.empty(experts, blocks, dtype=torch.int32, device=chosen.device)
    _count[blocks,](chosen, count_EB, R, experts, blocks, ROWS=_ROWS, BE=width)
    end_EB = count_EB.flatten().cumsum(0, dtype=torch.int32).view_as(count_EB)
    place_TK = torch.empty_like(chosen, dtype=torch.int64)
    _place[blocks,](chosen, end_EB, place_TK, R, experts, blocks, ROWS=_ROWS, BE=width)
    return end_EB[:, -1].contiguous(), place_TK


@opaque(lambda x, place: x.new_empty(place.numel(), x.shape[1]))
def scatter_rows(x_TD: Tensor, place_TK: Tensor) -> Tensor:
    """rows[place[t, k]] = x_t, where place is a permutation. No gradients."""
    rows_RD = x_TD.new_empty(place_TK.numel(), x_TD.shape[1])
    grid, tile = _tiles(x_TD, place_TK)
    _scatter[grid](x_TD.contiguous(), place_TK, rows_RD, *x_TD.shape, **tile)
    return rows_RD


@opaque(lambda rows, place, *_: rows.new_empty(place.shape[0], rows.shape[1]))
def gather_sum(rows_RD: Tensor, place_TK: Tensor, weight_TK: Tensor | None, plus_TD: Tensor | None = None) -> Tensor:
    """y_t = plus_t + Σ_k weight[t, k] · rows[place[t, k]], in rows' dtype; a plain sum without weights. No gradients."""
    y_TD = rows_RD.new_empty(len(place_TK), rows_RD.shape[1])
    grid, tile = _tiles(y_TD, place_TK)
    weight = None if weight_TK is None else weight_TK.contiguous()
    plus = None if plus_TD is None else plus_TD.contiguous()
    _gather[grid](rows_RD.contiguous(), place_TK, weight, plus, y_TD, *y_TD.shape, WEIGHTED=weight is not None, **tile)
    return y_TD


def _gradients(grad_TD: Tensor, rows_RD: Tensor, place_TK: Tensor, weight_TK: Tensor) -> tuple[Tensor, Tensor]:
    """Room for those of rows and weights."""
    d_rows_RD, d_weight_TK = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (rows_RD, weight_TK))
    return d_rows_RD, d_weight_TK


@opaque(_gradients)
def scatter_gradient(grad_TD: Tensor, rows_RD: Tensor, place_TK: Tensor, weight_TK: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `gather_sum` to rows (R, D) and to weights (T, K), in one pass; place is a permutation."""
    d_rows_RD, d_weight_TK = _gradients(grad_TD, rows_RD, place_TK, weight_TK)
    (T, D), (_, tile) = grad_TD.shape, _tiles(grad_TD, place_TK)
    given = (grad_TD.contiguous(), rows_RD.contiguous(), place_TK, weight_TK.contiguous())
    blocks = ceil_div(D, tile["BD"])
    _scatter_backward[ceil_div(T, tile["BT"]),](*given, d_rows_RD, d_weight_TK, T, D, BLOCKS=blocks, **tile)
    return d_rows_RD, d_weight_TK


def _tiles(x_TD: Tensor, place_TK: Tensor) -> tuple[tuple[int, int], dict[str, Any]]:
    T, D = x_TD.shape
    columns = min(1024, power_of_two(D))
    rows = _CELLS // columns
    return (ceil_div(T, rows), ceil_div(D, columns)), {"K": place_TK.shape[1], "BT": rows, "BD": columns}


@no_type_check
@triton.jit
def _one_hot(chosen, R, E, ROWS: tl.constexpr, BE: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    e = tl.arange(0, BE)
    expert = tl.load(chosen + row, mask=row < R, other=-1)
    return row, e, (expert[:, None] == e[None, :]).to(tl.int32)


@no_type_check
@triton.jit
def _count(chosen, count, R, E, blocks, ROWS: tl.constexpr, BE: tl.constexpr):
    _, e, hot = _one_hot(chosen, R, E, ROWS, BE)
    tl.store(count + e * blocks + tl.program_id(0), tl.sum(hot, 0), mask=e < E)


@no_type_check
@triton.jit
def _place(chosen, end, place, R, E, blocks, ROWS: tl.constexpr, BE: tl.constexpr):
    row, e, hot = _one_hot(chosen, R, E, ROWS, BE)
    first = tl.load(end + e * blocks + tl.program_id(0), mask=e < E, other=0) - tl.sum(hot, 0)
    rank = tl.cumsum(hot, 0) - 1 + first[None, :]
    tl.store(place + row, tl.sum(hot * rank, 1).to(tl.int64), mask=row < R)


@no_type_check
@triton.jit
def _scatter(x, place, rows, T, D, K: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr):
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    mask = (t < T)[:, None] & (d < D)[None, :]
    given = tl.load(x + t.to(tl.int64)[:, None] * D + d[None, :], mask=mask, other=0.0)
    for k in tl.static_range(K):
        r = tl.load(place + t * K + k, mask=t < T, other=0)
        tl.store(rows + r[:, None] * D + d[None, :], given, mask=mask)


@no_type_check
@triton.jit
def _gather(
    rows, place, weight, plus, y, T, D, WEIGHTED: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr
):
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    mask = (t < T)[:, None] & (d < D)[None, :]
    at = t.to(tl.int64)[:, None] * D + d[None, :]
    total = tl.zeros((BT, BD), tl.float32)
    if plus is not None:
        total += tl.load(plus + at, mask=mask, other=0.0).to(tl.float32)
    for k in tl.static_range(K):
        r = tl.load(place + t * K + k, mask=t < T, other=0)
        row = tl.load(rows + r[:, None] * D + d[None, :], mask=mask, other=0.0).to(tl.float32)
        if WEIGHTED:
            row *= tl.load(weight + t * K + k, mask=t < T, other=0.0).to(tl.float32)[:, None]
        total += row
    tl.store(y + at, total, mask=mask)


@no_type_check
@triton.jit
def _scatter_backward(
    grad,
    rows,
    place,
    weight,
    d_rows,
    d_weight,
    T,
    D,
    BLOCKS: tl.constexpr,
    K: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
):
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    for k in tl.static_range(K):
        r = tl.load(place + t * K + k, mask=t < T, other=0)
        factor = tl.load(weight + t * K + k, mask=t < T, other=0.0).to(tl.float32)
        along = tl.zeros((BT, BD), tl.float32)
        for block in range(BLOCKS):
            d = block * BD + tl.arange(0, BD)
            mask = (t < T)[:, None] & (d < D)[None, :]
            g = tl.load(grad + t.to(tl.int64)[:, None] * D + d[None, :], mask=mask, other=0.0).to(tl.float32)
            at = r[:, None] * D + d[None, :]
            along += g * tl.load(rows + at, mask=mask, other=0.0).to(tl.float32)
            tl.store(d_rows + at, g * factor[:, None], mask=mask)
        tl.store(d_weight + t * K + k, tl.sum(along, 1), mask=t < T)
