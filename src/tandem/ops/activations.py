"""What a feed-forward does between its two matrix products, by name.

Gated forms take gate and up stored side by side in the last dimension and give half of it; plain ones keep it.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from tandem.ops.experts import swiglu


def _gated(gate_up: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return act(gate) * up


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def geglu(gate_up: Tensor) -> Tensor:
    """gelu(gate) · up."""
    return _gated(gate_up, F.gelu)


def geglu_tanh(gate_up: Tensor) -> Tensor:
    """gelu(gate) · up, with the tanh approximation of GELU."""
    return _gated(gate_up, _gelu_tanh)


def reglu(gate_up: Tensor) -> Tensor:
    """relu(gate) · up."""
    return _gated(gate_up, F.relu)


def relu2(x: Tensor) -> Tensor:
    """relu(x)² (So et al. 2021, arXiv 2109.08668)."""
    return F.relu(x).square()


GATED: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": swiglu,
    "geglu": geglu,
    "geglu_tanh": geglu_tanh,
    "reglu": reglu,
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **GATED,
    "relu2": relu2,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": F.relu,
}
"""All activations; those in `GATED` halve the last dimension."""
