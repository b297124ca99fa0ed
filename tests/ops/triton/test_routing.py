"""Routing kernels and their gradients against the definition in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from split_product import product_in_parts_is_as_accurate_as_float32
from tandem.ops import RoutingRule, route
from tandem.ops.routing import four_parts
from tandem.ops.triton.support import without_triton

kernels = pytest.importorskip("tandem.ops.triton.routing", reason="needs Triton: pip install triton")


@settings(deadline=None, max_examples=30)
@given(
    tokens=st.integers(1, 9),
    count=st.sampled_from([1, 3, 8, 40]),
    top_k=st.integers(1, 6),
    biased=st.booleans(),
    renormalize=st.booleans(),
    scale=st.sampled_from([1.0, 2.5]),
    pulled=st.sampled_from([(True, True), (True, False), (False, True)]),
    seed=st.integers(0, 99),
)
def test_choices_weights_scores_and_gradients(
    tokens: int,
    count: int,
    top_k: int,
    biased: bool,
    renormalize: bool,
    scale: float,
    pulled: tuple[bool, bool],
    seed: int,
    device: str,
):
    torch.manual_seed(seed)
    top_k = min(top_k, count)
    rule = RoutingRule(renormalize=renormalize, scale=scale)
    x, weight = torch.randn(tokens, 5, device=device), torch.randn(count, 5, device=device)
    bias = torch.rand(count, device=device) if biased else None
    logits = (x @ weight.t()).requires_grad_()
    ours = kernels.choose(logits, bias, top_k, renormalize, scale)
    exact_logits = logits.detach().double().requires_grad_()
    eye = torch.eye(count, dtype=torch.float64, device=device)
    exact = route(exact_logits, eye, None if bias is None else bias.double(), top_k, rule)
    assert torch.equal(ours[0], exact[0])
    pulls = [torch.randn_like(result) if wanted else None for result, wanted in zip(ours[1:], pulled, strict=True)]
    losses = []
    for results in (ours, exact):
        for result, like in zip(results[1:], exact[1:], strict=True):
            torch.testing.assert_close(result.double(), like, atol=1e-6, rtol=1e-5)
        terms = [(r * p.to(r.dtype)).sum() for r, p in zip(results[1:], pulls, strict=True) if p is not None]
        losses.append(torch.stack(terms).sum())
    gradient, exact_gradient = (
        torch.autograd.grad(loss, leaf)[0] for loss, leaf in zip(losses, (logits, exact_logits), strict=True)
    )
    torch.testing.assert_close(gradient.double(), exact_gradient, atol=1e-5, rtol=1e-4)


def test_the_op_takes_them_and_equal_scores_go_to_the_first(device: str):
    x, weight = torch.ones(3, 4, device=device), torch.ones(7, 4, device=device)
    expert, share, scores = route(x, weight, None, 3)
    assert expert.tolist() == [[0, 1, 2]] * 3
    torch.testing.assert_close(share, torch.full_like(share, 1 / 3))
    torch.testing.assert_close(scores, torch.full_like(scores, 1 / 7))


def test_choices_alone_have_no_gradient(device: str):
    logits = torch.randn(4, 6, device=device, requires_grad=True)
    expert, _, _ = kernels.choose(logits, None, 2, True, 1.0)
    assert not expert.requires_grad


@pytest.mark.parametrize(("dim", "reverse"), [(0, False), (1, True), (0, True), (1, False)])
@pytest.mark.parametrize("shape", [(8, 96), (300, 33), (1, 1500)])
def test_parts_are_those_of_pytorch(dim: int, reverse: bool, shape: tuple[int, int], device: str):
    wide = torch.randn(shape, device=device)
    parts = four_parts(wide, dim, reverse=reverse)
    with without_triton():
        theirs = four_parts(wide, dim, reverse=reverse)
    near = 0 if device == "cuda" else 2**-5  # the interpreter cuts bits off where a GPU rounds
    torch.testing.assert_close(parts, theirs, rtol=0, atol=near)
    high, again, middle, low = (parts.select(dim, 3 - place if reverse else place) for place in range(4))
    assert torch.equal(high, again)
    assert 100 * low.abs().max() < middle.abs().max() < high.abs().max() / 100
    first = 0 if reverse else 1
    torch.testing.assert_close(parts.narrow(dim, first, 3).double().sum(dim), wide.double(), rtol=2**-23, atol=0)


def test_a_product_in_parts_is_as_accurate_as_float32(device: str):
    product_in_parts_is_as_accurate_as_float32(device)
