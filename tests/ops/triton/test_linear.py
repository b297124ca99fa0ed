"""A linear map of one row against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.ops import linear

kernels = pytest.importorskip("tandem.ops.triton.linear", reason="needs Triton: pip install triton")


@settings(max_examples=8)
@given(width=st.sampled_from([1, 40, 1500]), outputs=st.sampled_from([1, 9, 50]), biased=st.booleans())
def test_equals_its_definition(width: int, outputs: int, biased: bool, device: str):
    torch.manual_seed(width)
    x, weight = torch.randn(1, width).to(device), torch.randn(outputs, width).to(device)
    bias = torch.randn(outputs).to(device) if biased else None
    want = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    torch.testing.assert_close(kernels.linear_row(x, weight, bias).double(), want, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(("width", "outputs"), [(1024, 4384), (2048, 1024), (1024, 100_352)])
@torch.no_grad()
def test_bfloat16_on_a_gpu(width: int, outputs: int):
    torch.manual_seed(0)
    x, weight = torch.randn(1, width, device="cuda").bfloat16(), torch.randn(outputs, width, device="cuda").bfloat16()
    first, second = (linear(x, weight) for _ in range(2))
    assert torch.equal(first, kernels.linear_row(x, weight, None))
    assert torch.equal(first, second)
    want = x.double() @ weight.double().t()
    assert float((first - want).norm() / want.norm()) < 1e-2
