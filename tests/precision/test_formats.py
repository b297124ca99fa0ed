"""Grids against the paper's and against the codes of ml_dtypes; names that come back as they went."""

import doctest

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.precision import FloatFormat, IntFormat, ScaleFormat, formats, parse_format


def test_the_examples_hold():
    assert doctest.testmod(formats).failed == 0


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("E1M0", (0, 2)),
        ("E1M1", (0, 1, 2, 3)),
        ("E2M1", (0, 0.5, 1, 1.5, 2, 3, 4, 6)),
        ("E3M0", (0, 0.25, 0.5, 1, 2, 4, 8, 16)),
        ("E0M2", (0, 1, 2, 3)),
    ],
)
def test_small_grids_are_the_papers(name: str, grid: tuple[float, ...]):
    assert parse_format(name).grid() == grid


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("E4M3", 480),
        ("E5M2", 114688),
        ("E3M2", 28),
        ("E2M3", 7.5),
        ("ocp:e4m3fn", 448),
        ("ocp:e5m2", 57344),
        ("E0M7", 127),
    ],
)
def test_largest_numbers(name: str, most: float):
    assert parse_format(name).max == most


# Formats of ml_dtypes that are ours but for the largest codes, or shifted by a bias.
PEERS = {
    "float4_e2m1fn": ("ocp:e2m1", 1),
    "float6_e2m3fn": ("ocp:e2m3", 1),
    "float6_e3m2fn": ("ocp:e3m2", 1),
    "float8_e3m4": ("E3M4", 1),
    "float8_e4m3": ("E4M3", 1),
    "float8_e4m3fn": ("ocp:e4m3fn", 1),
    "float8_e4m3fnuz": ("E4M3", 2),
    "float8_e4m3b11fnuz": ("E4M3", 16),
    "float8_e5m2": ("ocp:e5m2", 1),
    "float8_e5m2fnuz": ("E5M2", 2),
    "bfloat16": ("E8M7", 1),
    "float8_e8m0fnu": ("e8m0", 1),
}


@pytest.mark.parametrize("peer", PEERS)
def test_numbers_are_those_of_ml_dtypes(peer: str):
    name, factor = PEERS[peer]
    dtype = np.dtype(getattr(ml_dtypes, peer))
    with np.errstate(invalid="ignore"):  # some codes are signaling NaN
        codes = np.arange(1 << 8 * dtype.itemsize, dtype=f"uint{8 * dtype.itemsize}").view(dtype).astype(np.float64)
    theirs = np.unique(codes[np.isfinite(codes) & (codes >= 0)]) * factor
    ours = np.array(parse_format(name).grid())
    assert np.array_equal(ours[: len(theirs)], theirs)
    if ":" in name or name in ("e8m0", "E8M7"):
        assert len(ours) == len(theirs)


@given(exponent=st.integers(1, 8), mantissa=st.integers(0, 9))
def test_a_format_is_described_by_its_grid(exponent: int, mantissa: int):
    format = FloatFormat(exponent, mantissa)
    grid = format.grid()
    assert list(grid) == sorted(set(grid))
    assert grid[0] == 0
    assert (grid[1], grid[-1]) == (format.min_subnormal, format.max)
    assert len(grid) == 2 ** (format.bits - 1) - (2**mantissa if exponent == 8 else 0)
    assert format.rounding.largest == format.max


@given(magnitude=st.integers(1, 12))
def test_an_integer_is_a_float_of_one_exponent_bit_after_scaling(magnitude: int):
    integers, floats = IntFormat(magnitude), FloatFormat(1, magnitude - 1)
    factor = integers.max / floats.max
    assert integers.grid() == tuple(factor * number for number in floats.grid())
    assert integers.min_subnormal == 1
    assert integers.bits == floats.bits == 1 + magnitude


@pytest.mark.parametrize(
    "name", ["E4M3", "E8M7", "E0M7", "ocp:e4m3fn", "ocp:e5m2", "ocp:e2m1", "e8m0", "E1M0", "E5M22"]
)
def test_names_come_back(name: str):
    assert str(parse_format(name)) == name
    assert FloatFormat.parse(name) == parse_format(name)
    assert parse_format(str(parse_format(name))) == parse_format(name)


def test_no_exponent_bits_are_an_integer():
    assert FloatFormat.parse("E0M7") == IntFormat(7)
    assert FloatFormat.parse("e8m0") == ScaleFormat()
    assert ScaleFormat().bits == 8
    assert (ScaleFormat().grid()[0], ScaleFormat().grid()[-1]) == (ScaleFormat().min_subnormal, ScaleFormat().max)


@pytest.mark.parametrize(
    "text", ["", "fp8", "e4m3", "E4", "M3", "E4M3 ", "E-1M3", "ocp:E4M3", "ocp:e4m3", "E4.5M3", "E123M1"]
)
def test_unknown_names_list_the_known_ones(text: str):
    with pytest.raises(ValueError, match=r"is not known; use E4M3 .*ocp:e4m3fn.*e8m0"):
        parse_format(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("E9M1", r"exponent=9 must be 1 to 8"),
        ("E4M23", r"mantissa=23 must be 0 to 22"),
        ("E0M0", r"magnitude=0 must be 1 to 23"),
        ("E0M24", r"magnitude=24 must be 1 to 23"),
    ],
)
def test_impossible_formats_say_what_is_possible(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        parse_format(text)


def test_constructors_check_too():
    with pytest.raises(ValueError, match=r"use IntFormat\(7\)"):
        FloatFormat(0, 7)
    with pytest.raises(ValueError, match="is no E5M2"):
        FloatFormat(5, 2, "ocp:e4m3fn")
