"""Packed attention against a softmax written out, the cache against packed attention, rotary against its definition."""

import math

import pytest
import torch
from torch import Tensor

from tandem.ops import FixedLayout, NotKeptError, SequenceLayout, cached_attention, causal_attention, rotary


def written_out(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int], scale: float | None = None
) -> torch.Tensor:
    y, first = torch.empty_like(q), 0
    for length in lengths:
        for t in range(length):
            for h in range(q.shape[1]):
                g, rows = h * k.shape[1] // q.shape[1], slice(first, first + t + 1)
                p = torch.softmax(k[rows, g] @ q[first + t, h] * (scale or 1 / math.sqrt(q.shape[2])), 0)
                y[first + t, h] = p @ v[rows, g]
        first += length
    return y


@pytest.mark.parametrize("lengths", [[1], [7], [4, 4], [1, 6, 2]])
@pytest.mark.parametrize(("kv_heads", "scale"), [(1, None), (2, 0.9), (4, None)])
def test_equals_the_softmax_written_out(lengths: list[int], kv_heads: int, scale: float | None):
    torch.manual_seed(0)
    q = torch.randn(sum(lengths), 4, 8, dtype=torch.float64)
    k, v = torch.randn(2, sum(lengths), kv_heads, 8, dtype=torch.float64)
    got = causal_attention(q, k, v, SequenceLayout.from_lengths(lengths), scale)
    torch.testing.assert_close(got, written_out(q, k, v, lengths, scale))


@pytest.mark.parametrize(("starts", "lengths"), [([0, 0], [3, 5]), ([4, 2], [3, 1]), ([6, 1], [1, 1]), ([5], [1])])
def test_cache_equals_the_end_of_a_whole_pass(starts: list[int], lengths: list[int]):
    torch.manual_seed(0)
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]
    q = torch.randn(sum(ends), 4, 8)
    k, v = torch.randn(2, sum(ends), 2, 8)
    whole = causal_attention(q, k, v, SequenceLayout.from_lengths(ends)).split(ends)
    caches = [torch.zeros(len(ends), max(ends) + 3, 2, 8) for _ in range(2)]
    for cache, rows in zip(caches, (k, v), strict=True):
        for slot, piece in enumerate(rows.split(ends)):
            cache[slot, : len(piece)] = piece
    new = torch.cat([piece[start:] for piece, start in zip(q.split(ends), starts, strict=True)])
    got = cached_attention(new, *caches, SequenceLayout.from_lengths(lengths, starts=starts))
    want = torch.cat([piece[start:] for piece, start in zip(whole, starts, strict=True)])
    torch.testing.assert_close(got, want)


def frequencies(width: int, base: float = 1e4) -> torch.Tensor:
    return base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)


def test_rotary_scores_depend_on_distance_alone_and_turn_by_the_stated_angle():
    x = torch.zeros(1, 1, 4, dtype=torch.float64)
    x[..., 1] = 1
    turned = rotary(x, torch.tensor([3]), frequencies(4))[0, 0]
    angle = 3 * 10_000.0**-0.5
    torch.testing.assert_close(turned, torch.tensor([0, math.cos(angle), 0, math.sin(angle)], dtype=torch.float64))
    q, k = torch.randn(2, 1, 1, 16, dtype=torch.float64)
    turns = frequencies(16)
    scores = [
        (rotary(q, torch.tensor([p + 5]), turns) * rotary(k, torch.tensor([p]), turns)).sum() for p in (0, 7, 1000)
    ]
    torch.testing.assert_close(torch.stack(scores), scores[0].expand(3))


def test_rotary_of_a_part_turns_it_as_a_head_of_its_own():
    torch.manual_seed(0)
    x, position = torch.randn(3, 2, 16, dtype=torch.float64), torch.tensor([0, 3, 77])
    turned = rotary(x, position, frequencies(8))
    torch.testing.assert_close(turned[..., :8], rotary(x[..., :8], position, frequencies(8)))
    assert torch.equal(turned[..., 8:], x[..., 8:])


def test_an_amplitude_scales_what_turns():
    x, position = torch.randn(3, 2, 16, dtype=torch.float64), torch.tensor([0, 3, 77])
    plain, scaled = (rotary(x, position, frequencies(8), amplitude) for amplitude in (1.0, 1.25))
    torch.testing.assert_close(scaled[..., :8], 1.25 * plain[..., :8])
    assert torch.equal(scaled[..., 8:], x[..., 8:])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_packed_documents_attend_inside_each_on_a_gpu():
    torch.manual_seed(0)
    lengths = [70, 1, 129]
    leaves = [torch.randn(200, heads, 64, device="cuda").bfloat16().requires_grad_() for heads in (4, 2, 2)]
    layout = SequenceLayout.from_lengths(lengths, device="cuda")
    fixed = FixedLayout.of(SequenceLayout.from_lengths([200], device="cuda"), 5)
    causal_attention(*leaves, fixed, 0.2)
    fixed.refill(lengths)

    def outcome(given: SequenceLayout, leaves: list[Tensor]) -> list[Tensor]:
        y = causal_attention(*leaves, given, 0.2)
        return [y.detach(), *torch.autograd.grad(y.float().sin().sum(), leaves)]

    exact = outcome(layout, [leaf.detach().double().requires_grad_() for leaf in leaves])  # document by document
    for given in (fixed, layout):
        for have, want in zip(outcome(given, leaves), exact, strict=True):
            assert (have - want).norm() <= 1e-2 * want.norm()
    with pytest.raises(NotKeptError, match="no heads of width 64"):
        causal_attention(*(leaf.float() for leaf in leaves), fixed)
