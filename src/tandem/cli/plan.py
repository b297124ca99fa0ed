"""`tandem plan`: what a model costs, before it is made."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from tandem.cli.arguments import parse_command
from tandem.cli.plan_precision import PlanPrecision, print_precision_plan
from tandem.hub import choose_device
from tandem.nn import ModelConfig
from tandem.plan import (
    FORMULAS,
    Flops,
    MeasuredCost,
    Memory,
    ParallelLayout,
    Parameters,
    TransPointCost,
    all_attention,
    counted_cost,
    crossing,
    flops,
    measure_transpoints,
    memory,
    named_schedules,
    paper_cost,
    parameters,
    readable_bytes,
    readable_count,
    state_figure,
    switching_layers,
    transpoints_figure,
)
from tandem.recipes.pretrain import read_model_config


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlanModel:
    """Parameters, FLOPs a token, decode state and training memory of a model, without allocating it."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Preset, a file with a model config in JSON, or a model directory or GGUF file, of which only the shape is read."""
    context: int | None = None
    """Tokens of a sequence; the model's own context by default."""
    out: Path = Path("plan.png")
    """Where the plot goes: decode state against context, beside the all-attention twin; or cost against TransPoint."""
    json: bool = False
    """Print JSON, all counts in units of one, instead of tables."""
    transpoints: bool = False
    """Plan instead where the TransMamba layers of a model should switch, by the paper's formula and by time measured here."""
    device: str = "auto"
    """Where --transpoints measures: auto, cpu, cuda or cuda:N."""
    seconds: float = 40
    """About how long --transpoints may measure; 0 for the formula alone."""
    parallel: ParallelLayout = dataclasses.field(default_factory=ParallelLayout)


def run(argv: Sequence[str]) -> None:
    """Parses `argv` (without the verb) and prints the plan it asks for."""
    options = parse_command(_COMMANDS, "tandem plan", "Weigh a model before it is made.", argv)
    if isinstance(options, PlanPrecision):
        print_precision_plan(options)
    else:
        plan_model(options)


_COMMANDS: dict[str, type[PlanModel] | type[PlanPrecision]] = {"model": PlanModel, "precision": PlanPrecision}


def plan_model(options: PlanModel) -> None:
    """Prints a model's plan and saves its plot.

    Raises:
        ValueError: an unknown preset, a file that is no config, a layout that does not fit, a context below 1,
            TransPoints of a model that has none.
    """
    config = read_model_config(options.model)
    context = config.context if options.context is None else options.context
    if context < 1:
        raise ValueError(f"--context={context} must be 1 or more")
    if options.transpoints:
        _plan_transpoints(options, config, context)
        return
    figure = state_figure(config, options.out, title=Path(options.model).stem, context=context)
    counts, work = parameters(config), flops(config, context=context)
    bytes_of = memory(config, options.parallel)
    if options.json:
        print(json.dumps(_plain(config, context, counts, work, bytes_of) | {"figure": str(figure)}, indent=2))
        return
    console = _console()
    console.print(f"[bold]{options.model}[/bold]: {len(config.layers)} layers, width {config.width}", highlight=False)
    console.print(_parameter_table(counts))
    console.print(_work_table(work, context))
    console.print(_decode_table(config, bytes_of, context))
    console.print(_training_table(bytes_of, options.parallel))
    console.print(f"spread: {_spread(options.parallel)}\nplot:   {figure}", highlight=False)


def _plain(config: ModelConfig, context: int, counts: Parameters, work: Flops, bytes_of: Memory) -> dict[str, Any]:
    twin = _twin_bytes(config, context)
    return {
        "config": config.to_dict(),
        "context": context,
        "parameters": {"total": counts.total, "active": counts.active, **dataclasses.asdict(counts)},
        "flops_per_token": {"training": work.training, "forward": work.forward, "by_kind": work.by_kind},
        "decode": {"sequence": bytes_of.sequence(context), "all_attention_twin": twin},
        "memory": dataclasses.asdict(bytes_of),
    }


def _twin_bytes(config: ModelConfig, context: int) -> int | None:
    return memory(all_attention(config)).sequence(context) if config.attention or config.transmamba else None


