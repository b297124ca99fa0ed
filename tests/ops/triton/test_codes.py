"""Codes and scales of both ways have the bits of those made one after the other by PyTorch's form."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rounding_cases import SIZES, numbers
from tandem.ops import ROUNDINGS
from tandem.precision.formats import element_format
from tandem.precision.quantizing import to_codes

kernels = pytest.importorskip("tandem.ops.triton.codes", reason="needs Triton: pip install triton")

pytestmark = pytest.mark.filterwarnings(
    "ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning", "ignore:divide by zero:RuntimeWarning"
)
DTYPES = {"ocp:e4m3fn": torch.float8_e4m3fn, "ocp:e5m2": torch.float8_e5m2}


@settings(max_examples=12, deadline=None)
@given(
    format=st.sampled_from(sorted(DTYPES)),
    rounding=st.sampled_from(["nearest-away", "nearest-even"]),
    square=st.booleans(),
    shape=st.tuples(st.sampled_from([1, 16, 100, 128, 200]), st.sampled_from([1, 40, 128, 300])),
    size=st.sampled_from(SIZES),
    seed=st.integers(0, 2**31),
)
def test_both_ways_are_those_of_the_pytorch_form(
    format: str, rounding: str, square: bool, shape: tuple[int, int], size: float, seed: int, device: str
):
    x = numbers((1, *shape), size, torch.float32, seed)[0].to(device)
    grid = element_format(format).rounding
    made = kernels.codes_both_ways(x, DTYPES[format], square, *grid, ROUNDINGS.index(rounding))
    codes, scales, turned, turned_scales = made
    turned_scales = scales if square else turned_scales
    for got, got_scales, of in ((codes, scales, x), (turned, turned_scales, x.t().contiguous())):
        want, want_scales = to_codes(of, format, block=(128, 128) if square else 128, rounding=rounding)
        R, C = of.shape
        inside = got[:R, :C].float()
        assert torch.equal(inside[want.isfinite()], want[want.isfinite()])
        if device == "cuda":  # the interpreter makes numbers of NaN
            assert inside[~want.isfinite()].isnan().all()
        assert not got[R:].float().any()
        assert not got[:, C:].float().any()
        if square:
            assert torch.equal(got_scales if of is x else got_scales.t(), want_scales)
        else:
            assert torch.equal(got_scales.t()[:R], want_scales)


def test_an_empty_matrix_has_no_codes(device: str):
    codes, *_ = kernels.codes_both_ways(torch.empty(0, 128, device=device), torch.float8_e4m3fn, False, 3, -6, 448.0, 1)
    assert codes.shape == (0, 128)
