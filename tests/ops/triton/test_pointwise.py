"""SwiGLU and the softmax of a cross-entropy against PyTorch in float64."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tandem.ops import blockwise_cross_entropy, swiglu

kernels = pytest.importorskip("tandem.ops.triton.pointwise", reason="needs Triton: pip install triton")


def exact_swiglu(value: Tensor) -> list[Tensor]:
    wide = value.detach().double().requires_grad_()
    gate, up = wide.chunk(2, dim=-1)
    y = F.silu(gate) * up
    return [y.detach(), *torch.autograd.grad(y.sin().sum(), wide)]


def outcome(swiglu: Callable[..., Tensor], value: Tensor) -> list[Tensor]:
    leaf = value.detach().requires_grad_()
    y = swiglu(leaf)
    return [y.detach(), *torch.autograd.grad(y.float().sin().sum(), leaf)]


@pytest.mark.parametrize("shape", [(1, 2), (33, 10), (2, 3, 2100)])
def test_swiglu_equals_its_definition(shape: tuple[int, ...], device: str):
    torch.manual_seed(0)
    value = torch.randn(shape).to(device) * 3
    for have, want in zip(outcome(kernels.swiglu, value), exact_swiglu(value), strict=True):
        torch.testing.assert_close(have.double(), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("vocabulary", [1, 300, 5000])
def test_softmax_gradient_is_that_of_the_cross_entropy(vocabulary: int, device: str):
    torch.manual_seed(0)
    logits, targets, weights = torch.randn(9, vocabulary) * 20, torch.randint(0, vocabulary, (9,)), torch.rand(9)
    logits, targets, weights = (t.to(device) for t in (logits, targets, weights))
    exact = logits.double().requires_grad_()
    nll = F.cross_entropy(exact, targets, reduction="none")
    (nll * weights).sum().backward()
    torch.testing.assert_close(kernels.softmax_gradient(logits, targets, weights).double(), nll, atol=2e-5, rtol=1e-6)
    assert exact.grad is not None
    torch.testing.assert_close(logits.double(), exact.grad, atol=1e-6, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value")  # the interpreter's numpy says so
def test_not_a_number_stays_visible(device: str):
    x = torch.ones(2, 16, device=device)
    x[1, 3] = torch.nan
    assert kernels.swiglu(x).isnan().any(1).tolist() == [False, True]
    targets, weights = torch.zeros(2, dtype=torch.long, device=device), torch.ones(2, device=device)
    assert kernels.softmax_gradient(x, targets, weights).isnan().tolist() == [False, True]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_bfloat16_on_a_gpu():
    torch.manual_seed(0)
    value = torch.randn(5001, 2 * 1024, device="cuda").bfloat16()
    first, second = outcome(swiglu, value), outcome(swiglu, value)
    for one, other, want in zip(first, second, exact_swiglu(value), strict=True):
        assert torch.equal(one, other)
        assert float((one - want).norm() / want.norm()) < 1e-2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("block_tokens", [1000, 10_000])
def test_cross_entropy_in_bfloat16_on_a_gpu(block_tokens: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tandem.ops.cross_entropy._CUDA_BLOCK_LOGITS", block_tokens * 16_384)
    torch.manual_seed(0)
    x, head = torch.randn(3001, 512, device="cuda").bfloat16(), torch.randn(16_384, 512, device="cuda") / 512**0.5
    targets, weights = torch.randint(0, 16_384, (3001,), device="cuda"), torch.rand(3001, device="cuda")
    wide = [x.double().requires_grad_(), head.bfloat16().double().requires_grad_()]
    total = (F.cross_entropy(wide[0] @ wide[1].t(), targets, reduction="none") * weights).sum()
    want = [total.detach(), *torch.autograd.grad(total, wide)]
    runs = []
    for _ in range(2):
        leaves = [x.clone().requires_grad_(), head.clone().requires_grad_()]
        total = blockwise_cross_entropy(*leaves, targets, weights)
        runs.append([total.detach(), *torch.autograd.grad(total, leaves)])
    for one, other, exact in zip(*runs, want, strict=True):
        assert torch.equal(one, other)
        assert float((one - exact).norm() / exact.norm()) < 1e-2
