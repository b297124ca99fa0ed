"""Pure functions on tensors: the sequence layout, SSD scan, causal convolution, attention and grouped experts."""

from tandem.ops.layout import SequenceLayout

__all__ = ["SequenceLayout"]
