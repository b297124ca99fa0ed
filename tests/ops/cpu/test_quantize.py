"""The kernels give the bits of the PyTorch form, for every rounding, format, shape and kind of number."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rounding_cases import GRIDS, NARROW, SIZES, bits, every_number_of_sixteen_bits, numbers
from tandem.ops import ROUNDINGS, Grid, block_maxima, round_blocks
from tandem.ops import quantize as module


def both(function: Any, *arguments: Any, **options: Any) -> list[torch.Tensor]:
    """What the kernel and what PyTorch gives."""
    with pytest.MonkeyPatch.context() as patch:
        got = function(*arguments, **options)
        patch.setattr(module, "kernels_for", lambda *_: None)
        return [got, function(*arguments, **options)]


@settings(max_examples=150)
@given(
    grid=st.sampled_from(GRIDS),
    rounding=st.sampled_from(ROUNDINGS),
    formats=st.tuples(st.sampled_from(NARROW), st.sampled_from(NARROW)),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.sampled_from([1, 5, 16, 100, 700])),
    block=st.sampled_from([(1, 1), (1, 16), (1, 3), (1, 700), (5, 1), (16, 16), (40, 1), (7, 300)]),
    size=st.sampled_from(SIZES),
    seed=st.integers(0, 2**63 - 1),
)
def test_the_bits_are_those_of_the_pytorch_form(
    grid: Grid,
    rounding: str,
    formats: tuple[torch.dtype, torch.dtype],
    shape: tuple[int, int, int],
    block: tuple[int, int],
    size: float,
    seed: int,
):
    x = numbers(shape, size, formats[0], seed)
    maxima, want = both(block_maxima, x, block)
    assert torch.equal(bits(maxima), bits(want))
    multiplier = (grid.largest / maxima.clamp(min=1e-45)).clamp(max=2.0**126)
    multiplier *= 1 + torch.rand(multiplier.shape, generator=torch.Generator().manual_seed(seed))
    scales = (multiplier, 1 / multiplier)
    y, want = both(round_blocks, x, block, scales, grid, rounding, seed=seed, dtype=formats[1])
    assert y.dtype == formats[1]
    assert torch.equal(bits(y), bits(want))


@pytest.mark.parametrize("given_dtype", NARROW)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_every_number_of_sixteen_bits(given_dtype: torch.dtype, rounding: str):
    x = every_number_of_sixteen_bits().to(given_dtype)
    one = torch.ones(1, 1, 1)
    for grid in GRIDS:
        y, want = both(round_blocks, x, (1, x.numel()), (one, one), grid, rounding)
        finite = ~x.isnan()
        assert torch.equal(bits(y)[finite], bits(want)[finite])
        assert y[~finite].isnan().all()
