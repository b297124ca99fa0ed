"""The Memory Converter against the recurrence of Mamba-2 after the same tokens: both forms, all head layouts, gradients."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.ops import SequenceLayout, convert_memory, convert_memory_direct, ssd_chunked, ssd_reference

Converter = Callable[..., Tensor]
HEADS, WIDTH, STATE = 8, 16, 32
LAYOUTS = {  # heads of K and of V for 8 decays
    "multi-head": (8, 8),
    "groups": (2, 8),
    "one group": (1, 8),
    "grouped queries, a decay a query head": (2, 2),
}


def drawn(tokens: int, heads: int, keys: int, values: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    dt = torch.nn.functional.softplus(normal(tokens, heads) - 3)
    A = -1 - 15 * torch.rand(heads, generator=generator, dtype=torch.float64)
    return normal(tokens, keys, STATE), normal(tokens, values, WIDTH), dt, A


def recurrence(
    K: Tensor, V: Tensor, dt: Tensor, A: Tensor, layout: SequenceLayout, state: Tensor | None = None
) -> Tensor:
    x = V.repeat_interleave(dt.shape[1] // V.shape[1], dim=1)
    return ssd_reference(x, dt, A, K, torch.zeros_like(K), layout, None, state)[1]


@pytest.mark.parametrize(("keys", "values"), LAYOUTS.values(), ids=list(LAYOUTS))
@pytest.mark.parametrize("tokens", [1, 7, 64, 128, 299])
def test_both_forms_give_the_state_of_the_recurrence(keys: int, values: int, tokens: int):
    K, V, dt, A = drawn(tokens, HEADS, keys, values)
    layout = SequenceLayout.from_lengths([tokens], chunk=64)
    expected = recurrence(K, V, dt, A, layout)
    for form in (convert_memory, convert_memory_direct):
        torch.testing.assert_close(form(K, V, dt, A, None, layout), expected, rtol=0, atol=1e-12)


def test_a_decay_for_each_key_head_is_multi_head_attention_of_fewer_heads():
    K, V, dt, A = drawn(100, 2, 2, 2)
    assert convert_memory(K, V, dt, A).shape == (2, WIDTH, STATE)
    torch.testing.assert_close(
        convert_memory(K, V, dt, A), recurrence(K, V, dt, A, SequenceLayout.from_lengths([100]))[0], rtol=0, atol=1e-12
    )


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=5),
    heads=st.sampled_from([(1, 4), (2, 4), (4, 4), (2, 2)]),
    chunk=st.sampled_from([1, 16, 64]),
    started=st.booleans(),
)
def test_packed_documents_with_states_of_their_own(
    lengths: list[int], heads: tuple[int, int], chunk: int, started: bool
):
    K, V, dt, A = drawn(sum(lengths), 4, *heads)
    layout = SequenceLayout.from_lengths(lengths, chunk=chunk)
    state = torch.randn(len(lengths), 4, WIDTH, STATE, dtype=torch.float64) if started else None
    expected = recurrence(K, V, dt, A, layout, state)
    for form in (convert_memory, convert_memory_direct):
        torch.testing.assert_close(form(K, V, dt, A, state, layout), expected, rtol=0, atol=1e-12)


def test_a_state_before_one_document_has_no_slots():
    K, V, dt, A = drawn(90, 4, 2, 4)
    half = convert_memory(K[:40], V[:40], dt[:40], A)
    torch.testing.assert_close(
        convert_memory(K[40:], V[40:], dt[40:], A, half), convert_memory(K, V, dt, A), rtol=0, atol=1e-12
    )


def test_padding_has_a_step_of_0():
    K, V, dt, A = drawn(64, 4, 4, 4)
    kept = torch.rand(64) < 0.5
    padded = convert_memory(K, V, dt * kept[:, None], A)
    torch.testing.assert_close(padded, convert_memory(K[kept], V[kept], dt[kept], A), rtol=0, atol=1e-12)


def test_a_transpoint_for_each_document():
    K, V, dt, A = drawn(90, 4, 2, 4)
    layout = SequenceLayout.from_lengths([30, 40, 20], chunk=16)
    found = convert_memory(K, V, dt, A, None, layout, transpoints=[10, 0, 500])
    torch.testing.assert_close(found[0], convert_memory(K[:10], V[:10], dt[:10], A), rtol=0, atol=1e-12)
    torch.testing.assert_close(found[2], convert_memory(K[70:], V[70:], dt[70:], A), rtol=0, atol=1e-12)
    assert found[1].abs().max() == 0


@pytest.mark.parametrize("form", [convert_memory, convert_memory_direct])
def test_float32_keeps_seven_digits_over_16384_tokens(form: Converter):
    """Sums of decays from the front would lose three of them: 6.9e-4 in the notes' measurement."""
    K, V, dt, A = drawn(16_384, 2, 2, 2, seed=1)
    layout = SequenceLayout.from_lengths([16_384], chunk=256)
    exact = convert_memory_direct(K, V, dt, A, None, layout)
    found = form(K.float(), V.float(), dt.float(), A.float(), None, layout)
    assert (found.double() - exact).norm() / exact.norm() < 1e-6


