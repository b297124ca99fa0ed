"""Routing of many tokens as Triton kernels: scores, choices and weights in one launch, their gradients in another.

A program takes one token, whose scores fit a warp. Written in PyTorch the same is some twenty launches forward and back, each
of which takes longer than all of the work.

Shapes: T tokens, E experts, K choices a token; R rows and C columns of a matrix that is taken apart.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from tandem.ops.triton.support import ceil_div, opaque, power_of_two

_CELLS = 2048  # of a tile


@opaque(lambda wide, dim, reverse: wide.new_empty((*wide.shape[:dim], 4, *wide.shape[dim:]), dtype=torch.bfloat16))
def four_parts(wide_RC: Tensor, dim: int, reverse: bool) -> Tensor:
    """`tandem.ops.routing.four_parts` of a float32 matrix."""
    wide_RC = wide_RC.contiguous()
    R, C = wide_RC.shape
    parts = wide_RC.new_empty((*wide_RC.shape[:dim], 4, *wide_RC.shape[dim:]), dtype=torch.bfloat16)
    columns = min(1024, power_of_two(C))
    tile = {"BR": _CELLS // columns, "BC": columns}
    strides = (R * C, C) if dim == 0 else (C, 4 * C)
    grid = (ceil_div(R, tile["BR"]), ceil_div(C, columns))
    _four_parts[grid](wide_RC, parts, R, C, *strides, REVERSE=reverse, **tile)
    return parts


def choose(
    logits_TE: Tensor, bias_E: Tensor | None, top_k: int, renormalize: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Choices, weights and softmax scores of float32 logits, as `tandem.ops.route`; of equal scores the first expert's wins."""
    return _Choose.apply(logits_TE, bias_E, top_k, renormalize, scale)


class _Choose(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits_TE, bias_E, top_k, renormalize, scale):  # noqa: ANN205
        results = _choices(logits_TE, bias_E, top_k, renormalize, scale)
        expert_TK, _, scores_TE = results
        ctx.mark_non_differentiable(expert_TK)
        ctx.save_for_backward(expert_TK, scores_TE)
        ctx.rule = renormalize, scale
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx, _, d_weight_TK, d_scores_TE):  # noqa: ANN205
        if d_weight_TK is None and d_scores_TE is None:
            return None, None, None, None, None
        return _logit_gradient(*ctx.saved_tensors, d_weight_TK, d_scores_TE, *ctx.rule), None, None, None, None


