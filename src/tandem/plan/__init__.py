"""What a config costs before anything is allocated: parameters, FLOPs, bytes of decode state, memory of training."""

from tandem.plan.figure import readable_bytes, state_figure
from tandem.plan.flops import FORMULAS, Flops, flops
from tandem.plan.memory import Memory, crossing, memory
from tandem.plan.parallel import ParallelLayout
from tandem.plan.parameters import Parameters, parameters
from tandem.plan.twins import all_attention, all_mamba, equal_parameters, transmamba_twins

__all__ = [
    "FORMULAS",
    "Flops",
    "Memory",
    "ParallelLayout",
    "Parameters",
    "all_attention",
    "all_mamba",
    "crossing",
    "equal_parameters",
    "flops",
    "memory",
    "parameters",
    "readable_bytes",
    "state_figure",
    "transmamba_twins",
]
