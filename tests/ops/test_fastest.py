"""A GPU has bfloat16; a CPU has it or not."""

import pytest
import torch

from tandem.ops import fastest_dtype


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bfloat16_where_it_is_native(native: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert fastest_dtype() == dtype
    assert fastest_dtype("cuda") == torch.bfloat16