def _parameter_table(counts: Parameters) -> Table:
    table = Table(title="Parameters", title_justify="left")
    for heading in ("kind", "all", "active a token"):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    for kind, count in counts.by_kind.items():
        table.add_row(kind.replace("_", " "), readable_count(count), readable_count(counts.active_by_kind[kind]))
    table.add_section()
    table.add_row("total", readable_count(counts.total), readable_count(counts.active), style="bold")
    return table


def _work_table(work: Flops, context: int) -> Table:
    table = Table(title=f"FLOPs a token, in a sequence of {context:,}", title_justify="left")
    for heading in ("kind", "forward", "training", "formula of one layer, forward"):
        table.add_column(heading, justify="right" if heading in ("forward", "training") else "left")
    for kind, count in work.by_kind.items():
        table.add_row(kind, readable_count(count, "G"), readable_count(3 * count, "G"), FORMULAS[kind])
    table.add_section()
    table.add_row("total", readable_count(work.forward, "G"), readable_count(work.training, "G"), style="bold")
    return table


def _decode_table(config: ModelConfig, bytes_of: Memory, context: int) -> Table:
    table = Table("decode state", "bytes", title="Decoding, one sequence", title_justify="left", show_header=False)
    table.columns[1].justify = "right"
    table.add_row("keys and values, a token", readable_bytes(bytes_of.kv_per_token_at(0)))
    if bytes_of.kv_until:
        table.add_row(f"the same after {context:,} tokens", readable_bytes(bytes_of.kv_per_token_at(context)))
    table.add_row("recurrent states, float32", readable_bytes(bytes_of.ssm_per_sequence))
    table.add_row("convolution windows", readable_bytes(bytes_of.conv_per_sequence))
    table.add_section()
    table.add_row(f"a sequence of {context:,} tokens", readable_bytes(bytes_of.sequence(context)), style="bold")
    twin = _twin_bytes(config, context)
    if twin is not None:
        table.add_row("the same, every mixer attention", readable_bytes(twin))
        if {"M", "T"} & set(config.layers):
            table.add_row("smaller than that from", f"{crossing(config):,.0f} tokens on")
    return table


def _training_table(bytes_of: Memory, parallel: ParallelLayout) -> Table:
    device = "one device" if parallel.devices == 1 else f"the fullest of {parallel.devices:,} devices"
    table = Table(title=f"Training, {device}", title_justify="left", show_header=False)
    table.add_column("buffer")
    table.add_column("bytes", justify="right")
    for name in ("weights", "gradients", "optimizer", "activations"):
        table.add_row(name, readable_bytes(getattr(bytes_of, name)))
    table.add_section()
    table.add_row("together", readable_bytes(bytes_of.training), style="bold")
    return table


def _plan_transpoints(options: PlanModel, config: ModelConfig, context: int) -> None:
    formula, counted, measured = paper_cost(config, context), counted_cost(config, context), None
    if options.seconds:
        device = choose_device(options.device)
        measured = measure_transpoints(config, context=context, device=device, seconds=options.seconds)
    plan = _plain_transpoints(config, formula, counted, measured)
    title, points = Path(options.model).stem, config.transpoints
    figure = transpoints_figure(options.out, formula, counted, measured, title=title, transpoints=points)
    if options.json:
        print(json.dumps(plan | {"figure": str(figure)}, indent=2))
        return
    console = _console()
    console.print(_layer_table(config, context))
    console.print(_schedule_table(plan))
    console.print(_cost_table(plan))
    console.print(f"{_measured_where(measured)}plot: {figure}", highlight=False)


def _plain_transpoints(
    config: ModelConfig, formula: TransPointCost, counted: TransPointCost, measured: MeasuredCost | None
) -> dict[str, Any]:
    costs = {"formula": formula, "counted": counted} | ({"measured": measured.cost} if measured else {})
    own = config.transmamba.schedule if config.transmamba else ""
    name = f"this model ({own if isinstance(own, str) else 'its own'})"
    schedules = {name: config.transpoints, **named_schedules(formula.context)}
    return {
        "config": config.to_dict(),
        "context": formula.context,
        "layers": [dataclasses.asdict(layer) for layer in switching_layers(config, formula.context)],
        "schedules": {
            name: {
                "transpoints": points,
                "operations": formula.schedule(points),
                "to_attention": {kind: cost.schedule(points) / cost.attention for kind, cost in costs.items()},
            }
            for name, points in schedules.items()
        },
        "costs": {kind: _plain_cost(cost) for kind, cost in {"example": _EXAMPLE, **costs}.items()},
        "measurement": measured and dataclasses.asdict(measured) | _ranges(measured),
    }


