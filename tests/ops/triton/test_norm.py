"""The norm kernels against their definition in float64."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.ops import add_rms_norm, rms_norm

kernels = pytest.importorskip("tandem.ops.triton.norm", reason="needs Triton: pip install triton")


def exact(x: Tensor, weight: Tensor, gate: Tensor | None, groups: int) -> list[Tensor]:
    """y and the gradients of what is given, in float64."""
    wide = [None if t is None else t.detach().double().requires_grad_() for t in (x, weight, gate)]
    u = wide[0] if gate is None else wide[0] * F.silu(wide[2])
    parts = u.unflatten(-1, (groups, -1))
    y = (parts / (parts.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(-2) * wide[1]
    return [y.detach(), *torch.autograd.grad(y.sin().sum(), [t for t in wide if t is not None])]


def outcome(
    norm: Callable[..., Tensor], x: Tensor, weight: Tensor, gate: Tensor | None, groups: int, dtype: torch.dtype
) -> list[Tensor]:
    leaves = [None if t is None else t.detach().requires_grad_() for t in (x, weight, gate)]
    y = norm(leaves[0], leaves[1], 1e-5, groups, leaves[2], dtype)
    assert y.dtype == dtype
    return [y.detach(), *torch.autograd.grad(y.float().sin().sum(), [leaf for leaf in leaves if leaf is not None])]


@settings(max_examples=6)
@given(
    rows=st.sampled_from([1, 5, 300]),
    groups=st.sampled_from([1, 2, 3]),
    width=st.sampled_from([1, 20, 64]),
    gated=st.booleans(),
)
def test_equals_its_definition(rows: int, groups: int, width: int, gated: bool, device: str):
    torch.manual_seed(rows)
    both = torch.randn(rows, 2, groups * width).to(device)  # rows that lie apart
    given = (both[:, 0], torch.randn(groups * width).to(device), both[:, 1] if gated else None)
    for have, want in zip(outcome(kernels.norm, *given, groups, torch.float32), exact(*given, groups), strict=True):
        torch.testing.assert_close(have.double(), want, atol=5e-5, rtol=5e-5)


def summed(norm: Callable[..., tuple[Tensor, Tensor]], leaves: list[Tensor], uses_sum: bool) -> list[Tensor]:
    """x + y / 2, its norm and the gradients of x, y and the weight."""
    x, y, weight = leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    total, normed = norm(x, y, 0.5, weight)
    loss = normed.to(x.dtype).sin().sum() + ((total * total).sum() if uses_sum else 0)
    return [total.detach(), normed.detach(), *torch.autograd.grad(loss, leaves)]


@settings(max_examples=6)
@given(rows=st.sampled_from([1, 5, 300]), width=st.sampled_from([1, 20, 64]), uses_sum=st.booleans())
def test_the_norm_of_a_sum_equals_its_definition(rows: int, width: int, uses_sum: bool, device: str):
    def plain(x: Tensor, y: Tensor, scale: float, weight: Tensor) -> tuple[Tensor, Tensor]:
        total = x + scale * y
        return total, total / (total.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    torch.manual_seed(rows)
    leaves = [torch.randn(rows, width, device=device) for _ in range(2)] + [torch.randn(width, device=device)]
    with_kernels = summed(lambda *a: add_rms_norm(*a, 1e-5, torch.float32), leaves, uses_sum)
    wanted = summed(plain, [leaf.double() for leaf in leaves], uses_sum)
    for have, want in zip(with_kernels, wanted, strict=True):
        torch.testing.assert_close(have.double(), want, atol=5e-5, rtol=5e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_norm_of_a_sum_in_mixed_formats_on_a_gpu():
    torch.manual_seed(0)
    x, y, weight = torch.randn(4097, 1024).cuda(), torch.randn(4097, 1024).cuda().bfloat16(), torch.randn(1024).cuda()
    runs = [summed(lambda *a: add_rms_norm(*a, 1e-5, torch.bfloat16), [x, y, weight], True) for _ in range(2)]
    wide = [x.double(), y.double(), weight.double()]
    wanted = summed(lambda *a: add_rms_norm(*a, 1e-5, torch.float64), wide, True)
    for have, again, want in zip(*runs, wanted, strict=True):
        assert (have.double() - want).norm() <= 1e-2 * want.norm()
        assert torch.equal(have, again)


def test_takes_any_leading_shape_and_rounds_once(device: str):
    torch.manual_seed(0)
    x, weight = torch.randn(3, 5, 32).to(device), torch.randn(32).to(device)
    got = kernels.norm(x, weight, 1e-5, 2, None, torch.float16)  # the interpreter cuts bfloat16 off
    torch.testing.assert_close(got.double(), exact(x, weight, None, 2)[0], atol=1e-6, rtol=2**-11)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(("rows", "width", "groups", "gated"), [(8192, 4096, 8, True), (4097, 1024, 1, False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_on_a_gpu(rows: int, width: int, groups: int, gated: bool, dtype: torch.dtype):
    torch.manual_seed(0)
    x, gate = torch.randn(rows, width, device="cuda").to(dtype), torch.randn(rows, 3 * width, device="cuda").bfloat16()
    given = (x, torch.randn(width, device="cuda"), gate[:, width : 2 * width] if gated else None, groups)

    def public(x: Tensor, weight: Tensor, eps: float, groups: int, gate: Tensor | None, dtype: torch.dtype) -> Tensor:
        return rms_norm(x, weight, eps, groups=groups, gate=gate, dtype=dtype)

    first, second = (outcome(public, *given, torch.bfloat16) for _ in range(2))
    for one, other, want in zip(first, second, exact(*given), strict=True):
        assert torch.equal(one, other)
        assert float((one - want).norm() / want.norm()) < 1e-2
