"""Decode steps against the forms that have gradients, which run in float64 here."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.ops import experts_reference, linear, mamba_step, route, routed_experts
from tandem.ops.cpu import decode

FORMATS = [(a, b) for a in (torch.float32, torch.bfloat16) for b in (torch.float32, torch.bfloat16)]


def close(got: Tensor, want: Tensor) -> bool:
    tolerance = 2e-2 if got.dtype == torch.bfloat16 else 2e-5
    return bool((got.double() - want.double()).norm() <= tolerance * want.double().norm())


@settings(max_examples=25)
@given(
    rows=st.integers(1, 9),
    outputs=st.sampled_from([1, 3, 4, 130, 300]),
    width=st.sampled_from([1, 16, 37, 256]),
    formats=st.sampled_from(FORMATS),
)
@torch.no_grad()
def test_linear(rows: int, outputs: int, width: int, formats: tuple[torch.dtype, torch.dtype]):
    torch.manual_seed(rows)
    x, weight = torch.randn(rows, width).to(formats[0]), torch.randn(outputs, width).to(formats[1])
    got = decode.linear_step(x, weight)
    assert got.dtype == x.dtype
    assert close(got, x.double() @ weight.double().t())


@settings(max_examples=20)
@given(
    tokens=st.integers(1, 7),
    top_k=st.integers(1, 3),
    widths=st.sampled_from([(16, 16), (48, 80), (64, 128)]),
    formats=st.sampled_from(FORMATS),
)
@torch.no_grad()
def test_experts(tokens: int, top_k: int, widths: tuple[int, int], formats: tuple[torch.dtype, torch.dtype]):
    torch.manual_seed(tokens)
    D, F = widths
    expert = torch.rand(tokens, 4).topk(top_k).indices
    x, weight = torch.randn(tokens, D).to(formats[0]), torch.rand(tokens, top_k)
    gate_up, down = (torch.randn(4, D, 2 * F) / 8).to(formats[1]), (torch.randn(4, F, D) / 8).to(formats[1])
    exact = experts_reference(x.double(), expert, weight.double(), gate_up.double(), down.double())
    assert close(decode.experts_step(x, expert, weight, gate_up, down), exact)
    assert close(routed_experts(x, expert, weight, gate_up, down), exact)


@pytest.mark.parametrize("biased", [False, True])
@torch.no_grad()
def test_route(biased: bool):
    torch.manual_seed(0)
    x, weight = torch.randn(6, 40), torch.randn(8, 40)
    bias = torch.randn(8) if biased else None
    want = route(x.double(), weight.double(), None if bias is None else bias.double(), 3)
    for got in (decode.route_step(x, weight, bias, 3), route(x, weight, bias, 3)):
        assert torch.equal(got[0], want[0])
        torch.testing.assert_close(got[1].double(), want[1], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(got[2].double(), want[2], atol=1e-6, rtol=1e-5)


@settings(max_examples=20)
@given(
    slots=st.integers(1, 5),
    groups=st.sampled_from([1, 2]),
    sizes=st.sampled_from([(2, 8, 8, 2), (4, 16, 40, 4), (4, 64, 128, 4)]),
    narrow=st.booleans(),
)
@torch.no_grad()
def test_mamba_step_three_tokens_long(slots: int, groups: int, sizes: tuple[int, int, int, int], narrow: bool):
    torch.manual_seed(slots)
    H, P, N, W = sizes
    inner, C = H * P, H * P + 2 * groups * N
    taps, norm = (torch.randn(C, W), torch.randn(C)), (torch.randn(inner), 1e-5, groups)
    decays = (torch.randn(H), torch.randn(H) - 2, torch.randn(H))
    halo, state = torch.randn(slots, W - 1, C), torch.randn(slots, H, P, N)
    exact_halo, exact_state = halo.double(), state.double()
    if narrow:
        halo = halo.bfloat16()
        exact_halo = halo.double()
    for _ in range(3):
        rows = torch.randn(slots, inner + C + H).to(halo.dtype)
        got = mamba_step(rows, taps, decays, norm, halo, state)
        wide = [tuple(v.double() if isinstance(v, Tensor) else v for v in given) for given in (taps, decays, norm)]
        want = mamba_step(rows.double(), *wide, exact_halo, exact_state)
        assert close(got, want)
        assert close(state, exact_state)
        assert torch.equal(halo.double(), exact_halo)


def test_steps_are_not_taken_where_gradients_are_wanted():
    x, weight = torch.randn(1, 8), torch.randn(4, 8, requires_grad=True)
    assert not decode.step_is_supported(x, weight)
    linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.expand(4, 8))
    with torch.no_grad():
        assert decode.step_is_supported(x, weight)
        assert not decode.step_is_supported(x.double(), weight)
        assert not decode.step_is_supported(x, weight.t())
