"""Which tensors the kernels take, and the arithmetic of tiles."""

import pytest
import torch

from tandem.ops.triton import support


def test_can_be_switched_off(device: str):
    value = torch.ones(1, device=device)
    assert support.triton_for(value, None)
    assert not support.triton_for(value.double())
    with support.without_triton():
        assert not support.triton_for(value)
    assert support.triton_for(value)


@pytest.mark.parametrize(("count", "want"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128)])
def test_widths_of_tiles_are_powers_of_two(count: int, want: int):
    assert support.power_of_two(count) == want


def test_the_last_block_may_be_short():
    assert [support.ceil_div(count, 4) for count in (1, 4, 5)] == [1, 1, 2]
