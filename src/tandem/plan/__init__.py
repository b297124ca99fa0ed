"""What a config costs before anything is allocated: parameters, FLOPs, bytes of decode state, memory of training."""

from tandem.plan.figure import readable_bytes, state_figure, transpoints_figure
from tandem.plan.flops import FORMULAS, Flops, flops
from tandem.plan.memory import Memory, crossing, memory
from tandem.plan.parallel import ParallelLayout
from tandem.plan.parameters import Parameters, parameters
from tandem.plan.timing import MeasuredCost, measure_transpoints
from tandem.plan.transpoints import (
    SwitchingLayer,
    TransPointCost,
    counted_cost,
    named_schedules,
    paper_cost,
    switching_layers,
)
from tandem.plan.twins import all_attention, all_mamba, equal_parameters, transmamba_twins

__all__ = [
    "FORMULAS",
    "Flops",
    "MeasuredCost",
    "Memory",
    "ParallelLayout",
    "Parameters",
    "SwitchingLayer",
    "TransPointCost",
    "all_attention",
    "all_mamba",
    "counted_cost",
    "crossing",
    "equal_parameters",
    "flops",
    "measure_transpoints",
    "memory",
    "named_schedules",
    "paper_cost",
    "parameters",
    "readable_bytes",
    "state_figure",
    "switching_layers",
    "transmamba_twins",
    "transpoints_figure",
]