def test_bfloat16_keys_and_values_keep_a_float32_state():
    K, V, dt, A = drawn(4096, 2, 2, 2)
    exact = convert_memory(K, V, dt, A)
    found = convert_memory(K.bfloat16(), V.bfloat16(), dt.float(), A.float())
    assert found.dtype == torch.float32
    assert (found.double() - exact).norm() / exact.norm() < 1e-2


@pytest.mark.parametrize("form", [convert_memory, convert_memory_direct])
@pytest.mark.parametrize("keys", [1, 2, 4])
def test_gradients_of_a_suffix_through_the_state_are_those_of_the_whole_scan(form: Converter, keys: int):
    """Test 5 of the notes: a loss on the tokens behind P, from the converted prefix or from the SSM run over all of them."""
    tokens, point = 120, 70
    K, V, dt, A = drawn(tokens, 4, keys, 4)
    C = torch.randn(tokens, keys, STATE, dtype=torch.float64)
    pull = torch.randn(tokens - point, 4, WIDTH, dtype=torch.float64)
    whole, front, back = (SequenceLayout.from_lengths([n], chunk=32) for n in (tokens, point, tokens - point))
    given = [t.requires_grad_() for t in (K, V, dt, A)]

    y, _ = ssd_chunked(V, dt, A, K, C, whole)
    expected = torch.autograd.grad((y[point:] * pull).sum(), given)
    state = form(K[:point], V[:point], dt[:point], A, None, front)
    y, _ = ssd_chunked(V[point:], dt[point:], A, K[point:], C[point:], back, None, state)
    found = torch.autograd.grad((y * pull).sum(), given)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * max(1, other.abs().max().item()))


@pytest.mark.parametrize("wrong", ["no step sizes", "zero state", "decay shifted by one"])
def test_the_tolerance_tells_wrong_formulas_apart(wrong: str):
    """The variants that the notes measured as wrong are off by far more than 1e-12."""
    K, V, dt, A = drawn(200, 4, 4, 4)
    exact = convert_memory(K, V, dt, A)
    if wrong == "no step sizes":
        off = convert_memory(K, V / dt[..., None], dt, A)
    elif wrong == "zero state":
        off = torch.zeros_like(exact)
    else:
        off = convert_memory(K, V, dt, A) * (dt[-1] * A).exp()[:, None, None]
    assert (off - exact).norm() / exact.norm() > 1e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"K_TGN": torch.ones(5, 3, 4)}, "dt has 4 heads, not a multiple of the 3 of K"),
        ({"V_THP": torch.ones(5, 8, 4)}, "dt has 4 heads, not a multiple of the 8 of V"),
        ({"layout": SequenceLayout.from_lengths([4])}, "layout has 4 tokens, K 5, V 5 and dt 5"),
        ({"state": torch.ones(2, 4, 4, 4)}, "state has 2 slots but layout has 1 documents"),
        ({"transpoints": [-1]}, "must be one count ≥ 0 for each of the 1 documents"),
        ({"transpoints": [1, 2]}, "must be one count ≥ 0 for each of the 1 documents"),
    ],
)
def test_mistakes_are_named(change: dict, message: str):
    given = {
        "K_TGN": torch.ones(5, 2, 4),
        "V_THP": torch.ones(5, 4, 4),
        "dt_TH": torch.ones(5, 4),
        "A_H": -torch.ones(4),
        "layout": SequenceLayout.from_lengths([5]),
    }
    with pytest.raises(ValueError, match=message):
        convert_memory(**{**given, **change})


def test_a_head_that_forgets_everything_keeps_its_last_token():
    K, V, dt, _ = drawn(33, 1, 1, 1)
    found = convert_memory(K, V, dt + 1, torch.tensor([-1e4], dtype=torch.float64))
    torch.testing.assert_close(found[0], (dt[-1] + 1) * V[-1, 0][:, None] * K[-1, 0][None])
    assert math.isfinite(found.sum())
