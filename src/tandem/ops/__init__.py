"""Pure functions on tensors: the sequence layout, SSD scan, causal convolution, attention, memory
converter, experts, cross-entropy, rounding to small number formats.
"""

from tandem.ops.activations import ACTIVATIONS, GATED
from tandem.ops.adamw import AdamWPass, Gradients, Trained
from tandem.ops.attention import cached_attention, causal_attention, rotary
from tandem.ops.conv import causal_conv, causal_conv_reference, conv_halo, conv_step
from tandem.ops.cross_entropy import blockwise_cross_entropy
from tandem.ops.experts import (
    GroupedProduct,
    expert_rows,
    experts_reference,
    grouped_matmul,
    mixture,
    routed_experts,
    swiglu,
)
from tandem.ops.fastest import fastest_dtype
from tandem.ops.greatest import greatest
from tandem.ops.int8 import int8_copy, quantize_int8, round_to_int8
from tandem.ops.layout import FixedLayout, NotKeptError, SequenceLayout, Split
from tandem.ops.linear import linear
from tandem.ops.mamba_step import mamba_step, step_sizes
from tandem.ops.memory import convert_memory, convert_memory_direct
from tandem.ops.norm import add_rms_norm, rms_norm
from tandem.ops.quantize import ROUNDINGS, Grid, block_maxima, power_of_two, round_blocks, round_to_grid
from tandem.ops.routing import SOFTMAX, RoutingRule, route, route_weights
from tandem.ops.rows import move_rows
from tandem.ops.ssd import ssd_chunked, ssd_reference, ssd_step
from tandem.ops.step import StepProgram, StepUnsupportedError

__all__ = [
    "ACTIVATIONS",
    "GATED",
    "ROUNDINGS",
    "SOFTMAX",
    "AdamWPass",
    "FixedLayout",
    "Gradients",
    "Grid",
    "GroupedProduct",
    "NotKeptError",
    "RoutingRule",
    "SequenceLayout",
    "Split",
    "StepProgram",
    "StepUnsupportedError",
    "Trained",
    "add_rms_norm",
    "block_maxima",
    "blockwise_cross_entropy",
    "cached_attention",
    "causal_attention",
    "causal_conv",
    "causal_conv_reference",
    "conv_halo",
    "conv_step",
    "convert_memory",
    "convert_memory_direct",
    "expert_rows",
    "experts_reference",
    "fastest_dtype",
    "greatest",
    "grouped_matmul",
    "int8_copy",
    "linear",
    "mamba_step",
    "mixture",
    "move_rows",
    "power_of_two",
    "quantize_int8",
    "rms_norm",
    "rotary",
    "round_blocks",
    "round_to_grid",
    "round_to_int8",
    "route",
    "route_weights",
    "routed_experts",
    "ssd_chunked",
    "ssd_reference",
    "ssd_step",
    "step_sizes",
    "swiglu",
]
