"""The packed convolution equals one document and one tap at a time, with and without a halo, forward and backward."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.ops import SequenceLayout, causal_conv, causal_conv_reference, conv_halo, conv_step


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    taps=st.integers(2, 5),
    with_halo=st.booleans(),
)
def test_equals_the_reference_forward_and_backward(lengths: list[int], taps: int, with_halo: bool):
    torch.manual_seed(0)
    layout = SequenceLayout.from_lengths(lengths)
    values = [torch.randn(sum(lengths), 6), torch.randn(6, taps), torch.randn(6)]
    if with_halo:
        values.append(torch.randn(len(lengths), taps - 1, 6))
    gradients = []
    for conv in (causal_conv_reference, causal_conv):
        x, w, b, *halo = leaves = [value.double().requires_grad_() for value in values]
        y = conv(x, w, b, layout, *halo)
        y.sin().sum().backward()
        gradients.append([y, *(leaf.grad for leaf in leaves)])
    for want, got in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want, atol=1e-10, rtol=1e-10)


def test_halo_carries_a_document_over_calls_shorter_than_the_taps():
    torch.manual_seed(0)
    x, w, b = torch.randn(9, 3), torch.randn(3, 4), torch.randn(3)
    whole = causal_conv(x, w, b, SequenceLayout.from_lengths([9]))
    halo, pieces, first = torch.zeros(1, 3, 3), [], 0
    for length in (1, 2, 4):
        layout, rows = SequenceLayout.from_lengths([length]), x[first : first + length]
        pieces.append(causal_conv(rows, w, b, layout, halo))
        halo, first = conv_halo(rows, layout, halo), first + length
    pieces += [conv_step(x[t : t + 1], w, b, halo) for t in range(first, 9)]
    torch.testing.assert_close(torch.cat(pieces), whole)
