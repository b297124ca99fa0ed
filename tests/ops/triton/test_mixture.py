"""A mixture of experts for a few tokens against each token by itself in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.ops import experts, experts_reference, mixture, route

kernels = pytest.importorskip("tandem.ops.triton.mixture", reason="needs Triton: pip install triton")


def make(
    T: int, E: int, D: int, F: int, FS: int, device: str, dtype: torch.dtype = torch.float32, biased: bool = False
) -> tuple[Tensor, tuple[Tensor, Tensor | None], tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
    torch.manual_seed(T + E)

    def normal(*shape: int) -> Tensor:
        return (torch.randn(*shape, device=device) / shape[-1] ** 0.5).to(dtype)

    x = torch.randn(T, D, device=device).to(dtype)
    router = (torch.randn(E, D, device=device), torch.randn(E, device=device) if biased else None)
    routed = (normal(E, 2 * F, D).mT.contiguous(), normal(E, D, F).mT.contiguous())
    return x, router, routed, (normal(2 * FS, D), normal(D, FS)) if FS else None


def exact(
    x: Tensor, routed: tuple[Tensor, Tensor], shared: tuple[Tensor, Tensor] | None, expert: Tensor, weight: Tensor
) -> Tensor:
    y = experts_reference(x.double(), expert, weight.double(), *(t.double() for t in routed))
    if shared:
        gate, up = (x.double() @ shared[0].double().t()).chunk(2, dim=-1)
        y = y + (torch.nn.functional.silu(gate) * up) @ shared[1].double().t()
    return y


@settings(max_examples=6)
@given(
    tokens=st.sampled_from([1, 5, 35, 130]),
    count=st.sampled_from([3, 8]),
    top_k=st.integers(1, 3),
    widths=st.sampled_from([(8, 4, 0), (40, 36, 20), (150, 16, 40)]),
    biased=st.booleans(),
)
@torch.no_grad()
def test_equals_each_token_by_itself(
    tokens: int, count: int, top_k: int, widths: tuple[int, int, int], biased: bool, device: str
):
    x, router, routed, shared = make(tokens, count, *widths, device, biased=biased)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experts, "mixture_is_supported", lambda *_: False)
        y, expert, weight, scores = mixture(x, (*router, top_k), routed, shared)
    wide = [None if t is None else t.double() for t in router]
    chosen, exact_weight, exact_scores = route(x.double(), *wide, top_k)
    assert torch.equal(expert, chosen)
    torch.testing.assert_close(weight.double(), exact_weight, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scores.double(), exact_scores, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(y.double(), exact(x, routed, shared, chosen, exact_weight), atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_of_equal_scores_the_first_wins_and_damaged_ones_stay_in_range(device: str):
    x, weight = torch.ones(2, 8, device=device), torch.ones(5, 8, device=device)
    x[1] = float("nan")
    expert, share, scores = kernels.choose(x, weight, None, 3)
    assert expert[0].tolist() == [0, 1, 2]
    torch.testing.assert_close(share[0], torch.full((3,), 1 / 3, device=device))
    assert 0 <= int(expert[1].min()) <= int(expert[1].max()) < 5
    assert scores[1].isnan().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("tokens", [1, 7, 32, 64, 100])
@torch.no_grad()
def test_bfloat16_on_a_gpu(tokens: int):
    x, router, routed, shared = make(tokens, 32, 1024, 512, 1024, "cuda", torch.bfloat16)
    first, second = (mixture(x, (*router, 4), routed, shared) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    if tokens <= 64:  # as decoding has them
        assert torch.equal(mixture(x[-1:], (*router, 4), routed, shared)[0], first[0][-1:])
    chosen, weight, scores = route(x.double(), router[0].double(), None, 4)
    best, have = (scores.gather(1, experts) for experts in (chosen, first[1]))
    torch.testing.assert_close(
        have, best, atol=1e-6, rtol=1e-5
    )  # of two that are nearly equal, float32 may take the other
    want = exact(x, routed, shared, first[1], have / have.sum(1, keepdim=True))
    assert float((first[2] - weight).abs().max()) < 1e-5
    assert float((first[0] - want).norm() / want.norm()) < 1e-2
