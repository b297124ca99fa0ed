"""Norm, SwiGLU and softmax kernels against PyTorch in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.ops import rms_norm
from tandem.ops.cpu.pointwise import norm, softmax_gradient, swiglu


def exact_norm(x: Tensor, weight: Tensor, gate: Tensor | None, groups: int) -> Tensor:
    u = x if gate is None else x * F.silu(gate)
    parts = u.unflatten(-1, (groups, -1))
    return (parts / (parts.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(-2) * weight


@settings(max_examples=25)
@given(rows=st.integers(1, 40), groups=st.sampled_from([1, 2, 4]), gated=st.booleans(), seed=st.integers(0, 9))
def test_norm_equals_its_definition_forward_and_backward(rows: int, groups: int, gated: bool, seed: int):
    torch.manual_seed(seed)
    both = torch.randn(rows, 2, 24)
    values = [both[:, 0], torch.randn(24), both[:, 1] if gated else None]
    exact = [None if v is None else v.detach().double().requires_grad_() for v in values]
    y = exact_norm(*exact, groups)
    y.sin().sum().backward()
    x, weight, gate = single = [None if v is None else v.detach().requires_grad_() for v in values]
    got = norm(x, weight, 1e-5, groups, gate, torch.float32)
    got.sin().sum().backward()
    torch.testing.assert_close(got.double(), y, atol=1e-5, rtol=1e-5)
    for have, want in zip(single, exact, strict=True):
        if have is not None:
            torch.testing.assert_close(have.grad.double(), want.grad, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("dtype_in", [torch.float32, torch.bfloat16])
def test_norm_to_bfloat16_rounds_once_with_and_without_gradients(dtype_in: torch.dtype):
    torch.manual_seed(0)
    x, weight, gate = torch.randn(3, 5, 32).to(dtype_in), torch.randn(32), torch.randn(3, 5, 32).to(dtype_in)
    exact = exact_norm(x.double(), weight.double(), gate.double(), 2)
    got = rms_norm(x, weight, 1e-5, groups=2, gate=gate, dtype=torch.bfloat16)
    torch.testing.assert_close(got.double(), exact, atol=1e-6, rtol=2**-8)
    with torch.no_grad():
        assert torch.equal(got, rms_norm(x, weight, 1e-5, groups=2, gate=gate, dtype=torch.bfloat16))


@settings(max_examples=20)
@given(rows=st.integers(1, 50), width=st.sampled_from([1, 5, 48]), scale=st.sampled_from([0.1, 1.0, 60.0]))
def test_swiglu_equals_its_definition(rows: int, width: int, scale: float):
    torch.manual_seed(rows)
    value = torch.randn(rows, 2 * width) * scale
    exact, single = value.double().requires_grad_(), value.clone().requires_grad_()
    gate, up = exact.chunk(2, dim=-1)
    y = F.silu(gate) * up
    y.sum().backward()
    got = swiglu(single)
    got.sum().backward()
    torch.testing.assert_close(got.double(), y, atol=1e-5, rtol=1e-5)
    assert single.grad is not None
    torch.testing.assert_close(single.grad.double(), exact.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_softmax_gradient_is_that_of_the_cross_entropy(dtype: torch.dtype, tolerance: float):
    torch.manual_seed(0)
    logits, targets, weights = (torch.randn(9, 300) * 20).to(dtype), torch.randint(0, 300, (9,)), torch.rand(9)
    exact = logits.double().requires_grad_()
    nll = F.cross_entropy(exact, targets, reduction="none")
    (nll * weights).sum().backward()
    got = softmax_gradient(logits, targets, weights)
    torch.testing.assert_close(got.double(), nll, atol=1e-5, rtol=1e-6)
    assert exact.grad is not None
    torch.testing.assert_close(logits.double(), exact.grad, atol=tolerance * 1e-2, rtol=tolerance)


def test_not_a_number_stays_visible():
    x = torch.ones(2, 16)
    x[1, 3] = torch.nan
    y = norm(x, torch.ones(16), 1e-5, 1, None, torch.bfloat16)
    assert y[0].isfinite().all()
    assert y[1].isnan().all()
    assert swiglu(x)[1].isnan().any()
    assert softmax_gradient(x, torch.zeros(2, dtype=torch.long), torch.ones(2)).isnan().tolist() == [False, True]
