"""The convolution kernels against the reference in float64: documents, halo, SiLU, rows that lie apart."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.ops import SequenceLayout, causal_conv, causal_conv_reference

kernels = pytest.importorskip("tandem.ops.triton.conv", reason="needs Triton: pip install triton")


def exact(leaves: list[Tensor], layout: SequenceLayout, halo: Tensor | None, silu: bool) -> list[Tensor]:
    """y and the gradients of x, weight and bias, in float64."""
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    y = causal_conv_reference(*wide, layout, None if halo is None else halo.double())
    y = F.silu(y) if silu else y
    return [y.detach(), *torch.autograd.grad(y.sin().sum(), wide)]


@settings(max_examples=4)
@given(
    lengths=st.lists(st.integers(1, 24), min_size=1, max_size=4),
    taps=st.integers(1, 5),
    channels=st.sampled_from([1, 7, 150]),
    silu=st.booleans(),
    with_halo=st.booleans(),
)
@example(lengths=[1, 150, 2], taps=4, channels=3, silu=True, with_halo=True)  # three strips of the backward pass
def test_equals_the_reference(lengths: list[int], taps: int, channels: int, silu: bool, with_halo: bool, device: str):
    torch.manual_seed(sum(lengths))
    layout = SequenceLayout.from_lengths(lengths, device=device)
    x_TC = torch.randn(sum(lengths), channels + 3)[:, 2:-1].to(device)  # rows that lie apart
    leaves = [x_TC, torch.randn(channels, taps).to(device), torch.randn(channels).to(device)]
    halo = torch.randn(len(lengths), taps - 1, channels).to(device) if with_halo else None
    single = [leaf.requires_grad_() for leaf in leaves]
    y = kernels.conv(*single, layout, halo, silu)
    got = [y, *torch.autograd.grad(y.sin().sum(), single)]
    for have, want in zip(got, exact(leaves, layout, halo, silu), strict=True):
        torch.testing.assert_close(have.double(), want, atol=5e-5, rtol=5e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(("lengths", "channels"), [([4096] * 2, 6144), ([1, 2, 3000, 1097], 4352)])
def test_bfloat16_on_a_gpu(lengths: list[int], channels: int):
    torch.manual_seed(0)
    layout = SequenceLayout.from_lengths(lengths, device="cuda")
    x_TC = torch.randn(sum(lengths), channels + 64, device="cuda").bfloat16()[:, 64:]
    leaves = [x_TC, torch.randn(channels, 4, device="cuda"), torch.randn(channels, device="cuda")]
    runs = []
    for _ in range(2):
        given = [leaf.detach().requires_grad_() for leaf in leaves]
        y = causal_conv(*given, layout, silu=True)
        runs.append([y.detach(), *torch.autograd.grad(y.float().sin().sum(), given)])
    for first, second, want in zip(*runs, exact(leaves, layout, None, True), strict=True):
        assert torch.equal(first, second)
        assert float((first - want).norm() / want.norm()) < 1e-2
