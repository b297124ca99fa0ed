"""Which experts a token goes to, and how much each of them counts.

Shapes: T tokens, D width, E experts, K experts a token, G groups of experts.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from tandem.ops.triton.support import triton_for

_MANY = 256  # tokens: with fewer of them the launches of a product in parts take longer than the product


class RoutingRule(NamedTuple):
    """How scores of experts become choices and weights.

    Attributes:
        scores: "softmax" over all experts, or "sigmoid" of each.
        renormalize: weights of the chosen add up to `scale`.
        scale: factor of the weights.
        groups, top_groups: experts lie in `groups` equal groups and are chosen within the best `top_groups` of them.
    """

    scores: str = "softmax"
    renormalize: bool = True
    scale: float = 1.0
    groups: int = 1
    top_groups: int = 1


SOFTMAX = RoutingRule()
"""The rule of `mixture`."""


def route(
    x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor | None, top_k: int, rule: RoutingRule = SOFTMAX
) -> tuple[Tensor, Tensor, Tensor]:
    """Chooses experts by softmax(x Wᵀ), or what `rule` says in its place, in the weight's dtype.

    Args:
        bias_E: added to the scores that select, not to those that weigh; nothing is added when None.
    Returns:
        expert_TK, the chosen experts; weight_TK, how much each counts, see `route_weights`; scores_TE.
    """
    logits_TE = _logits(x_TD, weight_ED)
    if rule.scores == "softmax" and rule.top_groups == rule.groups and _has_kernel(logits_TE):
        from tandem.ops.triton.routing import choose

        return choose(logits_TE, bias_E, top_k, rule.renormalize, rule.scale)
    scores_TE = torch.sigmoid(logits_TE) if rule.scores == "sigmoid" else torch.softmax(logits_TE, dim=-1)
    ranked_TE = (scores_TE if bias_E is None else scores_TE + bias_E).detach()
    if rule.top_groups < rule.groups:
        ranked_TE = _within_best_groups(ranked_TE, rule.groups, rule.top_groups)
    expert_TK = ranked_TE.topk(top_k, dim=-1).indices
    return expert_TK, route_weights(scores_TE, expert_TK, rule), scores_TE


def route_weights(scores_TE: Tensor, expert_TK: Tensor, rule: RoutingRule = SOFTMAX) -> Tensor:
    """Scores of the chosen experts, renormalized to add up to 1 if the rule says so, times its scale."""
    weight_TK = scores_TE.gather(1, expert_TK)
    if rule.renormalize:
        # 1e-20: sigmoids may all underflow to 0
        weight_TK = weight_TK / (weight_TK.sum(-1, keepdim=True) + 1e-20)
    return weight_TK if rule.scale == 1 else weight_TK * rule.scale


def _logits(x_TD: Tensor, weight_ED: Tensor) -> Tensor:
    """X Wᵀ in the weight's dtype."""
    split = x_TD.is_cuda and x_TD.dtype == torch.bfloat16 and weight_ED.dtype == torch.float32
    if split and len(x_TD) >= _MANY:
        return SplitProduct.apply(x_TD, weight_ED)
    return x_TD.to(weight_ED.dtype) @ weight_ED.t()


class SplitProduct(torch.autograd.Function):
    """X Wᵀ of a bfloat16 x and a float32 W on tensor cores, as accurate as in float32.

    A float32 number is the sum of three of bfloat16; products of bfloat16 are exact in float32, in which they are summed. x is
    never widened, neither now nor for the backward pass.
    """

    @staticmethod
    def forward(ctx, x_TD: Tensor, weight_ED: Tensor):  # noqa: ANN001, ANN205
        parts_4ED = four_parts(weight_ED, 0)
        ctx.save_for_backward(x_TD, parts_4ED)
        return _sum(_wide_product(x_TD, parts_4ED[1:].flatten(0, 1).t()).unflatten(1, (3, -1)), 1)

    @staticmethod
    def backward(ctx, grad_TE: Tensor):  # noqa: ANN001, ANN205
        x_TD, parts_4ED = ctx.saved_tensors
        parts_T4E = four_parts(grad_TE, 1, reverse=True)
        # x's gradient is rounded to bfloat16, so that what is below two parts of each does not count: middle · high, high · high
        # and high · middle.
        d_x_TD = parts_T4E[:, 1:].flatten(1) @ parts_4ED[:3].flatten(0, 1)
        d_weight_3ED = _wide_product(parts_T4E[:, :3].flatten(1).t(), x_TD).unflatten(0, (3, -1))
        return d_x_TD, _sum(d_weight_3ED, 0)


def four_parts(wide_RC: Tensor, dim: int, *, reverse: bool = False) -> Tensor:
    """A float32 matrix as bfloat16 matrices [high, high, middle, low], of which the last three add up to it.

    The first three lie side by side as well as the last three, so that a product reads either as one matrix.

    Args:
        dim: where the four lie: before the rows, 0, or before the columns, 1.
        reverse: from low to high.
    """
    if triton_for(wide_RC):
        from tandem.ops.triton.routing import four_parts as triton_parts

        return triton_parts(wide_RC, dim, reverse)
    high = wide_RC.bfloat16()
    rest = wide_RC - high.float()
    middle = rest.bfloat16()
    parts = [high, high, middle, (rest - middle.float()).bfloat16()]
    return torch.stack(parts[::-1] if reverse else parts, dim)


def _sum(wide: Tensor, dim: int) -> Tensor:
    if triton_for(wide) and not torch.compiler.is_compiling():
        from tandem.ops.triton.sums import sum_over

        return sum_over(wide, dim)
    return wide.sum(dim)


def _has_kernel(logits_TE: Tensor) -> bool:
    return logits_TE.dtype == torch.float32 and triton_for(logits_TE)


def _wide_product(a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()


def _within_best_groups(ranked_TE: Tensor, groups: int, top_groups: int) -> Tensor:
    """-inf outside the groups of experts whose two best add up to most (DeepSeek-V3, arXiv 2412.19437, §2.1.2)."""
    ranked_TGE = ranked_TE.unflatten(1, (groups, -1))
    best_TG = ranked_TGE.topk(min(2, ranked_TGE.shape[2]), dim=-1).values.sum(-1)
    kept_TG = best_TG.topk(top_groups, dim=-1).indices
    open_TG = torch.zeros_like(best_TG, dtype=torch.bool).scatter_(1, kept_TG, True)
    return ranked_TGE.masked_fill(~open_TG[..., None], float("-inf")).flatten(1)
