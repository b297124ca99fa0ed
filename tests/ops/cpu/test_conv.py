"""The convolution kernel against the reference in float64, with SiLU and halo."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.ops import SequenceLayout, causal_conv_reference
from tandem.ops.cpu.conv import conv


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    taps=st.integers(1, 5),
    channels=st.sampled_from([1, 7, 48]),
    silu=st.booleans(),
    with_halo=st.booleans(),
)
def test_equals_the_reference(lengths: list[int], taps: int, channels: int, silu: bool, with_halo: bool):
    torch.manual_seed(sum(lengths))
    layout = SequenceLayout.from_lengths(lengths)
    wide_TC = torch.randn(sum(lengths), channels + 3)[:, 2:-1]  # rows that lie apart
    values = [wide_TC, torch.randn(channels, taps), torch.randn(channels)]
    halo = torch.randn(len(lengths), taps - 1, channels) if with_halo else None
    exact = [value.detach().double().requires_grad_() for value in values]
    y = causal_conv_reference(*exact, layout, None if halo is None else halo.double())
    y = torch.nn.functional.silu(y) if silu else y
    y.sin().sum().backward()
    single = [value.detach().requires_grad_() for value in values]
    got = conv(*single, layout, halo, silu)
    got.sin().sum().backward()
    torch.testing.assert_close(got.double(), y, atol=1e-5, rtol=1e-5)
    for have, want in zip(single, exact, strict=True):
        assert have.grad is not None
        torch.testing.assert_close(have.grad.double(), want.grad, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("silu", [False, True])
def test_narrow_inputs_are_summed_in_float32(silu: bool):
    torch.manual_seed(0)
    layout = SequenceLayout.from_lengths([5, 1, 9])
    x, weight, bias = torch.randn(15, 32).bfloat16(), torch.randn(32, 4), torch.randn(32)
    exact = causal_conv_reference(x.double(), weight.double(), bias.double(), layout)
    exact = torch.nn.functional.silu(exact) if silu else exact
    got = conv(x, weight, bias, layout, None, silu)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), exact, atol=1e-6, rtol=2**-8)  # one rounding to bf16
