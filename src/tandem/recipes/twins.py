"""A hybrid against its all-attention and all-Mamba-2 twins of equal parameters, tokens and seeds. Start at `compare_twins`.

What is equal: vocabulary, width, depth and the place of every layer, total parameters (within 1 %, and about as many used
a token; see `tandem.plan.equal_parameters` for how), tokens, their order at each seed, schedule and optimizer. What
differs: the kind of mixer, and with it the speed and the bytes of decode state.
"""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.markdown import Markdown

from tandem import hub
from tandem.data import Packer, Tokenizer, open_shards
from tandem.nn import ModelConfig
from tandem.plan import all_attention, all_mamba, equal_parameters, flops, memory, parameters, readable_bytes
from tandem.recipes.comparison import (
    Runs,
    command_of,
    last_validation,
    machine,
    mean_range,
    quickstart_shards,
    rows_of,
    seed_by_seed,
    seeded_runs,
    settings_of,
    write_files,
)
from tandem.recipes.pretrain import PretrainConfig, read_model_config
from tandem.recipes.quickstart import HELD_OUT_BYTES, STEPS, training
from tandem.recipes.side_by_side import pretrain_all
from tandem.recipes.speed import training_speeds
from tandem.report import comparison_figure, png
from tandem.train import claim_run_dir

