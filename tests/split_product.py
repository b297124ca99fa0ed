"""One check of `SplitProduct` for the tests of both its forms."""

import torch

from tandem.ops.routing import SplitProduct


def product_in_parts_is_as_accurate_as_float32(device: str) -> None:
    """Results and the weight's gradient to float32, x's gradient to the bfloat16 it is rounded to; all against float64."""
    torch.manual_seed(0)
    x, weight = torch.randn(300, 96, device=device).bfloat16(), torch.randn(8, 96, device=device)
    pull = torch.randn(300, 8, device=device)
    leaves = [leaf.requires_grad_() for leaf in (x, weight)]
    logits = SplitProduct.apply(*leaves)
    d_x, d_weight = torch.autograd.grad(logits, leaves, pull)
    exact = x.detach().double() @ weight.detach().double().t()
    assert (logits.double() - exact).norm() <= 3e-7 * exact.norm()
    exact = pull.double().t() @ x.detach().double()
    assert (d_weight.double() - exact).norm() <= 3e-7 * exact.norm()
    assert (d_x.double() - pull.double() @ weight.detach().double()).norm() <= 3e-3 * d_x.norm().double()
