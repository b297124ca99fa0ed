"""How far results of kernels may be from exact ones."""

from collections.abc import Sequence

from torch import Tensor


def assert_near(got: Sequence[Tensor | None], want: Sequence[Tensor | None], bound: float):
    """Each is None where the other is, or relatively within the bound."""
    for have, exact in zip(got, want, strict=True):
        assert (have is None) == (exact is None)
        if have is not None and exact is not None:
            assert (have.double() - exact).norm() <= bound * exact.norm()
