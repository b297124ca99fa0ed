"""What all layers are made of: a linear map that follows its input's dtype, RMSNorm, and the float32 island.

Shapes: T tokens, D width.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tandem.ops import StepProgram, add_rms_norm, linear, rms_norm, round_to_int8


class Linear(nn.Linear):
    """y = x Wᵀ (+ b); parameters are cast to x's dtype, so they may stay float32 under bf16 arithmetic."""

    def __init__(self, width_in: int, width_out: int, bias: bool = False) -> None:
        super().__init__(width_in, width_out, bias)

    def reset_parameters(self) -> None:
        """Leaves the parameters empty: a model draws them with `init_weights`, once and in its own order."""

    def init_weights(self, scale: float = 1.0) -> None:
        """Normal with standard deviation scale / sqrt(inputs); a bias of zeros."""
        nn.init.normal_(self.weight, std=scale / self.weight.shape[1] ** 0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Maps the last dimension."""
        return linear(input, self.weight, self.bias)

    def round_to_int8(self) -> None:
        """Rounds the matrix in place."""
        round_to_int8(self.weight)

    def record(self, program: StepProgram, x_SD: Tensor) -> Tensor:
        """Writes `forward` down as part of a decode step."""
        return program.linear(x_SD, self.weight, self.bias)


def is_bare(*maps: nn.Module) -> bool:
    """Whether each is our `Linear` itself, whose weight may be read; one that was wrapped (LoRA) has to be called."""
    return all(type(linear_map) is Linear for linear_map in maps)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight, over the last dimension or `groups` equal parts of it."""

    def __init__(self, width: int, eps: float, groups: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps
        self.groups = groups

    def forward(self, x: Tensor, gate: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Normalizes x, or x · silu(gate); the result has `dtype`, else x's."""
        return rms_norm(x, self.weight, self.eps, groups=self.groups, gate=gate, dtype=dtype)

    def of_sum(self, x_TD: Tensor, y_TD: Tensor | None, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The sum x + scale · y, or x when there is no y yet, and its norm in `dtype`."""
        if y_TD is None:
            return x_TD, self(x_TD, dtype=dtype)
        return add_rms_norm(x_TD, y_TD, scale, self.weight, self.eps, dtype)

    def record(self, program: StepProgram, x_SD: Tensor, gain: float = 1.0) -> Tensor:
        """Writes `forward` without gate, times `gain`, down as part of a decode step."""
        return program.norm(x_SD, self.weight, self.eps, gain, self.groups)


class Float32Island(nn.Module):
    """Parameters that no cast takes below float32: `.bfloat16()`, `.half()` and sharding policies leave them alone.

    Decay rates, step biases and routers act through exponentials and comparisons; rounded to bf16 they change how long a
    state remembers and which expert is chosen. `.double()` widens them.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Float32Island":
        def keep(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            narrowed = result.is_floating_point() and result.dtype.itemsize < 4
            return tensor.to(result.device) if narrowed else result

        return super()._apply(keep, recurse)  # pyright: ignore[reportReturnType]
