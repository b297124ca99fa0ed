"""Grouped products and their gradients against one product an expert in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

kernels = pytest.importorskip("tandem.ops.triton.grouped", reason="needs Triton: pip install triton")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture(autouse=True)
def _scalars(monkeypatch: pytest.MonkeyPatch):
    """Lets the interpreter count a loop by a loaded number, which NumPy 2.4 takes for an array."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    patch_tensor = interpreter._patch_lang_tensor

    def patch(tensor, scope):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch)


def exact(x: Tensor, gate_up: Tensor, down: Tensor, counts: list[int], pull: Tensor) -> list[Tensor]:
    """Gate and up, hidden, the result, and the gradients of both, of x and of both matrices, in float64."""
    x, gate_up, down = (t.double().requires_grad_() for t in (x, gate_up, down))
    both = torch.cat([rows @ w for rows, w in zip(x.split(counts), gate_up, strict=True)])
    gate, up = both.chunk(2, dim=-1)
    hidden = F.silu(gate) * up
    y = torch.cat([rows @ w for rows, w in zip(hidden.split(counts), down, strict=True)])
    gradients = torch.autograd.grad(y, [both, x, gate_up, down], pull.double())
    return [both.detach(), hidden.detach(), y.detach(), *gradients]


def outcome(x: Tensor, gate_up: Tensor, down: Tensor, counts: list[int], pull: Tensor) -> list[Tensor]:
    ends = torch.tensor(counts, device=x.device).cumsum(0).int()
    both, hidden = kernels.gated_product(x, gate_up, ends)
    y = kernels.product(hidden, down, ends)
    d_both = kernels.gated_gradient(pull, down, both, ends)
    d_x = kernels.product_turned(d_both, gate_up, ends)
    d_gate_up, d_down = kernels.weight_gradient(x, d_both, ends), kernels.weight_gradient(hidden, pull, ends)
    return [both, hidden, y, d_both, d_x, d_gate_up, d_down]


def values(counts: list[int], D: int, width: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    torch.manual_seed(sum(counts))
    x, pull = (torch.randn(sum(counts), D) for _ in range(2))
    gate_up, down = torch.randn(len(counts), D, 2 * width) / D**0.5, torch.randn(len(counts), width, D) / width**0.5
    return tuple(t.to(device, dtype) for t in (x, gate_up, down, pull))


@settings(max_examples=5)
@given(counts=st.sampled_from([[5, 0, 70], [0, 33], [64, 64, 1], [130]]), D=st.sampled_from([64, 96]))
def test_equals_one_product_an_expert(counts: list[int], D: int, device: str):
    small = kernels.Tile(32, 64, 64, 4, 2)
    for name in ("PRODUCT", "GATED", "BACK", "WEIGHTS"):
        setattr(kernels, name, small)
    x, gate_up, down, pull = values(counts, D, 64, torch.float16, device)
    assert kernels.grouped_is_supported(x, gate_up)
    got = outcome(x, gate_up, down, counts, pull)
    for have, want in zip(got, exact(x, gate_up, down, counts, pull), strict=True):
        assert (have.double() - want).norm() <= 3e-3 * want.norm()
        assert not have[want.flatten(1).abs().sum(1) == 0].any() if want.ndim == 2 else True


@needs_gpu
@pytest.mark.parametrize(("counts", "D", "width"), [([1000, 0, 37, 2048, 1], 1024, 512), ([129] * 8, 256, 128)])
def test_bfloat16_on_a_gpu(counts: list[int], D: int, width: int):
    x, gate_up, down, pull = values(counts, D, width, torch.bfloat16, "cuda")
    runs = [outcome(x, gate_up, down, counts, pull) for _ in range(2)]
    for have, again, want in zip(*runs, exact(x, gate_up, down, counts, pull), strict=True):
        assert (have.double() - want).norm() <= 1e-2 * want.norm()
        assert torch.equal(have, again)
