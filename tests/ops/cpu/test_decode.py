"""Decode steps against the forms that have gradients, which run in float64 here."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.ops import SequenceLayout, cached_attention, experts_reference, linear, mamba_step, mixture, route
from tandem.ops.cpu import decode

FORMATS = [(a, b) for a in (torch.float32, torch.bfloat16) for b in (torch.float32, torch.bfloat16)]


def close(got: Tensor, want: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether the relative error is what arithmetic on numbers of `dtype`, got's when None, leaves."""
    tolerance = 2e-2 if (dtype or got.dtype) == torch.bfloat16 else 2e-5
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
    bias = 3 * torch.randn(outputs).to(formats[1])
    got = linear(x, weight, bias)
    assert got.dtype == x.dtype
    assert close(got, x.double() @ weight.double().t() + bias.double())


@settings(max_examples=20)
@given(
    tokens=st.integers(1, 7),
    top_k=st.integers(1, 3),
    widths=st.sampled_from([(32, 32, 5), (96, 160, 0), (64, 128, 48)]),
    formats=st.sampled_from(FORMATS),
    biased=st.booleans(),
)
@torch.no_grad()
def test_mixture(
    tokens: int, top_k: int, widths: tuple[int, int, int], formats: tuple[torch.dtype, torch.dtype], biased: bool
):
    generator = torch.Generator().manual_seed(tokens)
    D, F, shared_F = widths

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / 8

    x = (normal(tokens, D) * 8).to(formats[0])
    router = (normal(4, D) * 8, normal(4) if biased else None, top_k)
    experts = (normal(4, D, 2 * F).to(formats[1]), normal(4, F, D).to(formats[1]))
    shared = (normal(2 * shared_F, D).to(formats[1]), normal(D, shared_F).to(formats[1])) if shared_F else None
    assert decode.mixture_is_supported(x, router[0], *experts, *(shared or ()))
    y, expert, weight, scores = mixture(x, router, experts, shared)
    wide = [None if t is None else t.double() for t in router[:2]]
    chosen, exact_weight, exact_scores = route(x.double(), *wide, top_k)
    assert torch.equal(expert, chosen)
    assert close(weight, exact_weight)
    assert close(scores, exact_scores)
    exact = experts_reference(x.double(), chosen, exact_weight, *(t.double() for t in experts))
    if shared:
        gate, up = (x.double() @ shared[0].double().t()).chunk(2, dim=-1)
        exact = exact + (torch.nn.functional.silu(gate) * up) @ shared[1].double().t()
    assert close(y, exact)


@settings(max_examples=25)
@given(
    lengths=st.lists(st.sampled_from([1, 2, 17, 255, 256, 257, 600]), min_size=1, max_size=3),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 2), (8, 8)]),
    width=st.sampled_from([5, 16, 40, 128]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    size=st.sampled_from([0.1, 1, 100]),
    scale=st.sampled_from([None, 0.03]),
)
@torch.no_grad()
def test_attention_step(
    lengths: list[int], heads: tuple[int, int], width: int, dtype: torch.dtype, size: float, scale: float | None
):
    torch.manual_seed(len(lengths))
    capacity = max(lengths) + 3
    q = (size * torch.randn(len(lengths), heads[0], width)).to(dtype)
    k, v = torch.randn(2, len(lengths), capacity, heads[1], width).to(dtype)
    for slot, length in enumerate(lengths):
        k[slot, length:], v[slot, length:] = torch.nan, torch.nan  # what is in reserve is never read
    layout = SequenceLayout.from_lengths([1] * len(lengths), starts=[n - 1 for n in lengths])
    got = cached_attention(q, k, v, layout, scale)
    assert got.dtype == dtype
    for slot, length in enumerate(lengths):
        rows = [t[slot, :length].double().repeat_interleave(heads[0] // heads[1], 1) for t in (k, v)]
        scores = torch.einsum("hp,lhp->hl", q[slot].double(), rows[0]) * (scale or width**-0.5)
        assert close(got[slot], torch.einsum("hl,lhp->hp", scores.softmax(-1), rows[1]))


@settings(max_examples=20)
@given(
    slots=st.integers(1, 6),
    groups=st.sampled_from([1, 2]),
    sizes=st.sampled_from([(2, 8, 8, 2), (4, 16, 40, 4), (4, 64, 128, 4)]),
    formats=st.sampled_from(FORMATS),
    limits=st.sampled_from([(0.0, float("inf")), (0.1, float("inf")), (0.05, 0.3)]),
    conv_biased=st.booleans(),
    biased=st.booleans(),
)
@torch.no_grad()
def test_mamba_step_three_tokens_long(
    slots: int,
    groups: int,
    sizes: tuple[int, int, int, int],
    formats: tuple[torch.dtype, torch.dtype],
    limits: tuple[float, float],
    conv_biased: bool,
    biased: bool,
):
    torch.manual_seed(slots)
    H, P, N, W = sizes
    D, inner, C = 24, H * P, H * P + 2 * groups * N
    shapes = ((inner + C + H, D), (D, inner), (C, W), (C,), (inner,))
    weights = tuple((torch.randn(shape) / 4).to(formats[1]) for shape in shapes)
    if not conv_biased:
        weights = (*weights[:3], None, weights[4])
    biases = (torch.randn(inner + C + H).to(formats[1]), torch.randn(D).to(formats[1])) if biased else None
    decays, norm = (torch.randn(H), torch.randn(H) - 2, torch.randn(H)), (1e-5, groups)
    halo, state = torch.randn(slots, W - 1, C).to(formats[0]), torch.randn(slots, H, P, N)
    exact_halo, exact_state = halo.double(), state.double()
    for _ in range(3):
        x = torch.randn(slots, D).to(formats[0])
        before = halo.clone()
        got = mamba_step(x, weights, decays, norm, halo, state, limits, biases)
        wide = [tuple(None if t is None else t.double() for t in given) for given in (weights, decays, biases or ())]
        want = mamba_step(x.double(), *wide[:2], norm, exact_halo, exact_state, limits, wide[2] or None)
        assert close(got, want)
        assert close(state, exact_state, formats[0])
        assert torch.equal(halo[:, :-1], before[:, 1:])
        assert close(halo, exact_halo)


def test_steps_are_not_taken_where_gradients_are_wanted():
    x, weight = torch.randn(1, 8), torch.randn(4, 8, requires_grad=True)
    assert not decode.step_is_supported(x, weight)
    linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.expand(4, 8))
    with torch.no_grad():
        assert decode.step_is_supported(x, weight)
        assert not decode.step_is_supported(x.double(), weight)
        assert not decode.step_is_supported(x, weight.t())
