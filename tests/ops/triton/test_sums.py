"""Sums over one dimension against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

kernels = pytest.importorskip("tandem.ops.triton.sums", reason="needs Triton: pip install triton")


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 600), st.integers(1, 80)),
    dtype=st.sampled_from([None, torch.float32, torch.bfloat16]),
)
def test_equals_a_sum_in_float64(shape: tuple[int, int, int], dtype: torch.dtype | None, device: str):
    partial = torch.randn(shape, device=device)
    sums = kernels.sum_over(partial, 1, dtype)
    assert sums.dtype == (dtype or torch.float32)
    exact = partial.double().sum(1)
    torch.testing.assert_close(sums.double(), exact.to(sums.dtype).double(), atol=1e-4, rtol=1e-2 if dtype else 1e-5)
    assert torch.equal(sums, kernels.sum_over(partial, 1, dtype))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_any_dimension_also_of_a_part_of_a_tensor(dim: int, device: str):
    partial = torch.randn(5, 7, 3, 2000, device=device)[:, :, :, 900:]
    torch.testing.assert_close(kernels.sum_over(partial, dim), partial.double().sum(dim).float(), atol=1e-5, rtol=1e-5)


def test_nothing_to_sum_is_zero_and_no_sums_are_none(device: str):
    assert kernels.sum_over(torch.empty(0, 9, device=device), 0).tolist() == [0.0] * 9
    assert kernels.sum_over(torch.empty(4, 0, device=device), 0).shape == (0,)
