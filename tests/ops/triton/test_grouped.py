"""Grouped products and their gradients against one product an expert in float64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tandem.ops import routed_experts

kernels = pytest.importorskip("tandem.ops.triton.grouped", reason="needs Triton: pip install triton")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture(autouse=True)
def _scalars(monkeypatch: pytest.MonkeyPatch):
    """Lets the interpreter count a loop by a loaded number, which NumPy 2.4 takes for an array."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    patch_tensor = interpreter._patch_lang_tensor

    def patch(tensor: Any, scope: Any):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch)


def exact(x: Tensor, gate_up: Tensor, down: Tensor, counts: list[int], pull: Tensor) -> list[Tensor]:
    """Gate and up, hidden, the result, and the gradients of hidden and of x, in float64."""
    x, gate_up, down = (t.double().requires_grad_() for t in (x, gate_up, down))
    both = torch.cat([rows @ w for rows, w in zip(x.split(counts), gate_up, strict=True)])
    gate, up = both.chunk(2, dim=-1)
    hidden = F.silu(gate) * up
    y = torch.cat([rows @ w for rows, w in zip(hidden.split(counts), down, strict=True)])
    return [both.detach(), hidden.detach(), y.detach(), *torch.autograd.grad(y, [hidden, both], pull.double())]


def outcome(x: Tensor, gate_up: Tensor, down: Tensor, counts: list[int], pull: Tensor) -> list[Tensor]:
    ends = torch.tensor(counts, device=x.device).cumsum(0).int()
    both, hidden = kernels.gated_product(x, gate_up, ends, True)
    nothing, again = kernels.gated_product(x, gate_up, ends, False)
    assert torch.equal(again, hidden)
    assert nothing.numel() == 0
    d_hidden = kernels.product_turned(pull, down, ends)
    return [both, hidden, kernels.product(hidden, down, ends), d_hidden]


def values(counts: list[int], D: int, width: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    torch.manual_seed(sum(counts))
    x, pull = (torch.randn(sum(counts), D) for _ in range(2))
    gate_up, down = torch.randn(len(counts), D, 2 * width) / D**0.5, torch.randn(len(counts), width, D) / width**0.5
    return tuple(t.to(device, dtype) for t in (x, gate_up, down, pull))


@pytest.mark.parametrize(("counts", "D"), [([5, 0, 40], 96), ([0, 33], 64), ([32, 32, 1], 64)])
def test_equals_one_product_an_expert(counts: list[int], D: int, device: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("PRODUCT", "GATED"):
        monkeypatch.setattr(kernels, name, kernels.Tile(rows=32, columns=64, step=64, warps=4, stages=2))
    x, gate_up, down, pull = values(counts, D, 64, torch.float16, device)
    assert kernels.grouped_is_supported(x, gate_up)
    for have, want in zip(outcome(x, gate_up, down, counts, pull), exact(x, gate_up, down, counts, pull), strict=False):
        assert (have.double() - want).norm() <= 3e-3 * want.norm()


@pytest.mark.parametrize(("D", "width"), [(64, 64), (96, 72), (136, 48)])
def test_results_narrower_than_a_tile(D: int, width: int, device: str):
    counts = [5, 0, 40]
    x, gate_up, down, pull = values(counts, D, width, torch.float16, device)
    for have, want in zip(outcome(x, gate_up, down, counts, pull), exact(x, gate_up, down, counts, pull), strict=False):
        assert (have.double() - want).norm() <= 3e-3 * want.norm()


@needs_gpu
@pytest.mark.parametrize(
    ("counts", "D", "width"),
    [([1000, 0, 37, 2048, 1], 1024, 512), ([129] * 8, 256, 128), ([300, 0, 5], 64, 64), ([300, 0, 5], 96, 72)],
)
def test_bfloat16_on_a_gpu(counts: list[int], D: int, width: int):
    x, gate_up, down, pull = values(counts, D, width, torch.bfloat16, "cuda")
    runs = [outcome(x, gate_up, down, counts, pull) for _ in range(2)]
    for have, again, want in zip(*runs, exact(x, gate_up, down, counts, pull), strict=False):
        assert (have.double() - want).norm() <= 1e-2 * want.norm()
        assert torch.equal(have, again)


@needs_gpu
def test_experts_of_the_op_take_them_and_their_gradients_are_right():
    torch.manual_seed(0)
    expert_TK = torch.rand(700, 8, device="cuda").topk(2).indices
    shapes = [(700, 256), (8, 256, 256), (8, 128, 256)]
    leaves = [torch.randn(shape, device="cuda").bfloat16() / shape[-2] ** 0.5 for shape in shapes]
    weight_TK = torch.rand(700, 2, device="cuda")

    def gradients(dtype: torch.dtype) -> list[Tensor]:
        x, gate_up, down, weight = (leaf.to(dtype).requires_grad_() for leaf in (*leaves, weight_TK))
        weight = weight if dtype == torch.float64 else weight_TK.detach().requires_grad_()
        y = routed_experts(x, expert_TK, weight, gate_up, down)
        return [y.detach(), *torch.autograd.grad(y.double().square().sum(), [x, gate_up, down, weight])]

    for have, want in zip(gradients(torch.bfloat16), gradients(torch.float64), strict=True):
        assert (have.double() - want).norm() <= 2e-2 * want.norm()
