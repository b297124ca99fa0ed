"""A decode step of Mamba-2 against its steps written out in float64."""

import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.ops import mamba_step
from tandem.ops.mamba_step import ANY_STEP

kernels = pytest.importorskip("tandem.ops.triton.mamba_step", reason="needs Triton: pip install triton")


def exact(
    projected_SJ: Tensor,
    taps_CW: Tensor,
    bias_C: Tensor | None,
    norm_I: Tensor,
    decays: tuple[Tensor, Tensor, Tensor],
    norm: tuple[float, int],
    halo_SWC: Tensor,
    state_SHPN: Tensor,
    limits: tuple[float, float],
) -> list[Tensor]:
    """y, the halo and the state after the step, in float64."""
    projected, taps, weight, halo, state = (t.double() for t in (projected_SJ, taps_CW, norm_I, halo_SWC, state_SHPN))
    A_log, dt_bias, D = (t.double() for t in decays)
    _, H, P, N = state.shape
    z, inputs, dt = projected.split([H * P, len(taps), H], dim=1)
    window = torch.cat([halo, inputs[:, None]], dim=1)
    mixed = F.silu(torch.einsum("swc,cw->sc", window, taps) + (0 if bias_C is None else bias_C.double()))
    x, B, C = mixed.split([H * P, *[(len(taps) - H * P) // 2] * 2], dim=1)
    x = x.unflatten(1, (H, P))
    B, C = (t.unflatten(1, (-1, N)).repeat_interleave(H // (t.shape[1] // N), dim=1) for t in (B, C))
    dt = F.softplus(dt + dt_bias).clamp(*limits)
    state = state * torch.exp(-dt * A_log.exp())[..., None, None] + (dt[..., None] * x)[..., None] * B[:, :, None]
    y = (state * C[:, :, None]).sum(-1) + D[:, None] * x
    parts = (y.flatten(1) * F.silu(z)).unflatten(1, (norm[1], -1))
    y = (parts / (parts.square().mean(-1, keepdim=True) + norm[0]).sqrt()).flatten(1) * weight
    return [y, window[:, 1:], state]


def make(S: int, H: int, P: int, G: int, N: int, W: int, device: str, dtype: torch.dtype = torch.float32):
    torch.manual_seed(S + H)
    channels = H * P + 2 * G * N
    given = (
        torch.randn(S, H * P + channels + H, device=device).to(dtype),
        (torch.randn(channels, W, device=device) / W**0.5).to(dtype),
        torch.randn(channels, device=device).to(dtype),
        torch.rand(H * P, device=device).to(dtype),
    )
    decays = (torch.rand(H, device=device), torch.randn(H, device=device) - 4, torch.randn(H, device=device))
    return (
        given,
        decays,
        (torch.randn(S, W - 1, channels, device=device).to(dtype), torch.randn(S, H, P, N, device=device)),
    )


@settings(max_examples=6)
@given(
    documents=st.sampled_from([1, 3]),
    heads=st.sampled_from([(2, 1), (6, 2)]),
    width=st.sampled_from([1, 16, 20]),
    state=st.sampled_from([4, 20]),
    taps=st.sampled_from([1, 2, 4]),
    biased=st.booleans(),
    limits=st.sampled_from([ANY_STEP, (0.01, 0.02)]),
)
def test_equals_its_definition(
    documents: int,
    heads: tuple[int, int],
    width: int,
    state: int,
    taps: int,
    biased: bool,
    limits: tuple[float, float],
    device: str,
):
    H, G = heads
    (projected, weight, bias, norm), decays, (halo, ssm) = make(documents, H, width, G, state, taps, device)
    given = (projected, weight, bias if biased else None, norm)
    want = exact(*given, decays, (1e-5, G), halo, ssm, limits)
    y = kernels.mix(projected, given[1:], decays, (1e-5, G), halo, ssm, limits)
    for have, exactly in zip([y, halo, ssm], want, strict=True):
        torch.testing.assert_close(have.double(), exactly, atol=2e-5, rtol=2e-5)


def test_small_steps_keep_their_digits(device: str):
    """softplus(-12) is 6e-6: 1 + that, rounded, has three digits."""
    given, decays, (halo, ssm) = make(1, 2, 4, 1, 4, 2, device)
    decays = (decays[0], torch.full_like(decays[1], -12.0), decays[2])
    want = exact(*given, decays, (1e-5, 1), halo, torch.zeros_like(ssm), ANY_STEP)[2]
    kernels.mix(given[0], given[1:], decays, (1e-5, 1), halo, ssm.zero_(), ANY_STEP)
    torch.testing.assert_close(ssm.double(), want, atol=0, rtol=1e-5)


@torch.no_grad()
def test_the_public_op_takes_them(device: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules["tandem.ops.mamba_step"], "_fits", lambda *_: False)
    (projected, weight, bias, norm), decays, (halo, ssm) = make(2, 2, 4, 1, 4, 4, device)
    x, into, out = (
        torch.randn(2, 8).to(device),
        torch.randn(projected.shape[1], 8).to(device),
        torch.randn(8, 8).to(device),
    )
    want = exact(x.double() @ into.double().t(), weight, bias, norm, decays, (1e-5, 1), halo, ssm, ANY_STEP)
    y = mamba_step(x, (into, out, weight, bias, norm), decays, (1e-5, 1), halo, ssm)
    torch.testing.assert_close(y.double(), want[0] @ out.double().t(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ssm.double(), want[2], atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(("documents", "heads", "groups"), [(1, 32, 1), (32, 32, 1), (5, 64, 8)])
def test_bfloat16_on_a_gpu(documents: int, heads: int, groups: int):
    given, decays, memory = make(documents, heads, 64, groups, 128, 4, "cuda", torch.bfloat16)
    want = exact(*given, decays, (1e-5, groups), *memory, ANY_STEP)
    runs = []
    for _ in range(2):
        halo, ssm = (t.clone() for t in memory)
        runs.append([kernels.mix(given[0], given[1:], decays, (1e-5, groups), halo, ssm, ANY_STEP), halo, ssm])
    alone = [t[-1:].clone() for t in memory]
    first = kernels.mix(given[0][-1:], given[1:], decays, (1e-5, groups), *alone, ANY_STEP)
    assert torch.equal(first, runs[0][0][-1:])
    for one, other, exactly in zip(*runs, want, strict=True):
        assert torch.equal(one, other)
        assert float((one - exactly).norm() / exactly.norm()) < 1e-2
