"""What a config costs before anything is allocated: parameters, FLOPs, bytes of decode state, memory of training."""

from tandem.plan.figure import readable_bytes, state_figure
from tandem.plan.flops import FORMULAS, Flops, flops
from tandem.plan.memory import Memory, all_attention, crossing, memory
from tandem.plan.parallel import ParallelLayout
from tandem.plan.parameters import Parameters, parameters

__all__ = [
    "FORMULAS",
    "Flops",
    "Memory",
    "ParallelLayout",
    "Parameters",
    "all_attention",
    "crossing",
    "flops",
    "memory",
    "parameters",
    "readable_bytes",
    "state_figure",
]
