"""SwiGLU and the softmax of a cross-entropy as Triton kernels.

Shapes: R rows, F expert width, V vocabulary, Q tokens of a block.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from tandem.ops.triton.support import ceil_div, opaque, power_of_two

_CELLS = 1024  # of a tile
_VOCABULARY = 8192  # logits of a row that are in registers at once


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up of the last dimension's halves."""
    return (_SwiGLU.apply if torch.is_grad_enabled() else _swiglu)(gate_up.contiguous())


def softmax_gradient(logits_QV: Tensor, targets_Q: Tensor, weights_Q: Tensor) -> Tensor:
    """Writes weight · (softmax - one hot of the target) over the contiguous logits, in place.

    Returns:
        nll_Q, -log softmax(logits)[target], in float32.
    """
    return _softmax_gradient(logits_QV, targets_Q.contiguous(), weights_Q.contiguous())


@opaque(lambda gate_up: gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2))
def _swiglu(gate_up: Tensor) -> Tensor:
    F = gate_up.shape[-1] // 2
    y = gate_up.new_empty(*gate_up.shape[:-1], F)
    grid, tile = _tiles(y.numel() // F, F)
    if y.numel():
        _swiglu_forward[grid](gate_up, y, y.numel() // F, F, **tile)
    return y


@opaque(lambda dy, gate_up: torch.empty_like(gate_up))
def swiglu_gradient(dy: Tensor, gate_up: Tensor) -> Tensor:
    """Gradient of both halves from that of silu(gate) · up."""
    F = dy.shape[-1]
    d_gate_up = torch.empty_like(gate_up)
    grid, tile = _tiles(dy.numel() // F, F)
    if dy.numel():
        _swiglu_backward[grid](gate_up, dy.contiguous(), d_gate_up, dy.numel() // F, F, **tile)
    return d_gate_up


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up: Tensor):  # noqa: ANN205
        ctx.save_for_backward(gate_up)
        return _swiglu(gate_up)

    @staticmethod
    def backward(ctx, dy: Tensor):  # noqa: ANN205
        return swiglu_gradient(dy, *ctx.saved_tensors)


@opaque(lambda logits, *_: logits.new_empty(logits.shape[0], dtype=torch.float32), mutates=("logits_QV",))
def _softmax_gradient(logits_QV: Tensor, targets_Q: Tensor, weights_Q: Tensor) -> Tensor:
    Q, V = logits_QV.shape
    nll_Q = logits_QV.new_empty(Q, dtype=torch.float32)
    block = min(_VOCABULARY, power_of_two(V))
    # Many threads a row, so few rows at once: the second pass finds them in the cache.
    tile = {"BLOCK": block, "BLOCKS": ceil_div(V, block), "num_warps": max(1, block // 256)}
    if Q:
        _softmax_backward[Q,](logits_QV, targets_Q, weights_Q, nll_Q, V, **tile)
    return nll_Q


def _tiles(rows: int, width: int) -> tuple[tuple[int, int], dict[str, int]]:
    """The grid and the tile over a matrix whose rows lie side by side."""
    columns = min(_CELLS, power_of_two(width))
    height = _CELLS // columns
    return (ceil_div(rows, height), ceil_div(width, columns)), {"BR": height, "BF": columns}


@no_type_check
@triton.jit
def _halves(gate_up, R, F, BR: tl.constexpr, BF: tl.constexpr):
    row = tl.program_id(0) * BR + tl.arange(0, BR)
    column = tl.program_id(1) * BF + tl.arange(0, BF)
    mask = (row < R)[:, None] & (column < F)[None, :]
    out = row.to(tl.int64)[:, None] * F + column[None, :]
    gate_at = out + row.to(tl.int64)[:, None] * F
    gate = tl.load(gate_up + gate_at, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up + gate_at + F, mask=mask, other=0.0).to(tl.float32)
    return gate, up, gate_at, out, mask


@no_type_check
@triton.jit
def _swiglu_forward(gate_up, y, R, F, BR: tl.constexpr, BF: tl.constexpr):
    gate, up, _, out, mask = _halves(gate_up, R, F, BR, BF)
    tl.store(y + out, gate * tl.sigmoid(gate) * up, mask=mask)


@no_type_check
@triton.jit
def _swiglu_backward(gate_up, dy, d_gate_up, R, F, BR: tl.constexpr, BF: tl.constexpr):
    gate, up, gate_at, out, mask = _halves(gate_up, R, F, BR, BF)
    given = tl.load(dy + out, mask=mask, other=0.0).to(tl.float32)
    open_ = tl.sigmoid(gate)
    tl.store(d_gate_up + gate_at, given * up * open_ * (1 + gate * (1 - open_)), mask=mask)
    tl.store(d_gate_up + gate_at + F, given * gate * open_, mask=mask)


@no_type_check
@triton.jit
def _softmax_backward(logits, targets, weights, nll, V, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    q = tl.program_id(0).to(tl.int64)
    row, target = logits + q * V, tl.load(targets + q)
    weight, chosen = tl.load(weights + q).to(tl.float32), tl.load(row + target).to(tl.float32)
    column = tl.arange(0, BLOCK)
    top = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    for block in range(BLOCKS):
        first = block * BLOCK
        part = tl.load(row + first + column, mask=first + column < V, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(part, 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(part - higher), 0)
        top = higher
    tl.store(nll + q, top + tl.log(total) - chosen)
    tl.debug_barrier()  # no thread overwrites the target's logit before all have read it
    for block in range(BLOCKS):
        first = block * BLOCK
        mask = first + column < V
        part = tl.load(row + first + column, mask=mask, other=float("-inf")).to(tl.float32)
        share = tl.exp(part - top) / total - tl.where(first + column == target, 1.0, 0.0)
        tl.store(row + first + column, weight * share, mask=mask)
