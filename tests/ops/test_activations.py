"""Activations by name against PyTorch's own."""

import torch
import torch.nn.functional as F

from tandem.ops import ACTIVATIONS, GATED


def test_gated_ones_are_an_activation_times_the_other_half():
    both = torch.randn(3, 10, dtype=torch.float64)
    gate, up = both.chunk(2, dim=-1)
    acts = {
        "swiglu": F.silu(gate),
        "geglu": F.gelu(gate),
        "geglu_tanh": F.gelu(gate, approximate="tanh"),
        "reglu": gate.relu(),
    }
    assert set(acts) == set(GATED)
    for name, act in acts.items():
        torch.testing.assert_close(GATED[name](both), act * up)


def test_plain_ones_keep_their_shape():
    x = torch.randn(3, 10, dtype=torch.float64)
    acts = {
        "relu2": x.clamp(min=0) ** 2,
        "silu": x * x.sigmoid(),
        "gelu": F.gelu(x),
        "gelu_tanh": F.gelu(x, approximate="tanh"),
        "relu": x.clamp(min=0),
    }
    assert set(acts) == set(ACTIVATIONS) - set(GATED)
    for name, act in acts.items():
        torch.testing.assert_close(ACTIVATIONS[name](x), act)
