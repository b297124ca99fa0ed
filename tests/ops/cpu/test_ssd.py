"""The scan kernel against the float64 recurrence: forward and all gradients, any lengths, groups and widths."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.ops import SequenceLayout, ssd_chunked, ssd_reference
from tandem.ops.cpu.ssd import _blocks, convert, ssd


def inputs(lengths: list[int], H: int, P: int, G: int, N: int, seed: int) -> list[Tensor]:
    """x, B and C as slices of one projection, as the layer has them; then dt, A, D and an initial state."""
    generator = torch.Generator().manual_seed(seed)
    T, normal = sum(lengths), lambda *shape: torch.randn(*shape, generator=generator)
    x, B, C = normal(T, H * P + 2 * G * N).split([H * P, G * N, G * N], dim=1)
    dt, A = torch.nn.functional.softplus(normal(T, H) - 1), -normal(H).exp()
    shapes = (x.unflatten(1, (H, P)), dt, A, B.unflatten(1, (G, N)), C.unflatten(1, (G, N)))
    return [*shapes, normal(H), normal(len(lengths), H, P, N)]


def outcome(scan: Callable[..., tuple[Tensor, Tensor]], values: list[Tensor], lengths: list[int]) -> list[Tensor]:
    leaves = [value.requires_grad_() for value in values]
    y_THP, final_SHPN = scan(*leaves[:5], SequenceLayout.from_lengths(lengths, chunk=16), *leaves[5:])
    generator = torch.Generator().manual_seed(0)
    pulls = [torch.randn(out.shape, generator=generator).to(out.dtype) for out in (y_THP, final_SHPN)]
    torch.autograd.backward([y_THP, final_SHPN], pulls)
    return [y_THP, final_SHPN, *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=3),
    heads=st.sampled_from([(1, 1), (2, 2), (4, 1), (6, 2)]),
    widths=st.sampled_from([(1, 3), (8, 16), (20, 17), (64, 40)]),
    seed=st.integers(0, 9),
)
def test_equals_the_recurrence_forward_and_backward(
    lengths: list[int], heads: tuple[int, int], widths: tuple[int, int], seed: int
):
    (H, G), (P, N) = heads, widths
    values = inputs(lengths, H, P, G, N, seed)
    expected = outcome(ssd_reference, [value.detach().double() for value in values], lengths)
    got = outcome(ssd, [value.detach() for value in values], lengths)
    for want, have in zip(expected, got, strict=True):
        # One number a head adds up terms of both signs over all tokens, which may nearly cancel; those of dt tell their size.
        left = 2e-7 * float(expected[3].norm()) if want.ndim == 1 else 1e-6
        assert (have.double() - want).norm() <= 2e-5 * want.norm() + left


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_blocks_of_heads_do_not_change_the_result(threads: int, monkeypatch: pytest.MonkeyPatch):
    values = inputs([70], 6, 8, 1, 8, 0)
    expected = outcome(ssd_reference, [value.detach().double() for value in values], [70])
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for want, have in zip(expected, outcome(ssd, [v.detach() for v in values], [70]), strict=True):
        assert (have.double() - want).norm() <= 2e-5 * want.norm()


def test_heads_are_cut_into_divisors_until_every_thread_works():
    assert [_blocks(1, 6, threads) for threads in (1, 2, 4, 6, 64)] == [1, 2, 6, 6, 6]
    assert _blocks(4, 8, 2) == 1


def test_narrow_inputs_and_no_state_or_skip():
    values = inputs([33, 5], 2, 16, 1, 16, 1)[:5]
    narrow = [t.bfloat16() if n in (0, 3, 4) else t for n, t in enumerate(values)]
    layout = SequenceLayout.from_lengths([33, 5])
    exact, exact_state = ssd_reference(*(t.double() for t in narrow), layout)
    y_THP, state_SHPN = ssd(*narrow, layout, None, None)
    assert (y_THP.dtype, state_SHPN.dtype) == (torch.bfloat16, torch.float32)
    assert (y_THP.double() - exact).norm() < 4e-3 * exact.norm()
    torch.testing.assert_close(state_SHPN.double(), exact_state, atol=1e-5, rtol=1e-5)


def test_a_token_that_forgets_everything_and_one_that_forgets_nothing():
    x, dt, A, B, C, D, state = inputs([130], 2, 8, 1, 8, 2)
    dt = dt.detach().clone()
    dt[50], dt[60:70] = 1e4, 1e-9
    values = [x, dt, A, B, C, D, state]
    expected = outcome(ssd_reference, [value.detach().double() for value in values], [130])
    for want, have in zip(expected, outcome(ssd, [v.detach() for v in values], [130]), strict=True):
        assert have.isfinite().all()
        assert (have.double() - want).norm() <= 1e-4 * want.norm()


def test_is_what_the_public_op_runs_on_float32():
    values = inputs([40], 2, 8, 1, 8, 3)
    layout = SequenceLayout.from_lengths([40])
    both = (scan(*values[:5], layout, *values[5:]) for scan in (ssd, ssd_chunked))
    for direct, public in zip(*both, strict=True):
        assert torch.equal(direct, public)


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=3),
    heads=st.sampled_from([(1, 1), (2, 2), (4, 1), (6, 2)]),
    widths=st.sampled_from([(1, 3), (8, 16), (20, 17), (64, 40)]),
    started=st.booleans(),
)
def test_the_converter_equals_the_recurrence_forward_and_backward(
    lengths: list[int], heads: tuple[int, int], widths: tuple[int, int], started: bool
):
    (H, G), (P, N) = heads, widths
    V, dt, A, K, _, _, state = inputs(lengths, H, P, G, N, 0)
    values = [K, V, dt, A, *([state] if started else [])]
    layout = SequenceLayout.from_lengths(lengths)
    pull = torch.randn(state.shape, generator=torch.Generator().manual_seed(0))

    def outcome_of(form: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        leaves = [value.detach().to(dtype).requires_grad_() for value in values]
        final = form(*leaves[:4], layout, leaves[4] if started else None)
        return [final, *torch.autograd.grad((final * pull).sum(), leaves)]

    def recurrence(K: Tensor, V: Tensor, dt: Tensor, A: Tensor, layout: SequenceLayout, state: Tensor | None) -> Tensor:
        return ssd_reference(V, dt, A, K, torch.zeros_like(K), layout, None, state)[1]

    want, have = outcome_of(recurrence, torch.float64), outcome_of(convert, torch.float32)
    for one, other in zip(want, have, strict=True):
        left = 2e-7 * float(want[3].norm()) if one.ndim == 1 else 1e-6
        assert (other.double() - one).norm() <= 2e-5 * one.norm() + left
