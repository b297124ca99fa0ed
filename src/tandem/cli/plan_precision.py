"""`tandem plan precision`: which number format a training should take, and what it costs by the scaling law."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from tandem.plan import (
    BF16,
    COVERAGE,
    PRECISION_BLOCKS,
    RUN_BITS,
    BestBits,
    Choice,
    PrecisionPlan,
    block_words,
    outside_runs,
    plan_precision,
    precision_figure,
    readable_count,
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlanPrecision:
    """Formats and blocks for a training, the loss that each adds to BF16's, and the tokens past which more of them hurt."""

    params: float
    """Parameters of linear layers, without embeddings and norms, e.g. 7e9."""
    tokens: float
    """Tokens of the training, e.g. 2e12."""
    hardware: Literal["h100", "h200", "b200", "a100", "cpu"]
    """What multiplies."""
    block: tuple[int | str, ...] = PRECISION_BLOCKS
    """How many numbers share a scale: any of 2 and more, or channel."""
    out: Annotated[Path, tyro.conf.arg(aliases=["--plot"])] = Path("precision.png")
    """Where the plot goes: added loss against bits, critical tokens against parameters."""
    json: bool = False
    """Print JSON, all counts in units of one, instead of tables."""


def print_precision_plan(options: PlanPrecision) -> None:
    """Prints a plan and saves its plot.

    Raises:
        ValueError: as `tandem.plan.plan_precision`.
    """
    plan = plan_precision(N=options.params, D=options.tokens, hardware=options.hardware, blocks=options.block)
    figure = precision_figure(plan, options.out)
    if options.json:
        print(json.dumps(_plain(plan) | {"figure": str(figure)}, indent=2))
        return
    console = Console(width=None if Console().is_terminal else 100)
    console.print(_advice(plan), highlight=False)
    if any(choice.native for choice in plan.choices):
        console.print(_native_table(plan))
    console.print(_loss_table(plan))
    console.print(_critical_table(plan))
    console.print(_bits_table(plan))
    console.print("\n".join([*_notes(plan), f"plot: {figure}"]), highlight=False)


def _plain(plan: PrecisionPlan) -> dict[str, Any]:
    choices = [dataclasses.asdict(choice) | {"cost": choice.cost} for choice in plan.choices]
    best = plan.best and dataclasses.asdict(plan.best) | {"cost": plan.best.cost}
    bits = [dataclasses.asdict(bits) | {"outside": bits.outside} for bits in plan.bits]
    return dataclasses.asdict(plan) | {"choices": choices, "best": best, "bits": bits, "coverage": COVERAGE}


def _advice(plan: PrecisionPlan) -> str:
    N, D, best = readable_count(plan.N), readable_count(plan.D), plan.best
    training = f"{N} parameters, {D} tokens: {plan.bf16_loss:.4f} nats a token in BF16\n"
    if best is None or best.native is None:
        return f"{training}[bold]advice: BF16[/bold], as nothing else that {plan.hardware} multiplies costs less for the same loss"
    return (
        f"{training}[bold]advice: {best.native.format}, {best.native.scale} scales for {block_words(best.block)}[/bold]\n"
        f"  {best.added:+.2g} nats a token over BF16, and more tokens than {readable_count(best.critical_tokens)} would raise the loss\n"
        f"  BF16's own loss takes {best.growth:.3f} times the parameters and {best.cost:.3f} times the time, at peak"
    )


def _native_table(plan: PrecisionPlan) -> Table:
    title = f"What {plan.hardware} multiplies; parameters and time for BF16's loss, BF16's own being 1"
    table = Table(title=title, title_justify="left")
    headings = ("format", "block", "scale", "loss", "critical tokens", "parameters", "speed", "time")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in headings[:3] else "right")
    for choice in plan.choices:
        if choice.native:
            table.add_row(
                choice.native.format,
                f"{choice.block}{_star(choice.outside)}",
                choice.native.scale,
                f"{choice.added:+.2g}",
                _critical(choice, plan),
                f"{choice.growth:.3f}",
                f"{choice.native.speed:g}",
                f"{choice.cost:.3f}",
            )
    return table


def _loss_table(plan: PrecisionPlan) -> Table:
    rows = [row for row in _rows(plan) if row[0].format != BF16]
    return _format_table(plan, rows, "Loss over BF16, nats a token", lambda choice: f"{choice.added:.2g}")


def _critical_table(plan: PrecisionPlan) -> Table:
    title = "Critical tokens, past which more raise the loss; ! where this training is past them"
    return _format_table(plan, _rows(plan), title, lambda choice: _critical(choice, plan))


def _rows(plan: PrecisionPlan) -> list[list[Choice]]:
    return [list(row) for _, row in itertools.groupby(plan.choices, key=lambda choice: choice.format)]


def _format_table(plan: PrecisionPlan, rows: list[list[Choice]], title: str, cell: Callable[[Choice], str]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("format", "bits", f"on {plan.hardware}"):
        table.add_column(heading, justify="right" if heading == "bits" else "left")
    for choice in rows[0]:
        table.add_column(f"{choice.block}{_star(choice.outside)}", justify="right")
    for row in rows:
        first = row[0]
        bits = f"{first.bits}{_star(first.bits > RUN_BITS[1])}"
        table.add_row(first.format, bits, _where(row), *map(cell, row))
    return table


def _where(row: list[Choice]) -> str:
    if row[0].format == BF16:
        return "BF16"
    blocks = ", ".join(str(choice.block) for choice in row if choice.native)
    return f"native: {blocks}" if blocks else "emulated"


def _bits_table(plan: PrecisionPlan) -> Table:
    table = Table(title="Bits that make most of a budget, C = (6/16) P N D", title_justify="left")
    table.add_column("block")
    for heading in ("D given", "best format", "N given, C = 6 N D", "C = 6 N D", "with parameters", "and tokens"):
        table.add_column(heading, justify="right")
    for bits in plan.bits:
        free = _star(bool(outside_runs(bits.free.N, bits.free.D)))
        table.add_row(
            str(bits.block),
            _bits(bits, "tokens", bits.fixed_tokens),
            bits.format,
            _bits(bits, "parameters", bits.fixed_parameters),
            _bits(bits, "free", bits.free.bits),
            f"{readable_count(bits.free.N)}{free}",
            f"{readable_count(bits.free.D)}{free}",
        )
    return table


def _notes(plan: PrecisionPlan) -> list[str]:
    notes = [*plan.outside, "* marks what else is none of the law's runs"]
    notes += [f"{plan.hardware} multiplies {format} too, which the law does not cover" for format in plan.uncovered]
    if any(choice.native and choice.native.scale != "float32" for choice in plan.choices):
        notes.append("scales in e8m0 and e4m3 are coarser than the law's float32, and lose more")
    return [*notes, COVERAGE]


def _critical(choice: Choice, plan: PrecisionPlan) -> str:
    return f"{readable_count(choice.critical_tokens)}{'!' if choice.critical_tokens < plan.D else ''}"


def _bits(bits: BestBits, name: str, value: float) -> str:
    return f"{value:.2f}{_star(name in bits.outside)}"


def _star(outside: bool) -> str:
    return "*" if outside else ""
