"""Moving rows to experts and back, forward and backward, against plain indexing."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.ops import experts_reference, routed_experts
from tandem.ops.cpu.experts import gather_sum, scatter_gradient


@settings(max_examples=20)
@given(tokens=st.integers(1, 60), top_k=st.integers(1, 3), spare=st.integers(0, 5), seed=st.integers(0, 9))
def test_gather_and_its_gradient(tokens: int, top_k: int, spare: int, seed: int):
    torch.manual_seed(seed)
    rows = torch.randn(tokens * top_k + spare, 24)
    place = torch.randperm(len(rows))[: tokens * top_k].view(tokens, top_k)
    weight, grad = torch.rand(tokens, top_k), torch.randn(tokens, 24)
    exact_rows, exact_weight = rows.double().requires_grad_(), weight.double().requires_grad_()
    y = (exact_rows[place] * exact_weight[..., None]).sum(1)
    y.backward(grad.double())
    torch.testing.assert_close(gather_sum(rows, place, weight).double(), y, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(gather_sum(rows, place, None), rows[place].sum(1))
    d_rows, d_weight = scatter_gradient(grad, rows, place, weight)
    torch.testing.assert_close(d_rows.double(), exact_rows.grad, atol=1e-6, rtol=1e-5)  # spare rows get zeros
    torch.testing.assert_close(d_weight.double(), exact_weight.grad, atol=1e-5, rtol=1e-5)


def test_padding_of_busy_experts_changes_nothing():
    """Counts on both sides of the block of 32 rows, one of them a whole block."""
    torch.manual_seed(0)
    expert_TK = torch.tensor([0] * 40 + [1] * 32 + [2] * 33 + [3] * 5)[:, None]
    values = [torch.randn(110, 16), torch.rand(110, 1), torch.randn(5, 16, 16) / 4, torch.randn(5, 8, 16) / 3]
    outcomes = []
    for mix, dtype in ((experts_reference, torch.float64), (routed_experts, torch.float32)):
        x, weight, gate_up, down = leaves = [value.to(dtype).requires_grad_() for value in values]
        y = mix(x, expert_TK, weight, gate_up, down)
        y.sin().sum().backward()
        outcomes.append([y, *(leaf.grad for leaf in leaves)])
    for want, got in zip(*outcomes, strict=True):
        torch.testing.assert_close(got.double(), want, atol=1e-4, rtol=1e-4)
