"""Block scales and rounding give the bits of PyTorch's form, for every rounding, format, shape and kind of number."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rounding_cases import E4M3, GRIDS, NARROW, SIZES, bits, every_number_of_sixteen_bits, numbers
from tandem.ops import ROUNDINGS, Grid, block_maxima, round_blocks
from tandem.ops.quantize import hash_keys
from tandem.ops.triton.support import without_triton

kernels = pytest.importorskip("tandem.ops.triton.quantize", reason="needs Triton: pip install triton")

pytestmark = pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")

BLOCKS = [(1, 1), (1, 16), (1, 3), (1, 9000), (5, 1), (16, 16), (9000, 1), (7, 300), (128, 128)]


def scales_of(maxima: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    multiplier = (grid.largest / maxima.clamp(min=1e-45)).clamp(max=2.0**126) * 1.37
    return multiplier, 1 / multiplier


def rounded(x: Tensor, block: tuple[int, int], grid: Grid, rounding: str, seed: int, dtype: torch.dtype) -> Tensor:
    scales = scales_of(kernels.block_maxima(x, *block), grid)
    return kernels.round_blocks(x, *block, *scales, *grid, ROUNDINGS.index(rounding), *hash_keys(seed), dtype)


def plain(x: Tensor, block: tuple[int, int], grid: Grid, rounding: str, seed: int, dtype: torch.dtype) -> Tensor:
    with without_triton(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("tandem.ops.quantize.kernels_for", lambda *_: None)
        scales = scales_of(block_maxima(x, block), grid)
        return round_blocks(x, block, scales, grid, rounding, seed=seed, dtype=dtype)


@settings(max_examples=15)
@given(
    grid=st.sampled_from(GRIDS),
    rounding=st.sampled_from(ROUNDINGS),
    formats=st.tuples(st.sampled_from(NARROW), st.sampled_from([*NARROW, torch.float16])),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.sampled_from([1, 5, 16, 100, 300])),
    block=st.sampled_from(BLOCKS),
    size=st.sampled_from(SIZES),
    seed=st.integers(0, 2**63 - 1),
)
def test_the_bits_are_those_of_the_pytorch_form(
    grid: Grid,
    rounding: str,
    formats: tuple[torch.dtype, torch.dtype],
    shape: tuple[int, int, int],
    block: tuple[int, int],
    size: float,
    seed: int,
    device: str,
):
    if device == "cpu":  # the interpreter takes subnormal numbers of bfloat16 for others, and rounds to it towards zero
        size, formats = max(size, 1e-38 if formats[0] == torch.float32 else 1e-3), (formats[0], torch.float32)
    x = numbers(shape, size, formats[0], seed).to(device)
    y, want = (of(x, block, grid, rounding, seed, formats[1]) for of in (rounded, plain))
    assert y.dtype == formats[1]
    assert torch.equal(bits(y), bits(want))


@pytest.mark.parametrize("shape", [(1, 2, 9001), (2, 9001, 2), (1, 140, 290)])
@pytest.mark.parametrize("block", [(1, 9001), (9001, 1), (1, 128), (128, 1), (128, 128)])
def test_blocks_of_several_tiles(shape: tuple[int, int, int], block: tuple[int, int], device: str):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    y, want = (of(x, block, E4M3, "nearest-even", 0, torch.float32) for of in (rounded, plain))
    assert torch.equal(bits(y), bits(want))


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_every_number_of_sixteen_bits(rounding: str, device: str):
    x = every_number_of_sixteen_bits().to(device)
    one, finite = torch.ones(1, 1, 1, device=device), ~x.isnan()
    for grid in GRIDS[::3]:
        form = (*grid, ROUNDINGS.index(rounding), 5, 7, torch.float32)
        y = kernels.round_blocks(x, 1, x.numel(), one, one, *form)
        with without_triton():
            want = round_blocks(x.float(), (1, x.numel()), (one, one), grid, rounding, seed=5 + (7 << 32))
        assert torch.equal(bits(y)[finite], bits(want)[finite])
        assert y[~finite].isnan().all()


def test_nothing_of_nothing(device: str):
    nothing, one = torch.empty(1, 0, 8, device=device), torch.ones(1, 0, 1, device=device)
    assert kernels.block_maxima(nothing, 1, 8).shape == (1, 0, 1)
    assert kernels.round_blocks(nothing, 1, 8, one, one, *GRIDS[0], 0, 0, 0, torch.float32).shape == nothing.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("block", [(1, 1), (1, 32), (1, 4096), (32, 1), (16384, 1), (128, 128)])
def test_a_large_tensor_on_a_gpu(block: tuple[int, int]):
    x = torch.randn(1, 16384, 4096, device="cuda").bfloat16()
    for rounding in ROUNDINGS:
        y, want = (of(x, block, E4M3, rounding, 2**40 + 3, torch.bfloat16) for of in (rounded, plain))
        assert torch.equal(bits(y), bits(want))
