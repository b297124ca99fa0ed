"""Sorted experts equal each token by itself, forward and backward."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.ops import ACTIVATIONS, GATED, experts_reference, routed_experts


@settings(max_examples=20)
@given(
    tokens=st.integers(1, 9),
    experts=st.integers(1, 5),
    seed=st.integers(0, 99),
    activation=st.sampled_from(list(ACTIVATIONS)),
)
def test_equals_each_token_by_itself(tokens: int, experts: int, seed: int, activation: str):
    torch.manual_seed(seed)
    top_k = min(2, experts)
    chosen_TK = torch.rand(tokens, experts).topk(top_k).indices
    values = [torch.randn(tokens, 6), torch.rand(tokens, top_k), torch.randn(experts, 6, 8)]
    values.append(torch.randn(experts, 4 if activation in GATED else 8, 6))
    outcomes = []
    for mix in (experts_reference, routed_experts):
        x, weight, gate_up, down = leaves = [value.double().requires_grad_() for value in values]
        y = mix(x, chosen_TK, weight, gate_up, down, ACTIVATIONS[activation])
        y.sin().sum().backward()
        outcomes.append([y, *(leaf.grad for leaf in leaves)])
    for want, got in zip(*outcomes, strict=True):
        torch.testing.assert_close(got, want, atol=1e-10, rtol=1e-10)