_EXAMPLE = TransPointCost(width=4096, context=8192)
"""The paper's own example of its formula."""


def _plain_cost(cost: TransPointCost) -> dict[str, float]:
    return dataclasses.asdict(cost) | {
        "optimum": cost.optimum,
        "least": cost.least,
        "attention_to_least": cost.attention / cost.least,
        "mamba_to_least": cost.mamba / cost.least,
    }


def _ranges(measured: MeasuredCost) -> dict[str, tuple[float, float]]:
    """Least and greatest of the rounds."""
    names = ("speed", "optimum")
    found = {name: [getattr(cost, name) for cost in measured.in_rounds] for name in names}
    return {f"{name}_range": (min(values), max(values)) for name, values in found.items()}


def _layer_table(config: ModelConfig, context: int) -> Table:
    table = Table(title=f"TransMamba layers, a sequence of {context:,} tokens", title_justify="left")
    for heading in ("layer", "TransPoint", "operations F(P)", "keys and values until then", "state"):
        table.add_column(heading, justify="right")
    for layer in switching_layers(config, context):
        table.add_row(
            str(layer.layer),
            f"{layer.transpoint:,}" if layer.transpoint < context else f"{layer.transpoint:,} (never)",
            f"{layer.operations:.3e}",
            readable_bytes(layer.kv_bytes),
            readable_bytes(layer.state_bytes),
        )
    return table


def _schedule_table(plan: dict[str, Any]) -> Table:
    table = Table(title="Schedules: mean of their layers, and that ÷ pure attention", title_justify="left")
    table.add_column("schedule", no_wrap=True)
    table.add_column(f"TransPoints for {plan['context']:,} tokens")
    kinds = [kind for kind in _COSTS if kind in plan["costs"] and kind != "example"]
    for heading in ("F(P)", *(f"÷ A, {kind}" for kind in kinds)):
        table.add_column(heading, justify="right")
    for name, row in plan["schedules"].items():
        points = " ".join(map(str, row["transpoints"])) if len(row["transpoints"]) <= 8 else "as above"
        ratios = [f"{row['to_attention'][kind]:.3f}" for kind in kinds]
        table.add_row(name, points, f"{row['operations']:.3e}", *ratios)
    return table


_COSTS = {
    "example": "the paper's example",
    "formula": "the paper's formula",
    "counted": "operations counted",
    "measured": "time measured",
}


def _cost_table(plan: dict[str, Any]) -> Table:
    title = "Cost of a layer: P² N / c + (λ + κ) P N² + (T - P) N², least at P* = c (1 - λ - κ) N / 2"
    table = Table(title=title, title_justify="left")
    for heading in ("", "N", "T", "c", "λ", "κ", "P*", "A ÷ least", "M ÷ least"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for kind, cost in plan["costs"].items():
        table.add_row(
            _COSTS[kind],
            *(f"{cost[name]:,}" for name in ("width", "context")),
            *(f"{cost[name]:.3g}" for name in ("speed", "overhead", "conversion")),
            f"{cost['optimum']:,.0f}",
            *(f"{cost[name]:.3f}" for name in ("attention_to_least", "mamba_to_least")),
        )
    return table


def _measured_where(measured: MeasuredCost | None) -> str:
    if measured is None:
        return ""
    lengths = ", ".join(f"{n:,}" for n in measured.seconds["attention"])
    skipped = f"; too long here: {', '.join(f'{n:,}' for n in measured.skipped)}" if measured.skipped else ""
    (least, most), (first, last) = _ranges(measured).values()
    return (
        f"measured on {measured.where}, in {measured.dtype}, texts of {lengths} tokens{skipped}\n"
        f"in {len(measured.in_rounds)} rounds c was {least:.3g} to {most:.3g} and P* {first:,.0f} to {last:,.0f}; "
        "the paper's GPU had c = 2.67\n"
    )


def _console() -> Console:
    return Console(width=None if Console().is_terminal else 100)


def _spread(parallel: ParallelLayout) -> str:
    return ", ".join(f"{field.name} {getattr(parallel, field.name)}" for field in dataclasses.fields(parallel))