STATE_CONTEXT = 8192
Twin = Literal["attention", "mamba"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TwinsConfig:
    """Trains a hybrid and its twins of one kind of mixer, of equal parameters, and compares them.

    Ctrl-C saves and leaves; the same command goes on, and finished trainings are not repeated. The run directory holds a
    directory a training, twins.json, twins.md (a table for the docs) and twins.png.
    """

    run_dir: Path = Path("runs/twins")
    """Where everything is written."""

    data: Path | None = None
    """Directory written by `tandem data tokenize`; the quickstart's corpus when left out."""

    model: str = "nano"
    """The hybrid: a preset, or the path of a JSON file with a model config."""

    against: tuple[Twin, ...] = ("attention", "mamba")
    """Which twins."""

    seeds: int = 3
    """Trainings of each model, with seeds 0, 1, …; more may be added later."""

    steps: int = STEPS
    """Optimizer steps of each training."""

    batch_tokens: int = 2048
    """Tokens of one step."""

    context: int = 512
    """Longest piece of a document in a batch, in tokens."""

    lr: float = 3e-3
    """Peak learning rate."""

    device: str = "auto"
    """`auto` takes a CUDA GPU if there is one, else the CPU; or cpu, cuda, cuda:N."""

    jobs: int = 1
    """Trainings side by side, each a process with its share of the cores."""

    rounds: int = 7
    """Rounds of the speed measurement, which runs alone at the end."""

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "batch_tokens", "context", "jobs", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1; use 1 or more")
        if len(set(self.against)) < len(self.against):
            raise ValueError(f"against={self.against} names a twin twice; name each once")


def compare_twins(config: TwinsConfig) -> Path | None:
    """Trains what is not trained yet, measures, and writes the comparison; returns the run directory.

    None after an interruption, when the same call goes on.

    Raises:
        ValueError: an unknown model, device or data, a model without twins, a run directory of other settings, or a
            training that failed.
    """
    console = Console(highlight=False, soft_wrap=True)
    device = hub.choose_device(config.device)
    models = twin_models(read_model_config(config.model), config.against)
    data = config.data or quickstart_shards()
    Tokenizer.load(data)  # a mistaken directory is told before the run directory belongs to it
    claim_run_dir(config.run_dir, settings_of(config, models), {"seeds", "jobs", "device", "rounds"})
    runs = seeded_runs(_training(config, data), models, config.seeds)
    if not pretrain_all(seed_by_seed(runs), jobs=config.jobs):
        console.print("stopped; the same command goes on")
        return None
    settings = next(iter(runs.values()))[0].train
    speeds = training_speeds(models, _packer(config, models, data), settings, device, rounds=config.rounds)
    _write(config, models, runs, _results(config, models, runs, speeds, device))
    console.print(Markdown((config.run_dir / "twins.md").read_text(encoding="utf-8")))
    console.print(f"comparison: {config.run_dir / 'twins.json'}, twins.md and twins.png beside it")
    return config.run_dir


def twin_models(hybrid: ModelConfig, against: tuple[Twin, ...] = ("attention", "mamba")) -> dict[str, ModelConfig]:
    """The hybrid and its twins of equal parameters, by name.

    Raises:
        ValueError: a model without one of the mixers, or whose twins cannot be made as large.
    """
    total = parameters(hybrid).total
    make = {"attention": all_attention, "mamba": all_mamba}
    return {"hybrid": hybrid, **{name: equal_parameters(make[name](hybrid), total) for name in against}}


def _training(config: TwinsConfig, data: Path) -> PretrainConfig:
    """What all trainings have in common: the schedule of the quickstart."""
    settings = training(config.steps, config.lr)
    every = {"checkpoint_every": max(1, min(config.steps // 4, 500)), "validate_every": config.steps}
    return PretrainConfig(
        run_dir=config.run_dir,
        data=(data,),
        context=config.context,
        batch_tokens=config.batch_tokens,
        validation_bytes=HELD_OUT_BYTES,
        device=config.device,
        train=dataclasses.replace(settings, keep_checkpoints=1, **every),
    )


def _packer(config: TwinsConfig, models: dict[str, ModelConfig], data: Path) -> Packer:
    shards = open_shards(data, "train")
    chunk = models["hybrid"].chunk
    return Packer(shards, batch_tokens=config.batch_tokens, context=config.context, chunk=chunk)


def _results(
    config: TwinsConfig,
    models: dict[str, ModelConfig],
    runs: Runs,
    speeds: dict[str, tuple[float, ...]],
    device: torch.device,
) -> dict[str, Any]:
    return {
        "models": {name: _result(model, runs[name], speeds, name) for name, model in models.items()},
        "tokens": config.steps * config.batch_tokens,
        "seeds": config.seeds,
        "precision": runs["hybrid"][0].train.precision,
        "machine": machine(device),
        "command": command_of("twins", config, _NUMBERS),
    }


def _result(
    model: ModelConfig, runs: Sequence[PretrainConfig], speeds: dict[str, tuple[float, ...]], name: str
) -> dict[str, Any]:
    counts, rows = parameters(model), [last_validation(run) for run in runs]
    bits = [row["bits_per_byte"] for row in rows]
    ratios = [own / hybrid for own, hybrid in zip(speeds[name], speeds["hybrid"], strict=True)]
    return {
        "pattern": "".join(model.layers),
        "architecture": model.to_dict(),
        "total_parameters": counts.total,
        "active_parameters": counts.active,
        "training_flops_per_token": flops(model, context=runs[0].context).training,
        "state_bytes": memory(model).sequence(STATE_CONTEXT),
        "bits_per_byte": bits,
        "bits_per_byte_mean": statistics.mean(bits),
        "bits_per_byte_deviation": statistics.stdev(bits) if len(bits) > 1 else None,
        "tokens_per_second": list(speeds[name]),
        "tokens_per_second_median": statistics.median(speeds[name]),
        "speed_relative_to_hybrid": [min(ratios), statistics.median(ratios), max(ratios)],
    }


_NUMBERS = ("model", "seeds", "steps", "batch_tokens", "context", "lr")


def _write(
    config: TwinsConfig,
    models: dict[str, ModelConfig],
    runs: Runs,
    results: dict[str, Any],
) -> None:
    curves = {name: [rows_of(run, "train") for run in of_model] for name, of_model in runs.items()}
    bits = {name: results["models"][name]["bits_per_byte"] for name in models}
    state = {name: results["models"][name]["state_bytes"] for name in models}
    figure = comparison_figure(curves, bits, state, context=STATE_CONTEXT)
    files = {
        "twins.json": json.dumps(results, indent=1).encode(),
        "twins.md": _table(results).encode(),
        "twins.png": png(figure),
    }
    write_files(config.run_dir, files)


def _table(results: dict[str, Any]) -> str:
    seeds = results["seeds"]
    lines = [
        f"| model | layers | parameters (a token) | bits per byte, {seeds} seed{'s' * (seeds > 1)} | "
        "tokens/s, training | against the hybrid | state at 8K |",
        "|---|---|---|---|---|---|---|",
        *(_line(name, row) for name, row in results["models"].items()),
    ]
    note = (
        f"{results['tokens']:,} tokens each, {results['precision']}. Bits per byte: mean (lowest–highest). Tokens a second: "
        f"median; against the hybrid: median (range) over interleaved rounds. State in bf16, recurrent states in float32. "
        f"{results['machine']}. `{results['command']}`"
    )
    return "\n".join([*lines, "", note, ""])


def _line(name: str, row: dict[str, Any]) -> str:
    bits, (low, middle, high) = row["bits_per_byte"], row["speed_relative_to_hybrid"]
    return (
        f"| {name} | `{row['pattern']}` | {row['total_parameters'] / 1e6:.2f}M ({row['active_parameters'] / 1e6:.2f}M) | "
        f"{mean_range(bits, '.3f')} | {row['tokens_per_second_median']:,.0f} | "
        f"{middle:.2f}× ({low:.2f}–{high:.2f}) | {readable_bytes(row['state_bytes'])} |"
    )
