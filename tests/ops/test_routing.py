"""Routing rules against their definition, one token at a time."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from split_product import product_in_parts_is_as_accurate_as_float32
from tandem.ops import RoutingRule, route


@settings(max_examples=60)
@given(
    scores=st.sampled_from(["softmax", "sigmoid"]),
    renormalize=st.booleans(),
    scale=st.sampled_from([1.0, 2.5]),
    groups=st.sampled_from([1, 2, 4, 8]),
    top_k=st.integers(1, 2),
    biased=st.booleans(),
    seed=st.integers(0, 99),
)
def test_routing_rules(scores: str, renormalize: bool, scale: float, groups: int, top_k: int, biased: bool, seed: int):
    torch.manual_seed(seed)
    experts, top_groups = 8, max(1, groups // 2)
    if experts // groups * top_groups < top_k:
        top_groups = groups
    rule = RoutingRule(scores, renormalize, scale, groups, top_groups)
    x_TD, weight_ED = torch.randn(5, 6, dtype=torch.float64), torch.randn(experts, 6, dtype=torch.float64)
    bias_E = torch.randn(experts, dtype=torch.float64) if biased else None
    expert_TK, weight_TK, scores_TE = route(x_TD, weight_ED, bias_E, top_k, rule)
    logits_TE = x_TD @ weight_ED.t()
    want_TE = logits_TE.sigmoid() if scores == "sigmoid" else logits_TE.softmax(-1)
    torch.testing.assert_close(scores_TE, want_TE)
    for token, row_E in enumerate(want_TE):
        rank = (row_E if bias_E is None else row_E + bias_E).tolist()
        size = experts // groups
        members = [list(range(g * size, (g + 1) * size)) for g in range(groups)]
        best = sorted(members, key=lambda group: -sum(sorted((rank[e] for e in group), reverse=True)[:2]))
        open_experts = [e for group in best[:top_groups] for e in group]
        chosen = sorted(open_experts, key=lambda e: -rank[e])[:top_k]
        assert expert_TK[token].tolist() == chosen
        weights = row_E[chosen] / (row_E[chosen].sum() if renormalize else 1) * scale
        torch.testing.assert_close(weight_TK[token], weights)


def test_scores_that_underflow_give_no_nan():
    rule = RoutingRule("sigmoid")
    _, weight_TK, _ = route(torch.full((1, 1), -200.0), torch.ones(4, 1), None, 2, rule)
    assert weight_TK.tolist() == [[0, 0]]


def test_a_product_in_parts_is_as_accurate_as_float32():
    product_in_parts_is_as_accurate_as_float32("cpu")
