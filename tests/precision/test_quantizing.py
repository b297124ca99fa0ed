"""`quantize` against ml_dtypes and the nearest number of a list, and what must hold for any tensor."""

import math

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from tandem.ops import ROUNDINGS
from tandem.precision import SCALES, IntFormat, parse_format, quantize
from tandem.precision.formats import element_format

NAMES = [
    "E1M0",
    "E1M1",
    "E2M1",
    "E3M0",
    "E2M3",
    "E3M2",
    "E4M3",
    "E5M2",
    "E3M4",
    "E6M5",
    "E0M3",
    "E0M7",
    "ocp:e4m3fn",
    "E7M2",
]
# A format of ml_dtypes, ours, and the factor between their biases.
PEERS = [
    *(
        ("float4_e2m1fn", "E2M1", 1),
        ("float6_e2m3fn", "E2M3", 1),
        ("float6_e3m2fn", "E3M2", 1),
        ("float8_e3m4", "E3M4", 1),
    ),
    *(("float8_e4m3", "E4M3", 1), ("float8_e4m3fn", "ocp:e4m3fn", 1), ("float8_e4m3fnuz", "E4M3", 2)),
    *(
        ("float8_e4m3b11fnuz", "E4M3", 16),
        ("float8_e5m2", "ocp:e5m2", 1),
        ("float8_e5m2fnuz", "E5M2", 2),
        ("bfloat16", "E8M7", 1),
    ),
]
tensors = arrays.arrays(
    np.float32,
    arrays.array_shapes(max_dims=3, max_side=9),
    elements=st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False),
).map(torch.from_numpy)


def unscaled(x: Tensor, name: str, rounding: str) -> Tensor:
    """Rounding with a scale of 1: the largest number of the format is put beside each number."""
    pairs = torch.stack(
        [x.clamp(-parse_format(name).max, parse_format(name).max), torch.full_like(x, parse_format(name).max)]
    )
    return quantize(pairs, name, block="channel", axis=0, rounding=rounding)[0]


@pytest.mark.parametrize(("peer", "name", "factor"), PEERS)
def test_ties_to_even_equal_ml_dtypes(peer: str, name: str, factor: float):
    dtype = getattr(ml_dtypes, peer)
    most = float(ml_dtypes.finfo(dtype).max)
    generator = np.random.default_rng(0)
    grid = np.array(parse_format(name).grid()) / factor
    ties = (grid[1:] + grid[:-1]) / 2
    spread = generator.choice([-1, 1], 20_000) * 2.0 ** generator.uniform(-20, math.log2(most), 20_000)
    x = np.concatenate([spread, grid, ties, -ties]).astype(np.float32)
    x = x[np.abs(x) <= most]
    got = unscaled(torch.from_numpy(x) * factor, name, "nearest-even").numpy() / factor
    assert np.array_equal(got, x.astype(dtype).astype(np.float32))


def test_e8m7_is_bfloat16():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-40, 38, 1000)
    assert torch.equal(quantize(x, "E8M7", block=32, rounding="nearest-even"), x.bfloat16().float())


@pytest.mark.parametrize("name", ["E1M1", "E2M1", "E0M3", "E3M2"])
def test_is_the_papers_formula(name: str):
    """One block at a time, in NumPy: S = max / max|x|, the nearest number of the list, ties to the larger, back to bfloat16."""
    x = torch.randn(6, 100, generator=torch.Generator().manual_seed(1))
    got = quantize(x, name, block=32, out_dtype=torch.bfloat16)
    grid = np.array(parse_format(name).grid(), dtype=np.float32)
    for row in range(6):
        for first in range(0, 100, 32):
            piece = x[row, first : first + 32].numpy()
            S = grid[-1] / np.abs(piece).max()
            distance = np.abs(np.abs(piece * S)[:, None] - grid)
            code = len(grid) - 1 - distance[:, ::-1].argmin(1)
            want = torch.from_numpy(np.sign(piece) * grid[code] * (np.float32(1) / S)).bfloat16()
            assert torch.equal(got[row, first : first + 32], want)


options = {
    "name": st.sampled_from(NAMES),
    "block": st.one_of(st.integers(1, 12), st.sampled_from(["channel", "tensor"])),
    "rounding": st.sampled_from(["nearest-away", "nearest-even"]),
    "scale": st.sampled_from(SCALES),
}


@settings(max_examples=200)
@given(x=tensors, **options)
def test_odd_and_monotone(x: Tensor, name: str, block: int | str, rounding: str, scale: str):
    y = quantize(x, name, block=block, rounding=rounding, scale=scale)
    assert torch.equal(quantize(-x, name, block=block, rounding=rounding, scale=scale), -y)
    assert torch.equal(
        quantize(x, name, block="tensor", scale=scale).flatten()[x.flatten().argsort()].diff() >= 0,
        torch.ones(x.numel() - 1, dtype=torch.bool),
    )


