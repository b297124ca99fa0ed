"""What comparisons of models share: trainings that differ in nothing else, their rows, and how results are written."""

import dataclasses
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tandem.data import cache_directory, corpus, prepare, tokenize_corpus
from tandem.nn import ModelConfig
from tandem.recipes.pretrain import PretrainConfig
from tandem.recipes.quickstart import CORPUS
from tandem.report import atomic_path, read_metrics

Runs = Mapping[str, Sequence[PretrainConfig]]
"""The trainings of each model, those of seeds 0, 1, …"""


def quickstart_shards() -> Path:
    """The quickstart's corpus, fetched and tokenized if it is not there yet."""
    prepared = prepare(corpus(CORPUS))
    return tokenize_corpus(prepared, cache_directory() / "tokens" / f"{prepared.path.name}-4096")


def seeded_runs(like: PretrainConfig, models: Mapping[str, ModelConfig], seeds: int) -> dict[str, list[PretrainConfig]]:
    """A training of each model with each seed, all else as in `like`: the same tokens in the same order at each seed.

    They lie side by side in the directory of `like`, which is made with a file of each model's config.
    """
    runs: dict[str, list[PretrainConfig]] = {}
    for name, model in models.items():
        file = like.run_dir / f"{name}.json"
        with atomic_path(file) as temporary:
            temporary.write_text(model.to_json() + "\n", encoding="utf-8")
        runs[name] = [
            dataclasses.replace(
                like,
                run_dir=like.run_dir / f"{name}-seed-{seed}",
                model=str(file),
                train=dataclasses.replace(like.train, seed=seed),
            )
            for seed in range(seeds)
        ]
    return runs


def seed_by_seed(runs: Runs) -> list[PretrainConfig]:
    """All trainings, in an order in which a comparison that is cut short has all models at its first seeds."""
    return [run for of_seed in zip(*runs.values(), strict=True) for run in of_seed]


def rows_of(run: PretrainConfig, kind: str) -> list[dict[str, Any]]:
    """The rows of a kind that a training has logged."""
    return [row for row in read_metrics(run.run_dir / "metrics.jsonl") if row["kind"] == kind]


def last_validation(run: PretrainConfig) -> dict[str, Any]:
    """Loss and bits a byte of the held-out text at the end of a training."""
    return rows_of(run, "validation")[-1]


def settings_of(config: Any, models: Mapping[str, ModelConfig]) -> dict[str, Any]:
    """A recipe's config and its models as plain values, for `claim_run_dir`."""
    plain = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    # A run may be moved; where it lies is no setting of it.
    del plain["run_dir"]
    return {**plain, "architectures": {name: model.to_dict() for name, model in models.items()}}


def command_of(recipe: str, config: Any, names: Sequence[str]) -> str:
    """What repeats the numbers; where things lie and how many run at once does not change them."""
    words = [f"--{name.replace('_', '-')} {_words(getattr(config, name))}" for name in names]
    return f"tandem recipe {recipe} {' '.join(words)}"


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def machine(device: torch.device) -> str:
    """One line on what measured."""
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    return f"{gpu}{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"


def mean_range(values: Sequence[float], form: str = ".3g") -> str:
    """The mean of several trainings with their range."""
    mean = sum(values) / len(values)
    return f"{mean:{form}}" if len(values) == 1 else f"{mean:{form}} ({min(values):{form}}–{max(values):{form}})"


def write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """Writes each file whole or not at all."""
    for name, content in files.items():
        with atomic_path(directory / name) as temporary:
            temporary.write_bytes(content)
