"""What a config costs before anything is allocated: parameters, FLOPs, bytes of decode state, memory of training, loss of a format."""

from tandem.plan.figure import precision_figure, readable_bytes, state_figure, transpoints_figure
from tandem.plan.flops import FORMULAS, Flops, flops
from tandem.plan.memory import Memory, crossing, memory
from tandem.plan.parallel import ParallelLayout
from tandem.plan.parameters import Parameters, parameters, readable_count
from tandem.plan.precision import (
    BF16,
    COVERAGE,
    HARDWARE,
    PRECISION_BLOCKS,
    RUN_BITS,
    BestBits,
    Choice,
    Native,
    PrecisionPlan,
    block_words,
    outside_runs,
    parameter_growth,
    plan_precision,
)
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
    "BF16",
    "COVERAGE",
    "FORMULAS",
    "HARDWARE",
    "PRECISION_BLOCKS",
    "RUN_BITS",
    "BestBits",
    "Choice",
    "Flops",
    "MeasuredCost",
    "Memory",
    "Native",
    "ParallelLayout",
    "Parameters",
    "PrecisionPlan",
    "SwitchingLayer",
    "TransPointCost",
    "all_attention",
    "all_mamba",
    "block_words",
    "counted_cost",
    "crossing",
    "equal_parameters",
    "flops",
    "measure_transpoints",
    "memory",
    "named_schedules",
    "outside_runs",
    "paper_cost",
    "parameter_growth",
    "parameters",
    "plan_precision",
    "precision_figure",
    "readable_bytes",
    "readable_count",
    "state_figure",
    "switching_layers",
    "transmamba_twins",
    "transpoints_figure",
]
