"""The largest of each row against PyTorch's form."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.ops import greatest

kernels = pytest.importorskip("tandem.ops.triton.greatest", reason="needs Triton: pip install triton")


pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:All-NaN:RuntimeWarning")


@settings(max_examples=8)
@given(rows=st.integers(1, 3), columns=st.sampled_from([1, 7, 4096, 9000]), damage=st.sampled_from([0, "nan", "inf"]))
def test_equals_pytorch(rows: int, columns: int, damage: float | str, device: str):
    torch.manual_seed(columns)
    x = torch.randn(rows, columns).round(decimals=1).to(device)  # many are equal
    x[0, columns // 2] += float(damage)
    assert kernels.greatest(x).tolist() == greatest(x.double()).tolist()


def test_a_row_of_nothing(device: str):
    assert kernels.greatest(torch.full((1, 20), float("-inf"), device=device)).tolist() == [-1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("rows", [1, 32])
def test_bfloat16_on_a_gpu(rows: int):
    x = torch.randn(rows, 100_352, device="cuda").bfloat16()
    assert greatest(x).tolist() == greatest(x.double()).tolist()
