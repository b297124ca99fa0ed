"""Rounding to a grid against a search of the nearest number in exact fractions; blocks against Python loops."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.ops import Grid, block_maxima, round_blocks, round_to_grid
from tandem.ops.quantize import uniform_noise

# Exponent bits 1 to 8, with and without a mantissa, and integers.
GRIDS = [
    *(Grid(1, 1, 3.0), Grid(1, 0, 6.0), Grid(0, 0, 4.0), Grid(3, -6, 480.0), Grid(3, -6, 448.0), Grid(2, -14, 57344.0)),
    *(Grid(2, -2, 28.0), Grid(3, -62, 2.0**64 * 1.875), Grid(7, -126, 2.0**127 * (2 - 2.0**-7)), Grid(6, 6, 127.0)),
]


def numbers_of(grid: Grid, near: float) -> list[Fraction]:
    """The numbers of a grid around one; all of them would be many."""
    exponent = max(math.frexp(near)[1] - 1, grid.least_exponent)
    step = Fraction(2) ** (exponent - grid.mantissa_bits)
    first = Fraction(near) // step
    return [min(n * step, Fraction(grid.largest)) for n in (first, first + 1)]


def nearest(x: float, grid: Grid, rounding: str) -> float:
    """By the definition: the nearest number, and of two the larger one or the one whose code is even."""
    low, high = numbers_of(grid, abs(x))
    below, above = Fraction(abs(x)) - low, high - Fraction(abs(x))
    step = Fraction(2) ** (max(math.frexp(x)[1] - 1, grid.least_exponent) - grid.mantissa_bits)
    to_low = below < above or (below == above and rounding == "nearest-even" and low / step % 2 == 0)
    return math.copysign(float(low if to_low or low == high else high), x)


def hard_numbers(grid: Grid) -> list[float]:
    """Around every kind of edge: powers of two, ties, subnormals, the largest number; one float32 step to either side."""
    edges = [2.0**e for e in (grid.least_exponent, grid.least_exponent + 1, grid.greatest_exponent, -30, -1, 3)]
    step = math.ldexp(1.0, grid.least_exponent - grid.mantissa_bits)
    edges += [step * n / 2 for n in range(1, 12)] + [grid.largest, grid.largest * 0.75, grid.largest * 0.984375]
    edges += [edge * (1 + n * 2.0 ** -(grid.mantissa_bits + 1)) for edge in edges[:6] for n in range(4)]
    singles = torch.tensor([e for e in edges if e < 3e38])
    around = [torch.nextafter(singles, torch.full_like(singles, to)) for to in (0.0, math.inf)]
    return torch.cat([singles, *around]).tolist()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("rounding", ["nearest-away", "nearest-even"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounds_to_the_nearest_number(grid: Grid, rounding: str, dtype: torch.dtype):
    numbers = [sign * x for x in hard_numbers(grid) if math.isfinite(x) for sign in (1, -1)]
    got = round_to_grid(torch.tensor(numbers, dtype=dtype), grid, rounding)
    assert got.dtype == dtype
    assert got.tolist() == [nearest(x, grid, rounding) for x in numbers]


@given(x=st.floats(width=32, allow_nan=False, allow_infinity=False), grid=st.sampled_from(GRIDS))
def test_rounds_any_number_to_the_nearest(x: float, grid: Grid):
    for rounding in ("nearest-away", "nearest-even"):
        assert round_to_grid(torch.tensor([x]), grid, rounding).item() == nearest(x, grid, rounding)


def test_zeros_keep_their_sign_and_other_numbers_pass():
    given_ = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan])
    got = round_to_grid(given_, GRIDS[0])
    assert torch.equal(got.signbit()[:4], given_.signbit()[:4])
    assert got[:4].tolist() == given_[:4].tolist()
    assert got[4].isnan()


def test_stochastic_rounding_is_right_on_average():
    x = torch.full((200_000,), 2.3)
    got = round_to_grid(x, GRIDS[1], "stochastic", uniform_noise(x, seed=3))
    assert set(got.tolist()) == {2.0, 3.0}
    assert abs(got.mean().item() - 2.3) < 5 * math.sqrt(0.3 * 0.7 / len(x))


def test_noise_is_uniform_and_independent_of_its_neighbors():
    noise = uniform_noise(torch.empty(1 << 16), seed=2**40 + 7).double()
    assert noise.min() > 0
    assert noise.max() <= 1
    counts = torch.histc(noise, 64, 0, 1)
    assert ((counts - 1024).square() / 1024).sum() < 120  # chi-squared with 63 degrees of freedom: 120 is p = 2e-5
    centered = noise - 0.5
    for lag in (1, 2, 64, 4096):
        assert abs((centered[lag:] * centered[:-lag]).mean() * 12) < 5 / 256
    assert not torch.equal(noise, uniform_noise(torch.empty(1 << 16), seed=7).double())


def places(blocks: Tensor, block: tuple[int, int], shape: tuple[int, int, int]) -> list[tuple[int, slice, slice]]:
    return [
        (
            o,
            slice(y * block[0], min((y + 1) * block[0], shape[1])),
            slice(x * block[1], min((x + 1) * block[1], shape[2])),
        )
        for o, y, x in itertools.product(*map(range, blocks.shape))
    ]


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 20)),
    block=st.tuples(st.integers(1, 10), st.integers(1, 21)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_blocks_are_rounded_on_their_own(shape: tuple[int, int, int], block: tuple[int, int], dtype: torch.dtype):
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator).to(dtype)
    x[0, 0, 0] = math.nan
    maxima = block_maxima(x, block)
    assert maxima.dtype == (dtype if dtype == torch.float64 else torch.float32)
    step = torch.rand(maxima.shape, generator=generator, dtype=maxima.dtype) + 0.1
    got = round_blocks(x, block, (1 / step, step), GRIDS[1])
    for o, rows, columns in places(maxima, block, shape):
        piece, at = x[o, rows, columns].to(maxima.dtype), (o, rows.start // block[0], columns.start // block[1])
        assert maxima[at] == piece.nan_to_num().abs().max()
        want = (round_to_grid(piece * (1 / step[at]), GRIDS[1]) * step[at]).to(dtype)
        assert torch.equal(got[o, rows, columns].nan_to_num(), want.nan_to_num())
    assert got[0, 0, 0].isnan()


def test_a_scale_never_makes_an_infinity():
    largest = torch.finfo(torch.float32).max
    step = torch.full((1, 1, 1), largest / 3 * 1.0001)
    assert round_blocks(torch.tensor([[[largest]]]), (1, 1), (1 / step, step), GRIDS[0]).item() == largest


@pytest.mark.parametrize("grid", [GRIDS[8], Grid(0, -126, 2.0**127)], ids=str)
def test_eight_exponent_bits_are_left_to_pytorch(grid: Grid):
    x = torch.tensor([[[1.1754943508222875e-38, 3e38, 1.0, 2.0**-126 * 1.5]]])
    one = torch.ones(1, 1, 1)
    assert torch.equal(round_blocks(x, (1, 4), (one, one), grid), round_to_grid(x, grid))
