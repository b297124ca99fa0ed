"""A step of attention against the softmax in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.ops import SequenceLayout, cached_attention

kernels = pytest.importorskip("tandem.ops.triton.attention", reason="needs Triton: pip install triton")


def make(lengths: list[int], H: int, G: int, P: int, L: int, device: str, dtype: torch.dtype = torch.float32):
    """q, and caches in which what no document has written is NaN."""
    torch.manual_seed(sum(lengths))
    caches = [torch.randn(len(lengths), L, G, P, device=device).to(dtype) for _ in range(2)]
    for cache in caches:
        for slot, length in enumerate(lengths):
            cache[slot, length:] = float("nan")
    starts = torch.tensor([length - 1 for length in lengths], device=device)
    return torch.randn(len(lengths), H, P, device=device).to(dtype), *caches, starts


def exact(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, scale: float) -> Tensor:
    rows = []
    for slot, start in enumerate(starts.tolist()):
        keys, values = (
            t[slot, : start + 1].double().repeat_interleave(q.shape[1] // t.shape[2], dim=1) for t in (k, v)
        )
        shares = (torch.einsum("hp,lhp->hl", q[slot].double(), keys) * scale).softmax(-1)
        rows.append(torch.einsum("hl,lhp->hp", shares, values))
    return torch.stack(rows)


@settings(max_examples=6)
@given(
    lengths=st.lists(st.sampled_from([1, 2, 64, 255, 256, 257, 600]), min_size=1, max_size=3),
    heads=st.sampled_from([(1, 1), (4, 2), (40, 2)]),
    width=st.sampled_from([5, 16, 40]),
)
@torch.no_grad()
def test_equals_the_softmax(lengths: list[int], heads: tuple[int, int], width: int, device: str):
    q, k, v, starts = make(lengths, *heads, width, 610, device)
    have = kernels.attention_step(q, k, v, starts, 0.3)
    torch.testing.assert_close(have.double(), exact(q, k, v, starts, 0.3), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_many_stretches_are_added_in_turn(device: str):
    q, k, v, starts = make([5000], 2, 1, 8, 5000, device)
    have = kernels.attention_step(q, k, v, starts, 0.3)
    torch.testing.assert_close(have.double(), exact(q, k, v, starts, 0.3), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_public_op_counts_on_the_device(device: str):
    q, k, v, starts = make([3, 70], 4, 2, 16, 90, device)
    have = cached_attention(q, k, v, SequenceLayout.step(starts, 89))
    torch.testing.assert_close(have.double(), exact(q, k, v, starts, 0.25), atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("lengths", [[1], [129], [4096, 1, 700], [33_000]])
@torch.no_grad()
def test_bfloat16_on_a_gpu(lengths: list[int]):
    q, k, v, starts = make(lengths, 16, 4, 64, max(lengths) + 70, "cuda", torch.bfloat16)
    first, second = (kernels.attention_step(q, k, v, starts, 0.125) for _ in range(2))
    roomier = [torch.cat([t, torch.full_like(t[:, :300], float("nan"))], dim=1) for t in (k, v)]
    assert torch.equal(first, second)
    assert torch.equal(first, kernels.attention_step(q, *roomier, starts, 0.125))
    want = exact(q, k, v, starts, 0.125)
    assert float((first - want).norm() / want.norm()) < 1e-2
