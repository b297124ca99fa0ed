"""Reference, chunked and recurrent scan give one result, forward and backward, in float64."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.ops import SequenceLayout, ssd_chunked, ssd_reference, ssd_step

H, P, N = 4, 3, 5


def inputs(tokens: int, groups: int, documents: int, seed: int = 0, decay: float = 3.0) -> list[Tensor]:
    torch.manual_seed(seed)
    return [
        torch.randn(tokens, H, P, dtype=torch.float64),
        torch.nn.functional.softplus(torch.randn(tokens, H, dtype=torch.float64)),
        -torch.rand(H, dtype=torch.float64) * decay,
        torch.randn(tokens, groups, N, dtype=torch.float64),
        torch.randn(tokens, groups, N, dtype=torch.float64),
        torch.randn(H, dtype=torch.float64),
        torch.randn(documents, H, P, N, dtype=torch.float64),
    ]


def results_and_gradients(
    scan: Callable[..., tuple[Tensor, Tensor]], values: list[Tensor], layout: SequenceLayout
) -> list[Tensor]:
    leaves = [value.clone().requires_grad_() for value in values]
    y_THP, state_SHPN = scan(*leaves[:5], layout, *leaves[5:])
    (y_THP.sin().sum() + state_SHPN.cos().sum()).backward()
    return [y_THP, state_SHPN, *(leaf.grad for leaf in leaves)]


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 19), min_size=1, max_size=4),
    chunk=st.sampled_from([1, 3, 4, 8, 32]),
    groups=st.sampled_from([1, 2, 4]),
)
def test_chunked_equals_reference_forward_and_backward(lengths: list[int], chunk: int, groups: int):
    layout = SequenceLayout.from_lengths(lengths, chunk=chunk)
    values = inputs(sum(lengths), groups, len(lengths))
    expected = results_and_gradients(ssd_reference, values, layout)
    for want, got in zip(expected, results_and_gradients(ssd_chunked, values, layout), strict=True):
        torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-9)


def test_reference_is_the_recurrence_written_out():
    x, dt, A, B, C, D, _ = inputs(3, 1, 1)
    layout = SequenceLayout.from_lengths([3])
    state = torch.zeros(H, P, N, dtype=torch.float64)
    for t in range(3):
        for h in range(H):
            state[h] = torch.exp(dt[t, h] * A[h]) * state[h] + dt[t, h] * torch.outer(x[t, h], B[t, 0])
        y_HP = state @ C[t, 0] + D[:, None] * x[t]
        torch.testing.assert_close(ssd_reference(x, dt, A, B, C, layout, D)[0][t], y_HP)
    torch.testing.assert_close(ssd_reference(x, dt, A, B, C, layout, D)[1][0], state)


def test_steps_go_on_from_a_chunked_prefix():
    x, dt, A, B, C, D, state = inputs(12, 2, 1)
    whole, final = ssd_chunked(x, dt, A, B, C, SequenceLayout.from_lengths([12], chunk=4), D, state)
    _, state = ssd_chunked(x[:7], dt[:7], A, B[:7], C[:7], SequenceLayout.from_lengths([7], chunk=4), D, state)
    for t in range(7, 12):
        y, state = ssd_step(x[t : t + 1], dt[t : t + 1], A, B[t : t + 1], C[t : t + 1], D, state)
        torch.testing.assert_close(y[0], whole[t])
    torch.testing.assert_close(state, final)


def test_one_token_that_forgets_everything_costs_no_digits():
    """A difference of prefix sums would lose the small decays beside one of -10⁴."""
    x, dt, A, B, C, D, _ = inputs(64, 1, 1)
    dt = dt * 1e-3
    dt[50] = 1e4
    layout = SequenceLayout.from_lengths([64], chunk=64)
    exact, _ = ssd_reference(x, dt, A, B, C, layout, D)
    single, _ = ssd_chunked(*(v.float() for v in (x, dt, A, B, C)), layout, D.float())
    torch.testing.assert_close(single[:50].double(), exact[:50], atol=1e-5, rtol=1e-5)


def test_low_precision_inputs_keep_a_float32_state():
    x, dt, A, B, C, D, _ = inputs(20, 1, 1)
    layout = SequenceLayout.from_lengths([20], chunk=8)
    y, state = ssd_chunked(x.bfloat16(), dt.float(), A.float(), B.bfloat16(), C.bfloat16(), layout, D.float())
    exact, exact_state = ssd_reference(x, dt, A, B, C, layout, D)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert (y.double() - exact).norm() < 2e-2 * exact.norm()
    assert (state.double() - exact_state).norm() < 2e-2 * exact_state.norm()


def test_wrong_shapes_are_named():
    x, dt, A, B, C, D, state = inputs(5, 1, 1)
    with pytest.raises(ValueError, match="add up to 4 tokens but x has 5"):
        ssd_chunked(x, dt, A, B, C, SequenceLayout.from_lengths([4]), D)
    with pytest.raises(ValueError, match="4 heads, not a multiple of the 3 groups"):
        ssd_reference(x, dt, A, *torch.ones(2, 5, 3, N).double(), SequenceLayout.from_lengths([5]), D)
    with pytest.raises(ValueError, match="state has 1 slots but layout has 2"):
        ssd_chunked(x, dt, A, B, C, SequenceLayout.from_lengths([2, 3]), D, state)
