"""The ops that are timed, on their small shapes, and the arithmetic of a row."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from tandem.recipes.kernels import (
    Case,
    KernelRow,
    Work,
    _scan,
    cases,
    has_peer,
    mamba_ssm_scan,
    measure,
    relative_error,
)

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
    ours, none = ["0.500 (0.250–0.750)", "80% of copy"], ["–", "–"]
    assert row.cells() == ["conv, forward", "8 × 2", "1.2e-03", *ours, "2.000", "4.00", *none]
    assert replace(row, plain=(), peer=(1.0, 0.25, 3.0)).cells()[3:] == [*ours, *none, "1.000", "2.00"]
    assert replace(row, ours=()).cells()[3:] == ["out of memory", "–", "2.000", "–", *none]


@pytest.mark.skipif(not (torch.cuda.is_available() and has_peer()), reason="needs a CUDA GPU and mamba_ssm")
def test_mamba_ssm_is_asked_for_the_same():
    assert relative_error(partial(_scan, 4, 64, 128, 2, [256, 256]), "cuda", partial(mamba_ssm_scan, 2)) < 1e-2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_a_remedy():
    with pytest.raises(ValueError, match="run on a machine with an NVIDIA GPU"):
        measure("cuda")
