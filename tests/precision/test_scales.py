"""Scales against their definitions, taken with Python's numbers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tandem.precision import SCALES, parse_format
from tandem.precision.formats import element_format
from tandem.precision.scales import block_scales

ELEMENTS = ["E1M1", "E2M1", "E3M2", "E4M3", "ocp:e4m3fn", "ocp:e5m2", "E7M4", "E0M7"]


def scales_of(maximum: float, name: str, scale: str) -> tuple[float, float]:
    S, s = block_scales(torch.tensor([[[maximum]]]), element_format(name), scale)
    return S.item(), s.item()


@given(maximum=st.floats(2.0**-126, 2.0**127, width=32), name=st.sampled_from(ELEMENTS))
def test_powers_of_two_are_those_of_the_specification(maximum: float, name: str):
    format = element_format(name)
    exponent, top = math.frexp(maximum)[1] - 1, math.frexp(format.max)[1] - 1
    mantissa = format.rounding.mantissa_bits
    rounded = math.floor(maximum / 2.0**exponent * 2**mantissa + 0.5) * 2.0 ** (exponent - mantissa)
    wanted = {
        "e8m0": exponent - top,
        "e8m0-ceil": exponent + (maximum > 2.0**exponent) - top,
        "e8m0-even": math.frexp(rounded)[1] - 1 - top,
    }
    for scale, power in wanted.items():
        power = min(max(power, -127), 127)
        assert scales_of(maximum, name, scale) == (2.0**-power, 2.0**power)


@given(maximum=st.floats(2.0**-100, 2.0**100, width=32), name=st.sampled_from(ELEMENTS))
def test_float32_scales_put_the_largest_number_at_the_formats(maximum: float, name: str):
    S, s = scales_of(maximum, name, "float32")
    most = parse_format(name).max
    assert math.isclose(S, min(most / maximum, 2.0**126), rel_tol=2e-7)
    assert math.isclose(S * s, 1, rel_tol=2e-7)


@given(exponents=st.lists(st.integers(-12, 0), min_size=1, max_size=9), name=st.sampled_from(["E2M1", "E3M2", "E4M3"]))
def test_two_levels_are_eight_bits_of_the_tensors_scale(exponents: list[int], name: str):
    maxima = torch.tensor([1.37 * 2.0**e for e in exponents])[None, None]
    S, s = block_scales(maxima, element_format(name), "e4m3")
    tensor_scale = maxima.max().item() / (parse_format(name).max * 448)
    codes = (s / tensor_scale).flatten().tolist()
    grid = torch.tensor(parse_format("ocp:e4m3fn").grid()[1:])
    for code, maximum in zip(codes, maxima.flatten().tolist(), strict=True):
        wanted = maximum / parse_format(name).max / tensor_scale
        assert math.isclose(code, grid[(grid - wanted).abs().argmin()].item(), rel_tol=1e-6)
    assert math.isclose(max(codes), 448, rel_tol=1e-6)
    torch.testing.assert_close(S * s, torch.ones_like(s))


@pytest.mark.parametrize("scale", SCALES)
def test_blocks_of_zeros_have_scales_that_can_be_divided_by(scale: str):
    for maxima in (torch.tensor([[[0.0, 5.0]]]), torch.zeros(1, 2, 2)):
        S, s = block_scales(maxima, element_format("E2M1"), scale)
        torch.testing.assert_close(S * s, torch.ones_like(maxima))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("maximum", [1e-45, 1e-38, 3.4e38])
def test_scales_stay_finite(scale: str, maximum: float):
    for name in ELEMENTS:
        S, s = scales_of(maximum, name, scale)
        assert 0 < S < math.inf
        assert 0 < s < math.inf


def test_formats_with_the_range_of_float32_are_not_scaled():
    for scale in SCALES:
        assert scales_of(1e-20, "E8M7", scale) == (1, 1)
