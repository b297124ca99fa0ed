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
from tandem.nn import ModelConfig, preset
from tandem.plan import (
    FORMULAS,
    Flops,
    Memory,
    ParallelLayout,
    Parameters,
    all_attention,
    crossing,
    flops,
    memory,
    parameters,
    readable_bytes,
    state_figure,
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlanModel:
    """Parameters, FLOPs a token, decode state and training memory of a model, without allocating it."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Preset, or a file with a model config in JSON."""
    context: int | None = None
    """Tokens of a sequence; the model's own context by default."""
    out: Path = Path("plan.png")
    """Where the plot goes: decode state against context, beside the all-attention twin."""
    json: bool = False
    """Print JSON, all counts in units of one, instead of tables."""
    parallel: ParallelLayout = dataclasses.field(default_factory=ParallelLayout)


def run(argv: Sequence[str]) -> None:
    """Parses `argv` (without the verb) and prints the plan it asks for."""
    plan_model(parse_command({"model": PlanModel}, "tandem plan", "Weigh a model before it is made.", argv))


def plan_model(options: PlanModel) -> None:
    """Prints a model's plan and saves its plot.

    Raises:
        ValueError: an unknown preset, a file that is no config, a layout that does not fit, a context below 1.
    """
    config = _config(options.model)
    context = config.context if options.context is None else options.context
    if context < 1:
        raise ValueError(f"--context={context} must be 1 or more")
    figure = state_figure(config, options.out, title=Path(options.model).stem, context=context)
    counts, work = parameters(config), flops(config, context=context)
    bytes_of = memory(config, options.parallel)
    if options.json:
        print(json.dumps(_plain(config, context, counts, work, bytes_of) | {"figure": str(figure)}, indent=2))
        return
    console = Console(width=None if Console().is_terminal else 100)
    console.print(f"[bold]{options.model}[/bold]: {len(config.layers)} layers, width {config.width}", highlight=False)
    console.print(_parameter_table(counts))
    console.print(_work_table(work, context))
    console.print(_decode_table(config, bytes_of, context))
    console.print(_training_table(bytes_of, options.parallel))
    console.print(f"spread: {_spread(options.parallel)}\nplot:   {figure}", highlight=False)


def _config(name: str) -> ModelConfig:
    path = Path(name)
    if path.suffix != ".json":
        return preset(name)
    try:
        return ModelConfig.from_json(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"model={name} is not JSON: {error}; write one with ModelConfig.to_json()") from error


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
    return memory(all_attention(config)).sequence(context) if config.attention else None


def _parameter_table(counts: Parameters) -> Table:
    table = Table(title="Parameters", title_justify="left")
    for heading in ("kind", "all", "active a token"):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    for kind, count in counts.by_kind.items():
        table.add_row(kind.replace("_", " "), _count(count), _count(counts.active_by_kind[kind]))
    table.add_section()
    table.add_row("total", _count(counts.total), _count(counts.active), style="bold")
    return table


def _work_table(work: Flops, context: int) -> Table:
    table = Table(title=f"FLOPs a token, in a sequence of {context:,}", title_justify="left")
    for heading in ("kind", "forward", "training", "formula of one layer, forward"):
        table.add_column(heading, justify="right" if heading in ("forward", "training") else "left")
    for kind, count in work.by_kind.items():
        table.add_row(kind, _count(count, "G"), _count(3 * count, "G"), FORMULAS[kind])
    table.add_section()
    table.add_row("total", _count(work.forward, "G"), _count(work.training, "G"), style="bold")
    return table


def _decode_table(config: ModelConfig, bytes_of: Memory, context: int) -> Table:
    table = Table("decode state", "bytes", title="Decoding, one sequence", title_justify="left", show_header=False)
    table.columns[1].justify = "right"
    table.add_row("keys and values, a token", readable_bytes(bytes_of.kv_per_token))
    table.add_row("Mamba-2 states, float32", readable_bytes(bytes_of.ssm_per_sequence))
    table.add_row("convolution windows", readable_bytes(bytes_of.conv_per_sequence))
    table.add_section()
    table.add_row(f"a sequence of {context:,} tokens", readable_bytes(bytes_of.sequence(context)), style="bold")
    twin = _twin_bytes(config, context)
    if twin is not None:
        table.add_row("the same, every M replaced by A", readable_bytes(twin))
        if "M" in config.layers:
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


def _spread(parallel: ParallelLayout) -> str:
    return ", ".join(f"{field.name} {getattr(parallel, field.name)}" for field in dataclasses.fields(parallel))


def _count(number: float, billion: str = "B") -> str:
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, billion), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.2f}{letter}"
    return f"{number:.0f}"
