"""Sorting by expert and moving rows, against plain indexing; routed experts against each token by itself."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.ops import experts, experts_reference, routed_experts

kernels = pytest.importorskip("tandem.ops.triton.experts", reason="needs Triton: pip install triton")


@settings(max_examples=6)
@given(tokens=st.sampled_from([1, 9, 300]), count=st.sampled_from([3, 5, 16]), top_k=st.integers(1, 3))
def test_sorts_stably(tokens: int, count: int, top_k: int, device: str):
    torch.manual_seed(tokens)
    expert_TK = (torch.rand(tokens, count) ** 4).topk(top_k).indices.to(device)
    ends, place = kernels.sort_by_expert(expert_TK, count)
    order = expert_TK.flatten().argsort(stable=True)
    assert torch.equal(place.flatten()[order], torch.arange(tokens * top_k, device=device))
    assert ends.tolist() == torch.bincount(expert_TK.flatten(), minlength=count).cumsum(0).tolist()


@settings(max_examples=5)
@given(tokens=st.integers(1, 40), top_k=st.integers(1, 3), width=st.sampled_from([8, 24, 1100]))
def test_moves_rows_there_and_back(tokens: int, top_k: int, width: int, device: str):
    torch.manual_seed(tokens)
    place = torch.randperm(tokens * top_k).view(tokens, top_k).to(device)
    rows, weight = torch.randn(tokens * top_k, width).to(device), torch.rand(tokens, top_k).to(device)
    x = torch.randn(tokens, width).to(device)
    assert torch.equal(kernels.scatter_rows(x, place)[place], x[:, None].expand(-1, top_k, -1))
    exact_rows, exact_weight = rows.double().requires_grad_(), weight.double().requires_grad_()
    y = (exact_rows[place] * exact_weight[..., None]).sum(1)
    y.backward(x.double())
    torch.testing.assert_close(kernels.gather_sum(rows, place, weight).double(), y, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(kernels.gather_sum(rows, place, None), rows[place].sum(1))
    plus = torch.randn_like(y.to(rows.dtype))
    torch.testing.assert_close(kernels.gather_sum(rows, place, weight, plus).double(), y + plus, atol=1e-6, rtol=1e-5)
    d_rows, d_weight = kernels.scatter_gradient(x, rows, place, weight)
    torch.testing.assert_close(d_rows.double(), exact_rows.grad, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(d_weight.double(), exact_weight.grad, atol=1e-4, rtol=1e-5)


def outcomes(mix: Callable[..., Tensor], expert_TK: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    x, weight, *matrices = leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    y = mix(x, expert_TK, weight, *matrices)
    return [y.detach(), *torch.autograd.grad(y.to(weight.dtype).sin().sum(), leaves)]


def distances(have: list[Tensor], want: list[Tensor]) -> list[float]:
    return [float((a - b).norm() / b.norm()) for a, b in zip(have, want, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_each_token_by_itself(dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch):
    """Both products of the seam: grouped in bfloat16, a loop in float32; one expert gets no token."""
    monkeypatch.setattr(experts, "kernels_for", lambda *_: None)
    torch.manual_seed(0)
    scores_TE = torch.rand(40, 5)
    scores_TE[:, 2] = -1
    expert_TK = scores_TE.topk(2).indices.to(device)
    x, weight, gate_up, down = torch.randn(40, 16), torch.rand(40, 2), torch.randn(5, 16, 16) / 4, torch.randn(5, 8, 16)
    leaves = [x.to(dtype), weight, (gate_up / 2).to(dtype), (down / 6).to(dtype)]
    leaves = [leaf.to(device) for leaf in leaves]
    got = outcomes(routed_experts, expert_TK, leaves)
    want = outcomes(experts_reference, expert_TK, [leaf.double() for leaf in leaves])
    assert max(distances(got, want)) < (1e-5 if dtype == torch.float32 else 1e-2)
    assert got[3][2].abs().max() == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(("tokens", "count", "top_k"), [(4096, 32, 2), (1001, 8, 4)])
def test_bfloat16_on_a_gpu(tokens: int, count: int, top_k: int):
    """Against one expert after the other in float64; the router likes low numbers, and one expert gets nothing."""
    torch.manual_seed(0)
    D, F = 512, 256
    scores_TE = torch.rand(tokens, count, device="cuda") - torch.arange(count, device="cuda") / count
    scores_TE[:, 3] = -9
    expert_TK = scores_TE.topk(top_k).indices
    x, weight = torch.randn(tokens, D, device="cuda").bfloat16(), torch.rand(tokens, top_k, device="cuda")
    gate_up = (torch.randn(count, D, 2 * F, device="cuda") / D**0.5).bfloat16()
    down = (torch.randn(count, F, D, device="cuda") / F**0.5).bfloat16()

    def exact(x_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor, gate_up_EDF: Tensor, down_EFD: Tensor) -> Tensor:
        y_TD = torch.zeros_like(x_TD)
        for e in range(count):
            factor_T1 = (weight_TK * (expert_TK == e)).sum(1, keepdim=True)
            gate, up = (x_TD @ gate_up_EDF[e]).chunk(2, dim=-1)
            y_TD = y_TD + factor_T1 * ((torch.nn.functional.silu(gate) * up) @ down_EFD[e])
        return y_TD

    leaves = [x, weight, gate_up, down]
    first, second = (outcomes(routed_experts, expert_TK, leaves) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert max(distances(first, outcomes(exact, expert_TK, [leaf.double() for leaf in leaves]))) < 1e-2
    assert first[3][3].abs().max() == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_cpu_never_waits():
    x, weight = torch.randn(64, 32, device="cuda").bfloat16(), torch.rand(64, 2, device="cuda")
    matrices = [torch.randn(4, 32, 32, device="cuda").bfloat16(), torch.randn(4, 16, 32, device="cuda").bfloat16()]
    expert_TK = torch.rand(64, 4, device="cuda").topk(2).indices
    outcomes(routed_experts, expert_TK, [x, weight, *matrices])
    torch.cuda.set_sync_debug_mode("error")
    try:
        outcomes(routed_experts, expert_TK, [x, weight, *matrices])
    finally:
        torch.cuda.set_sync_debug_mode("default")
