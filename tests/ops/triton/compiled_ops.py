"""Run by test_compile.py in a process of its own: ops with Triton kernels are traced whole, and give what they give untraced."""

import torch
from torch import Tensor

from tandem.ops import SequenceLayout, blockwise_cross_entropy, causal_conv, rms_norm, routed_experts, swiglu

torch.manual_seed(0)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAYOUT = SequenceLayout.from_lengths([9, 1, 6], device=DEVICE)
assert LAYOUT.index_T is not None  # tables are made once a batch, outside: Python 3.11 locks them
CHOSEN = torch.rand(16, 4).topk(2).indices.to(DEVICE)
TARGETS = torch.randint(0, 32, (16,)).to(DEVICE)


def block(x_TC: Tensor, taps_CW: Tensor, weight_TK: Tensor, gate_up_EDF: Tensor, down_EFD: Tensor) -> Tensor:
    mixed_TC = causal_conv(x_TC, taps_CW, taps_CW[:, 0], LAYOUT, silu=True)
    normed_TC = rms_norm(mixed_TC, taps_CW[:, 1], 1e-5, groups=2, gate=x_TC)
    y_TC = routed_experts(swiglu(torch.cat([normed_TC, x_TC], dim=-1)), CHOSEN, weight_TK, gate_up_EDF, down_EFD)
    return blockwise_cross_entropy(y_TC, gate_up_EDF.reshape(32, -1)[:, :16], TARGETS, weight_TK[:, 0])


shapes = [(16, 16), (16, 3), (16, 2), (4, 16, 16), (4, 8, 16)]
leaves = [(torch.randn(shape) / 4).to(DEVICE, torch.bfloat16).requires_grad_() for shape in shapes]
outcomes = []
for function in (block, torch.compile(block, fullgraph=True, backend="aot_eager")):
    loss = function(*leaves)
    outcomes.append([loss, *torch.autograd.grad(loss, leaves)])
for have, want in zip(*outcomes, strict=True):
    torch.testing.assert_close(have, want, atol=1e-2, rtol=1e-2)
print("traced whole")