@settings(max_examples=200)
@given(x=tensors, name=options["name"], rounding=options["rounding"], scale=st.sampled_from(["float32", "e8m0-ceil"]))
def test_error_is_at_most_half_the_step_at_each_number(x: Tensor, name: str, rounding: str, scale: str):
    """With the scales that cut nothing off. The numbers next to each one are looked up in the list of the format's."""
    grid, x = np.array(parse_format(name).grid()), x.double()
    most = x.abs().amax().item() or 1.0
    top = 2.0 ** (math.frexp(grid[-1])[1] - 1)
    s = most / grid[-1] if scale == "float32" else 2.0 ** math.ceil(math.log2(most)) / top
    error = (quantize(x, name, block="tensor", rounding=rounding, scale=scale) - x).abs().numpy() / s
    above = np.searchsorted(grid, x.abs().numpy() / s * (1 - 1e-12)).clip(1, len(grid) - 1)
    assert (error <= (grid[above] - grid[above - 1]) / 2 * (1 + 1e-9) + 1e-300).all()


@settings(max_examples=200)
@given(x=tensors, name=options["name"], block=options["block"], scale=st.sampled_from(["float32", "e8m0", "e8m0-ceil"]))
def test_a_second_time_changes_nothing(x: Tensor, name: str, block: int | str, scale: str):
    once = quantize(x, name, block=block, scale=scale)
    twice = quantize(once, name, block=block, scale=scale)
    # A float32 scale is found again up to its last bits; one that is a power of two exactly, unless the top was cut or moved.
    torch.testing.assert_close(twice, once, rtol=1e-6 if scale == "float32" else 0, atol=0)


@settings(max_examples=100)
@given(x=tensors, name=st.sampled_from(["E2M1", "E4M3", "E5M2", "E0M7"]))
@example(x=torch.tensor([5.9709e-34]), name="E5M2")
def test_a_block_of_one_keeps_the_number(x: Tensor, name: str):
    """Unless it is so small that its scale stops at 2^126: it is then rounded like any other number."""
    format, got = element_format(name), quantize(x, name, block=1)
    whole = x.abs() >= format.max * 2.0**-126
    torch.testing.assert_close(got[whole], x[whole], rtol=3e-7, atol=0)
    half_a_step = 2.0 ** -(format.rounding.mantissa_bits + 1)
    bound = x.double().abs() * half_a_step + format.min_subnormal * 2.0**-127
    assert ((got.double() - x.double()).abs() <= bound * (1 + 1e-6))[~whole].all()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_blocks_along_any_axis_are_blocks_along_the_last(scale: str, dtype: torch.dtype):
    x = torch.randn(5, 11, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    for axis in range(3):
        for block in (4, "channel"):
            got = quantize(x, "E2M1", block=block, axis=axis, scale=scale)
            want = quantize(x.movedim(axis, -1).contiguous(), "E2M1", block=block, scale=scale).movedim(-1, axis)
            assert got.dtype == dtype
            assert torch.equal(got, want)
            assert torch.equal(got, quantize(x, "E2M1", block=block, axis=axis - 3, scale=scale))


def test_rectangles_lie_on_the_last_two_axes_and_the_last_ones_are_short():
    x = torch.randn(2, 10, 7, generator=torch.Generator().manual_seed(0))
    got = quantize(x, "E2M1", block=(4, 3))
    for page in range(2):
        for row in range(0, 10, 4):
            for column in range(0, 7, 3):
                piece = x[page, row : row + 4, column : column + 3]
                assert torch.equal(
                    got[page, row : row + 4, column : column + 3], quantize(piece.contiguous(), "E2M1", block="tensor")
                )


def test_a_short_last_block_has_a_scale_of_its_own():
    x = torch.randn(3, 70, generator=torch.Generator().manual_seed(0))
    got = quantize(x, "E2M1", block=32)
    assert torch.equal(got[:, 64:], quantize(x[:, 64:], "E2M1", block="channel"))
    assert torch.equal(quantize(x, "E2M1", block=500), quantize(x, "E2M1", block="channel"))


@pytest.mark.parametrize("block", [4, "channel", "tensor", (2, 3)])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_nan_and_infinity_pass_and_leave_their_neighbors_alone(
    block: int | str | tuple[int, int], scale: str, rounding: str
):
    def quantized(x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return quantize(x, "E2M1", block=block, scale=scale, rounding=rounding, generator=generator)

    x = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    x[0, :3] = 0
    clean = quantized(x)
    x[0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    got = quantized(x)
    assert got[0, 0].isnan()
    assert got[0, 1:3].tolist() == [math.inf, -math.inf]
    assert torch.equal(got.flatten()[3:], clean.flatten()[3:])
    only = torch.full((3, 4), math.nan)
    assert quantized(only).isnan().all()


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 3)])
@pytest.mark.parametrize("block", [4, "channel", "tensor"])
def test_empty_tensors_stay_empty(shape: tuple[int, ...], block: int | str):
    got = quantize(torch.empty(shape), "E2M1", block=block, out_dtype=torch.bfloat16)
    assert got.shape == shape
    assert got.dtype == torch.bfloat16
    assert quantize(torch.empty(0, 3), "E2M1", block=(2, 2)).shape == (0, 3)


