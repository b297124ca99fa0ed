"""Moves of rows: values, padding, and gradients that go the opposite way."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tandem.ops import move_rows


@given(st.permutations(range(7)), st.integers(0, 7))
def test_a_move_and_its_gradient_are_index_select_and_its_own(order: list[int], kept: int):
    index = torch.tensor([*order[:kept], 7])  # and a row of padding
    inverse = torch.full((7,), len(index))
    inverse[torch.tensor(order[:kept], dtype=torch.long)] = torch.arange(kept)
    rows = torch.randn(7, 2, 3, dtype=torch.float64, requires_grad=True)
    pull = torch.randn(kept + 1, 2, 3, dtype=torch.float64)
    padded = torch.cat([rows, rows.new_zeros(1, 2, 3)])
    expected = torch.autograd.grad((padded[index] * pull).sum(), rows)[0]
    moved = move_rows(rows, index, inverse)
    assert torch.equal(moved, padded[index])
    assert torch.equal(torch.autograd.grad((moved * pull).sum(), rows)[0], expected)
