"""The rotary kernel against float64 rotations: all quarters of a turn, far positions, strided heads, gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tandem.ops import rotary
from tandem.ops.cpu.rotary import rotary as kernel


def plain(x_THP: Tensor, position_T: Tensor, frequency_K: Tensor, amplitude: float) -> Tensor:
    """In float64 from angles that were rounded to float32, as every form has them."""
    angle = (position_T.float()[:, None] * frequency_K).double()[:, None]
    cos, sin, K = amplitude * angle.cos(), amplitude * angle.sin(), len(frequency_K)
    first, second, rest = x_THP.double().split([K, K, x_THP.shape[2] - 2 * K], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


@given(
    positions=st.lists(st.integers(-70_000, 1_000_000), min_size=1, max_size=9),
    heads=st.integers(1, 3),
    pairs=st.sampled_from([(6, 3), (64, 32), (16, 4), (5, 0)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_turns_by_the_angle_and_back(positions: list[int], heads: int, pairs: tuple[int, int], dtype: torch.dtype):
    (P, K), T = pairs, len(positions)
    generator = torch.Generator().manual_seed(T)
    rows = torch.randn(T, heads * P + 7, generator=generator).to(dtype)
    x_THP = rows[:, 3 : 3 + heads * P].unflatten(1, (heads, P)).requires_grad_()  # a slice of a projection
    frequency_K, position_T = torch.rand(K, generator=generator), torch.tensor(positions)
    pull = torch.randn(T, heads, P, generator=generator).to(dtype)
    y = kernel(x_THP, position_T, frequency_K, 1.25)
    (back,) = torch.autograd.grad(y, x_THP, pull)
    exact = x_THP.detach().double().requires_grad_()
    want = plain(exact, position_T, frequency_K, 1.25)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(y.double(), want, rtol=tolerance, atol=tolerance)
    (exact_back,) = torch.autograd.grad(want, exact, pull.double())
    torch.testing.assert_close(back.double(), exact_back, rtol=tolerance, atol=tolerance)


def test_the_op_takes_the_kernel_and_agrees_with_its_form_of_pytorch(monkeypatch: pytest.MonkeyPatch):
    x_THP, position_T, frequency_K = torch.randn(50, 4, 16), torch.arange(50) * 997, 10_000.0 ** -torch.rand(8)
    found = rotary(x_THP, position_T, frequency_K)
    monkeypatch.setattr("tandem.ops.attention.kernels_for", lambda *tensors: None)
    torch.testing.assert_close(found, rotary(x_THP, position_T, frequency_K), rtol=0, atol=2e-6)
