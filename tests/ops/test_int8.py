"""Rounding to int8 against its definition, and copies that never outlive the numbers they were made from."""

import gc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tandem.ops.int8 import _COPIES, dequantize_int8, int8_copy, quantize_int8, round_to_int8


@given(
    shape=st.sampled_from([(3, 5), (4, 64), (2, 6, 4)]),
    axis=st.sampled_from([1, -1]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    size=st.sampled_from([1e-6, 1.0, 1e4]),
)
def test_every_number_is_within_half_a_step_of_its_output(
    shape: tuple[int, ...], axis: int, dtype: torch.dtype, size: float
):
    weight = (size * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    values, scale = quantize_int8(weight, axis)
    assert values.dtype == torch.int8
    assert values.abs().max() == 127
    torch.testing.assert_close(scale, weight.float().abs().amax(axis) / 127)
    error = (dequantize_int8(values, scale, axis) - weight.float()).abs()
    assert (error <= 0.5001 * scale.unsqueeze(axis)).all()


def test_zeros_stay_zeros():
    values, scale = quantize_int8(torch.zeros(2, 3))
    assert torch.equal(dequantize_int8(values, scale), torch.zeros(2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rounded_matrix_is_its_copy_as_near_as_its_format_can_say(dtype: torch.dtype):
    weight = torch.randn(6, 40).to(dtype)
    want = dequantize_int8(*quantize_int8(weight)).to(dtype)
    round_to_int8(weight)
    assert torch.equal(weight, want)
    assert torch.equal(dequantize_int8(*int8_copy(weight)).to(dtype), want)


def test_a_copy_is_made_once_and_again_after_a_write():
    weight = torch.randn(4, 8)
    first = int8_copy(weight)
    assert int8_copy(weight) is first
    weight.mul_(2)
    torch.testing.assert_close(int8_copy(weight)[1], 2 * first[1])


def test_a_copy_goes_with_its_matrix():
    before = len(_COPIES)
    weight = torch.randn(4, 8)
    int8_copy(weight)
    assert len(_COPIES) == before + 1
    del weight
    gc.collect()
    assert len(_COPIES) == before