def test_zeros_and_single_numbers():
    assert torch.equal(quantize(torch.zeros(2, 40), "E4M3", block=32), torch.zeros(2, 40))
    assert quantize(torch.tensor(-3.7), "E2M1").item() == pytest.approx(-3.7)
    assert quantize(torch.tensor(-3.7), "E2M1").shape == ()


def test_rows_that_lie_apart():
    wide = torch.randn(8, 60, generator=torch.Generator().manual_seed(0))
    for x in (wide[:, 3:40], wide.t()):
        assert torch.equal(quantize(x, "E3M2", block=8), quantize(x.contiguous(), "E3M2", block=8))


def test_stochastic_rounding_is_right_on_average_and_follows_its_generator():
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    draws = [quantize(x, "E2M1", rounding="stochastic", generator=torch.Generator().manual_seed(n)) for n in range(400)]
    mean = torch.stack(draws).mean(0)
    step = x.abs().amax(-1, keepdim=True) * 2 / 6
    assert ((mean - x).abs() < 5 * 0.5 * step / math.sqrt(400)).all()
    again = quantize(x, "E2M1", rounding="stochastic", generator=torch.Generator().manual_seed(7))
    assert torch.equal(draws[7], again)
    assert not torch.equal(draws[7], draws[8])


def test_nothing_is_written_to_and_no_gradient_passes():
    x = torch.randn(4, 4, requires_grad=True)
    before = x.detach().clone()
    assert not quantize(x, "E2M1").requires_grad
    assert torch.equal(x, before)
    same = torch.empty(0)
    assert quantize(same, "E2M1") is not same


@pytest.mark.parametrize(
    ("name", "decibels"),
    [
        ("E1M1", (14.0, 12.9, 11.3, 10.1, 8.7)),
        ("E2M1", (20.5, 19.9, 19.3, 18.9, 18.5)),
        ("E1M2", (21.4, 20.3, 18.6, 17.4, 16.0)),
        ("E4M3", (33.2, 32.5, 31.9, 31.6, 31.5)),
        ("E5M2", (27.0, 26.4, 25.8, 25.6, 25.6)),
        ("E3M4", (39.3, 38.6, 37.9, 37.7, 37.6)),
    ],
)
def test_noise_on_normal_numbers_is_what_was_measured_elsewhere(name: str, decibels: tuple[float, ...]):
    x = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).double()
    for block, wanted in zip((16, 32, 128, 512, 4096), decibels, strict=True):
        noise = quantize(x, name, block=block) - x
        assert 10 * math.log10(x.square().mean() / noise.square().mean()) == pytest.approx(wanted, abs=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "fp8"}, r"format='fp8' is not known; use E4M3"),
        ({"format": "e8m0"}, r"use it as scale='e8m0'"),
        ({"rounding": "up"}, r"rounding='up' is not known; use nearest-away, nearest-even, stochastic"),
        ({"scale": "int8"}, r"scale='int8' is not known; use float32, e8m0"),
        ({"block": 0}, r"block=0 must be 1 or more"),
        ({"block": (0, 4)}, r"block=\(0, 4\) must be two numbers of 1 or more"),
        ({"block": "row"}, r"block='row' is not known; use channel, tensor"),
        ({"axis": 2}, r"axis=2 is none of x's 2; use -2 to 1"),
    ],
)
def test_mistakes_say_what_to_use(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        quantize(torch.ones(2, 3), **{"format": "E2M1", **options})


def test_tensors_without_floats_or_axes_say_so():
    with pytest.raises(ValueError, match=r"has no floats to round; pass x.float\(\)"):
        quantize(torch.ones(2, dtype=torch.int32), "E2M1")
    with pytest.raises(ValueError, match="is a rectangle of two axes but x has 1"):
        quantize(torch.ones(4), "E2M1", block=(2, 2))
    assert torch.equal(quantize(torch.ones(2), IntFormat(3)), torch.ones(2))
