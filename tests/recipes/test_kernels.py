"""The ops that are timed, on their small shapes, and the arithmetic of a row."""

import math
from dataclasses import replace

import pytest
import torch

from tandem.recipes.kernels import Case, KernelRow, Work, cases, measure, relative_error

SHAPES = [case for case in cases() if "262,144" not in case.shape]  # the others differ by their length only


@pytest.mark.parametrize("case", SHAPES, ids=lambda case: case.op)
def test_every_op_equals_itself_in_float64(case: Case):
    assert relative_error(case.small, "cpu") < 1e-4


def test_an_error_that_is_not_a_number_stays_visible():
    assert math.isnan(relative_error(lambda device: Work(lambda x: x * math.nan, [torch.ones(2)]), "cpu"))


def test_a_row_has_medians_a_ratio_and_the_share_of_the_ceiling():
    row = KernelRow(
        op="conv, forward",
        shape="8 × 2",
        error=0.00123,
        ours=(0.25, 0.5, 0.75),
        plain=(4.0, 1.0, 2.0),
        floor=0.4,
        bound="copy",
    )
    assert row.cells() == [
        *("conv, forward", "8 × 2", "1.2e-03"),
        *("0.500 (0.250–0.750)", "2.000", "4.0", "80% of copy"),
    ]
    assert replace(row, plain=()).cells()[3:] == ["0.500 (0.250–0.750)", "–", "–", "80% of copy"]
    assert replace(row, ours=()).cells()[3:] == ["out of memory", "2.000", "–", "–"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_a_remedy():
    with pytest.raises(ValueError, match="run on a machine with an NVIDIA GPU"):
        measure("cuda")
