"""What `tandem recipe transmamba` writes: one file of numbers, tables for the docs, and a picture. Start at `write_results`."""

import dataclasses
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tandem.nn import ModelConfig
from tandem.plan import flops, parameters
from tandem.recipes.comparison import Runs, command_of, last_validation, machine, mean_range, rows_of, write_files
from tandem.recipes.retrieval import Results, band_by_length, by_length, table_rows
from tandem.recipes.transmamba_speed import Speeds, model_for
from tandem.report import png, study_figure

if TYPE_CHECKING:
    from tandem.recipes.transmamba import TransMambaRecipeConfig

TASK = "phone-book"
_NUMBERS = (
    "model",
    "schedules",
    "changes",
    "seeds",
    "steps",
    "batch_tokens",
    "context",
    "lr",
    "books",
    "adapt",
    "samples",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """All that was measured; lists are by seed.

    Attributes:
        runs: trainings of each model.
        adapted: short trainings of the first schedule's weights, by the schedule they were trained with.
        unadapted: validations of those weights with that schedule before any step.
        retrieval, retrieval_adapted, retrieval_unadapted: results files of all of them.
        speeds: length of a text -> model -> tokens a second in each round.
    """

    runs: Runs
    adapted: Runs
    unadapted: Mapping[str, Sequence[Mapping[str, Any]]]
    retrieval: Results
    retrieval_adapted: Results
    retrieval_unadapted: Results
    speeds: Mapping[int, Speeds]


def write_results(
    config: "TransMambaRecipeConfig", models: Mapping[str, ModelConfig], measured: Measured, device: torch.device
) -> None:
    """Writes transmamba.json, transmamba.md and transmamba.png into the run directory."""
    results = {
        "models": {name: _model(name, model, measured) for name, model in models.items()},
        "speeds": {length: _speeds(models, speeds, length) for length, speeds in measured.speeds.items()},
        "changes": {schedule: _change(schedule, measured) for schedule in measured.adapted},
        "retrieval": measured.retrieval,
        "tokens": config.steps * config.batch_tokens,
        "seeds": config.seeds,
        "precision": next(iter(measured.runs.values()))[0].train.precision,
        "machine": machine(device),
        "command": command_of("transmamba", config, _NUMBERS),
        "settings": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
    }
    files = {
        "transmamba.json": json.dumps(results, indent=1).encode(),
        "transmamba.md": _tables(config, results).encode(),
        "transmamba.png": png(_figure(results, measured)),
    }
    write_files(config.run_dir, files)


def _model(name: str, model: ModelConfig, measured: Measured) -> dict[str, Any]:
    rows = [last_validation(run) for run in measured.runs[name]]
    return {
        "pattern": "".join(model.layers),
        "architecture": model.to_dict(),
        "transpoints": list(model.transpoints),
        "total_parameters": parameters(model).total,
        "loss": [row["loss"] for row in rows],
        "bits_per_byte": [row["bits_per_byte"] for row in rows],
    }


def _speeds(models: Mapping[str, ModelConfig], speeds: Speeds, length: int) -> dict[str, Any]:
    """Times are those of a token, as shares of the first model's in the same round: lowest, median, highest."""
    base = next(iter(speeds.values()))
    of: dict[str, Any] = {}
    for name, values in speeds.items():
        ratios = [first / own for own, first in zip(values, base, strict=True)]
        of[name] = {
            "tokens_per_second": list(values),
            "tokens_per_second_median": statistics.median(values),
            "time_relative": [min(ratios), statistics.median(ratios), max(ratios)],
            "training_flops_per_token": flops(model_for(models[name], length), context=length).training,
        }
    return of


def _change(schedule: str, measured: Measured) -> dict[str, Any]:
    after = [last_validation(run) for run in measured.adapted[schedule]]
    return {
        name: {
            "bits_per_byte": [row["bits_per_byte"] for row in rows],
            "exact": next(iter(by_length(files[schedule], TASK, "exact", "metrics").values())),
            "margin": next(iter(by_length(files[schedule], TASK, "margin", "metrics").values())),
        }
        for name, rows, files in (
            ("before", measured.unadapted[schedule], measured.retrieval_unadapted),
            ("after", after, measured.retrieval_adapted),
        )
    }


def _figure(results: Mapping[str, Any], measured: Measured) -> Any:
    models, speeds = results["models"], results["speeds"]
    at_training = next(iter(speeds.values()))
    guess = by_length(next(iter(measured.retrieval.values()))[:1], TASK, "exact", "guess")
    return study_figure(
        curves={name: [rows_of(run, "train") for run in runs] for name, runs in measured.runs.items()},
        tokens_per_second={name: row["tokens_per_second_median"] for name, row in at_training.items()},
        bits_per_byte={name: row["bits_per_byte"] for name, row in models.items()},
        times={name: {length: _band(of[name]["time_relative"]) for length, of in speeds.items()} for name in models},
        found={name: band_by_length(files, TASK, "exact") for name, files in measured.retrieval.items()},
        guess={length: values[0] for length, values in guess.items()},
        changes={
            name: (change["before"]["bits_per_byte"], change["after"]["bits_per_byte"])
            for name, change in results["changes"].items()
        },
    )


def _band(low_middle_high: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = low_middle_high
    return middle, low, high


def _tables(config: "TransMambaRecipeConfig", results: Mapping[str, Any]) -> str:
    seeds = f"{results['seeds']} seed{'s' * (results['seeds'] > 1)}"
    parts = [
        [
            f"| model | layers | TransPoints | parameters | loss, {seeds} | bits per byte |",
            "|---|---|---|---|---|---|",
            *(_model_line(name, row) for name, row in results["models"].items()),
        ],
        list(_speed_lines(results["speeds"])),
        [
            "| task | tokens | model | exact | choice | margin | logp |",
            f"|---|---|---|{'---|' * 4}",
            *table_rows(results["retrieval"], TASK),
        ],
        [
            f"| {config.schedules[0]} run as | bits per byte before | after | exact before | after | margin before | after |",
            f"|---|{'---|' * 6}",
            *(_change_line(name, change) for name, change in results["changes"].items()),
        ],
        [_note(config, results)],
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _note(config: "TransMambaRecipeConfig", results: Mapping[str, Any]) -> str:
    return (
        f"{results['tokens']:,} tokens each, {config.books:.0%} of them phone books, {results['precision']}. Mean "
        f"(lowest–highest) over seeds. Time of a training step as a share of the {next(iter(results['models']))}'s: median "
        f"(range) over {config.rounds} interleaved rounds. {config.samples} questions at each length to each training. "
        f"After: {config.adapt:.0%} of the steps with that schedule. {results['machine']}. `{results['command']}`"
    )


def _model_line(name: str, row: Mapping[str, Any]) -> str:
    points = ", ".join(map(str, row["transpoints"])) or "–"
    return (
        f"| {name} | `{row['pattern']}` | {points} | {row['total_parameters'] / 1e6:.2f}M | "
        f"{mean_range(row['loss'], '.3f')} | {mean_range(row['bits_per_byte'], '.3f')} |"
    )


def _speed_lines(speeds: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    yield "| model | " + " | ".join(f"tokens/s at {length:,} | time | FLOPs" for length in speeds) + " |"
    yield f"|---|{'---|' * 3 * len(speeds)}"
    for name in next(iter(speeds.values())):
        cells: list[str] = []
        for of in speeds.values():
            row, base = of[name], next(iter(of.values()))
            low, middle, high = row["time_relative"]
            work = row["training_flops_per_token"] / base["training_flops_per_token"]
            cells += [f"{row['tokens_per_second_median']:,.0f}", f"{middle:.2f} ({low:.2f}–{high:.2f})", f"{work:.2f}"]
        yield f"| {name} | {' | '.join(cells)} |"


def _change_line(schedule: str, change: Mapping[str, Any]) -> str:
    cells = [
        mean_range(change[when][metric], form)
        for metric, form in (("bits_per_byte", ".3f"), ("exact", ".3g"), ("margin", ".3g"))
        for when in ("before", "after")
    ]
    return f"| {schedule} | {' | '.join(cells)} |"
