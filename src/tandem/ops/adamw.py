"""AdamW over many tensors at once: one pass over memory for all of them, gradients as the backward pass made them.

Gradients may be bfloat16, as those of matrices are that were multiplied in it; a narrow copy of a parameter is written in the
same pass, so that no other reads float32 to cast it.

Shapes: N tensors, G groups of them, R ranges.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tandem.ops.triton.support import triton_for

RANGE = 8192
"""Elements of a tensor that are one piece of work."""


class Trained(NamedTuple):
    """A tensor that AdamW moves, contiguous and in float32.

    Attributes:
        mean, square: running means of the gradient and of its square; in float32, or those of all tensors in bfloat16.
        narrow: a copy in bfloat16 that follows the parameter, and to which its gradients belong; or None.
        group: which learning rate and decay it has.
    """

    parameter: Tensor
    mean: Tensor
    square: Tensor
    narrow: Tensor | None
    group: int


class AdamWPass:
    """The update p ← p (1 - lr·decay) - lr · (m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + ε) (Loshchilov & Hutter, 1711.05101).

    Raises:
        ValueError: a tensor is not contiguous float32, or a narrow one not contiguous bfloat16.
    """

    def __init__(self, tensors: Sequence[Trained], betas: tuple[float, float], eps: float) -> None:
        self.tensors, self.betas, self.eps = list(tensors), betas, eps
        for tensor in self.tensors:
            moments = (tensor.mean, tensor.square)
            fits = tensor.parameter.dtype == torch.float32 and {t.dtype for t in moments} == {
                self.tensors[0].mean.dtype
            }
            fits = fits and (tensor.narrow is None or tensor.narrow.dtype == torch.bfloat16)
            if not fits or not all(
                t.is_contiguous() for t in (tensor.parameter, *moments, tensor.narrow) if t is not None
            ):
                raise ValueError(
                    f"a tensor of shape {tuple(tensor.parameter.shape)} is not contiguous float32 with a bfloat16 copy; "
                    "train it with torch.optim.AdamW"
                )
        self.ranges_R2: Tensor | None = None  # made on first use

    def norm(self, gradients: "Gradients") -> Tensor:
        """The Euclidean norm of all gradients, a scalar in float32."""
        if gradients.table_N8 is not None:
            from tandem.ops.triton.adamw import gradient_norm

            return gradient_norm(gradients.table_N8, self._ranges())
        squares = [gradient.float().square().sum() for gradient in gradients.tensors if gradient is not None]
        return torch.stack(squares).sum().sqrt()

    @torch.no_grad()
    def step(self, gradients: "Gradients", rates_G2: Tensor, factor: float, count: int) -> None:
        """One update in place.

        Args:
            rates_G2: learning rate and weight decay of each group, float32 on the tensors' device.
            factor: what gradients are multiplied by, to clip them.
            count: t, how many updates there are with this one.
        """
        unbias = (1 - self.betas[0] ** count, 1 - self.betas[1] ** count)
        if gradients.table_N8 is not None:
            from tandem.ops.triton.adamw import update

            scalars = (factor, *self.betas, self.eps, *unbias)
            update(gradients.table_N8, self._ranges(), rates_G2, scalars, self.tensors[0].mean.dtype == torch.bfloat16)
            return
        for tensor, gradient in zip(self.tensors, gradients.tensors, strict=True):
            if gradient is not None:
                self._move(tensor, gradient.float() * factor, rates_G2[tensor.group], unbias)

    def _move(self, tensor: Trained, gradient: Tensor, rate: Tensor, unbias: tuple[float, float]) -> None:
        lr, decay = rate
        mean = torch.lerp(tensor.mean.float(), gradient, 1 - self.betas[0])
        square = (tensor.square.float() * self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
        size = (square / unbias[1]).sqrt_().add_(self.eps)
        tensor.parameter.mul_(1 - lr * decay).sub_(lr / unbias[0] * mean / size)
        tensor.mean.copy_(mean)
        tensor.square.copy_(square)
        if tensor.narrow is not None:
            tensor.narrow.copy_(tensor.parameter)

    def _ranges(self) -> Tensor:
        """Tensor and first element of each range, (R, 2)."""
        if self.ranges_R2 is None:
            sizes_N = torch.tensor([tensor.parameter.numel() for tensor in self.tensors])
            counts_N = (sizes_N + RANGE - 1) // RANGE
            tensor_R = torch.repeat_interleave(torch.arange(len(sizes_N)), counts_N)
            first_N = counts_N.cumsum(0) - counts_N
            start_R = (torch.arange(len(tensor_R)) - first_N[tensor_R]) * RANGE
            self.ranges_R2 = torch.stack([tensor_R, start_R], 1).to(self.tensors[0].parameter.device)
        return self.ranges_R2


class Gradients:
    """Where the gradients of an `AdamWPass` lie: they are read again at each step, so a CUDA graph may write them anew.

    Args:
        tensors: one a tensor, in its narrow copy's format if it has one, contiguous; None for one that is not moved.
    """

    def __init__(self, of: AdamWPass, tensors: Sequence[Tensor | None]) -> None:
        self.tensors = list(tensors)
        self.table_N8: Tensor | None = None
        if triton_for(*(t.parameter for t in of.tensors)):
            rows = [_row(tensor, gradient) for tensor, gradient in zip(of.tensors, self.tensors, strict=True)]
            self.table_N8 = torch.tensor(rows).to(of.tensors[0].parameter.device)


def _row(tensor: Trained, gradient: Tensor | None) -> list[int]:
    """What the kernels read of a tensor: addresses (0 for none), number of elements, group."""
    parts = (tensor.parameter, gradient, tensor.mean, tensor.square, tensor.narrow)
    if gradient is not None:
        like = tensor.parameter if tensor.narrow is None else tensor.narrow
        assert gradient.is_contiguous() and gradient.dtype == like.dtype and gradient.shape == like.shape  # noqa: PT018
    addresses = [0 if part is None else part.data_ptr() for part in parts]
    return [*addresses, tensor.parameter.numel(), tensor.group, 0]