def _results(logits_TE: Tensor, bias_E: Tensor | None, top_k: int, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    """Room for choices, weights and scores."""
    expert_TK = torch.empty(len(logits_TE), top_k, dtype=torch.int64, device=logits_TE.device)
    return expert_TK, logits_TE.new_empty(len(logits_TE), top_k), logits_TE.new_empty(logits_TE.shape)


@opaque(_results)
def _choices(
    logits_TE: Tensor, bias_E: Tensor | None, top_k: int, renormalize: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    results, (T, E) = _results(logits_TE, bias_E, top_k), logits_TE.shape
    tile = {"K": top_k, "BE": power_of_two(E), "BK": power_of_two(top_k), "num_warps": 1}
    form = {"BIASED": bias_E is not None, "RENORMALIZE": renormalize, **tile}
    if T:
        given: tuple[Any, ...] = (logits_TE.contiguous(), bias_E, *results, E, scale)
        _choose[T,](*given, **form)
    return results


@opaque(lambda expert, scores, *_: scores.new_empty(scores.shape))
def _logit_gradient(
    expert_TK: Tensor,
    scores_TE: Tensor,
    d_weight_TK: Tensor | None,
    d_scores_TE: Tensor | None,
    renormalize: bool,
    scale: float,
) -> Tensor:
    d_logits_TE, (T, E) = torch.empty_like(scores_TE), scores_TE.shape
    pulls = (None if pull is None else pull.contiguous() for pull in (d_weight_TK, d_scores_TE))
    tile = {"K": expert_TK.shape[1], "BE": power_of_two(E), "num_warps": 1}
    form = {"WEIGHED": d_weight_TK is not None, "SCORED": d_scores_TE is not None, "RENORMALIZE": renormalize, **tile}
    if T:
        given: tuple[Any, ...] = (expert_TK, scores_TE, *pulls, d_logits_TE, E, scale)
        _gradient[T,](*given, **form)
    return d_logits_TE


@no_type_check
@triton.jit
def _four_parts(wide, parts, R, C, part_stride, row_stride, REVERSE: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr):
    r = (tl.program_id(0) * BR + tl.arange(0, BR)).to(tl.int64)[:, None]
    c = (tl.program_id(1) * BC + tl.arange(0, BC))[None, :]
    mask = (r < R) & (c < C)
    rest = tl.load(wide + r * C + c, mask=mask, other=0.0)
    into = parts + r * row_stride + c
    for number in tl.static_range(1, 4):
        part = rest.to(tl.bfloat16)
        rest -= part.to(tl.float32)
        tl.store(into + (3 - number if REVERSE else number) * part_stride, part, mask=mask)
        if number == 1:
            tl.store(into + (3 if REVERSE else 0) * part_stride, part, mask=mask)


@no_type_check
@triton.jit
def best_of(score, ranked, e, k, E, K: tl.constexpr, BE: tl.constexpr, BK: tl.constexpr):  # noqa: ANN201
    """The K experts that rank highest, and their scores."""
    chosen, share = tl.zeros((BK,), tl.int64), tl.zeros((BK,), tl.float32)
    for number in tl.static_range(K):
        best = tl.min(tl.where(ranked == tl.max(ranked, 0), e, BE), 0)
        best = tl.minimum(best, E - 1)  # NaN equals nothing
        chosen = tl.where(k == number, best.to(tl.int64), chosen)
        share = tl.where(k == number, tl.sum(tl.where(e == best, score, 0.0), 0), share)
        ranked = tl.where(e == best, float("-inf"), ranked)
    return chosen, share


@no_type_check
@triton.jit
def scores_and_ranks(logits, bias, e, E, BIASED: tl.constexpr):  # noqa: ANN201
    """Softmax of a token's logits, and what experts are ranked by; behind the last expert 0 and -inf."""
    logits = tl.where(e < E, logits, float("-inf"))
    score = tl.exp(logits - tl.max(logits, 0))
    score = score / tl.sum(score, 0)
    ranked = score
    if BIASED:
        ranked += tl.load(bias + e, mask=e < E, other=0.0)
    return score, tl.where(e < E, ranked, float("-inf"))


@no_type_check
@triton.jit
def _choose(
    logits, bias, experts, weights, scores, E, scale,
    BIASED: tl.constexpr, RENORMALIZE: tl.constexpr, K: tl.constexpr, BE: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    t, e, k = tl.program_id(0).to(tl.int64), tl.arange(0, BE), tl.arange(0, BK)
    score, ranked = scores_and_ranks(tl.load(logits + t * E + e, mask=e < E, other=0.0), bias, e, E, BIASED)
    tl.store(scores + t * E + e, score, mask=e < E)
    chosen, share = best_of(score, ranked, e, k, E, K, BE, BK)
    if RENORMALIZE:
        share = share / (tl.sum(share, 0) + 1e-20)
    tl.store(experts + t * K + k, chosen, mask=k < K)
    tl.store(weights + t * K + k, share * scale, mask=k < K)


@no_type_check
@triton.jit
def _gradient(
    experts, scores, d_weights, d_scores, d_logits, E, scale,
    WEIGHED: tl.constexpr, SCORED: tl.constexpr, RENORMALIZE: tl.constexpr, K: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """With w_k = scale · s_k / (Σ s_j + ε):  ds_k += (scale · dw_k - Σ dw_j w_j) / (Σ s_j + ε);  dl = s (ds - Σ s ds)."""
    t, e = tl.program_id(0).to(tl.int64), tl.arange(0, BE)
    score = tl.load(scores + t * E + e, mask=e < E, other=0.0)
    pull = tl.zeros((BE,), tl.float32)
    if WEIGHED:
        is_chosen, chosen_pull = tl.zeros((BE,), tl.int1), tl.zeros((BE,), tl.float32)
        for number in tl.static_range(K):
            mine = e == tl.load(experts + t * K + number)
            is_chosen |= mine
            chosen_pull = tl.where(mine, scale * tl.load(d_weights + t * K + number), chosen_pull)
        if RENORMALIZE:
            share = tl.where(is_chosen, score, 0.0)
            total = tl.sum(share, 0) + 1e-20
            along = tl.sum(chosen_pull * share, 0) / total
            chosen_pull = tl.where(is_chosen, (chosen_pull - along) / total, 0.0)
        pull += chosen_pull
    if SCORED:
        pull += tl.load(d_scores + t * E + e, mask=e < E, other=0.0)
    tl.store(d_logits + t * E + e, score * (pull - tl.sum(score * pull, 0)), mask=e < E)
