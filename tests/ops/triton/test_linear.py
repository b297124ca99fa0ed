"""A linear map of a few rows, with a norm before it and a residual behind, against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

kernels = pytest.importorskip("tandem.ops.triton.linear", reason="needs Triton: pip install triton")


def exact(
    x: Tensor, weight: Tensor, bias: Tensor | None, norm: Tensor | None, residual: Tensor | None, scale: float
) -> Tensor:
    u = x.double()
    if norm is not None:
        u = u / (u.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.double()
    y = u @ weight.double().t()
    y = y if bias is None else y + bias.double()
    return y if residual is None else residual.double() + scale * y


def make(T: int, D: int, outputs: int, parts: str, device: str, dtype: torch.dtype = torch.float32):
    torch.manual_seed(T + D)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device).to(dtype)

    x, weight = 30 * normal(T, D), normal(outputs, D) / D**0.5
    return (
        x,
        weight,
        normal(outputs) if "b" in parts else None,
        normal(D) if "n" in parts else None,
        normal(T, outputs) if "r" in parts else None,
    )


@settings(max_examples=8)
@given(
    rows=st.sampled_from([1, 7, 40]),
    width=st.sampled_from([1, 40, 300]),
    outputs=st.sampled_from([1, 50]),
    parts=st.sampled_from(["", "b", "n", "r", "bnr"]),
)
def test_equals_its_definition(rows: int, width: int, outputs: int, parts: str, device: str):
    x, weight, bias, norm, residual = make(rows, width, outputs, parts, device)
    y = kernels.linear_step(x, weight, bias, norm, 1e-5, residual, 0.5)
    want = exact(x, weight, bias, norm, residual, 0.5)
    torch.testing.assert_close(y.double(), want, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("rows", [1, 5, 32, 64])
@pytest.mark.parametrize(("width", "outputs", "parts"), [(1024, 4384, "n"), (2048, 1024, "r"), (1024, 100_352, "")])
def test_bfloat16_on_a_gpu(rows: int, width: int, outputs: int, parts: str):
    x, weight, bias, norm, residual = make(rows, width, outputs, parts, "cuda", torch.bfloat16)
    first, second = (kernels.linear_step(x, weight, bias, norm, 1e-5, residual, 0.5) for _ in range(2))
    assert torch.equal(first, second)
    alone = kernels.linear_step(x[-1:], weight, bias, norm, 1e-5, None if residual is None else residual[-1:], 0.5)
    assert torch.equal(alone, first[-1:])
    want = exact(x, weight, bias, norm, residual, 0.5)
    assert float((first - want).norm() / want.norm()) < 1e-2
