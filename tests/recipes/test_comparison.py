"""What comparisons share, against its definitions."""

import json
import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from recipe_toys import toy_hybrid, toy_transmamba

from tandem.nn import ModelConfig
from tandem.recipes.comparison import (
    command_of,
    machine,
    mean_range,
    seed_by_seed,
    seeded_runs,
    settings_of,
    write_files,
)
from tandem.recipes.pretrain import PretrainConfig
from tandem.train import TrainConfig


@pytest.mark.parametrize(
    ("values", "form", "text"),
    [
        ([1.0, 2.0, 6.0], ".3f", "3.000 (1.000–6.000)"),
        ([0.25], ".3g", "0.25"),
        ([-1.0, 1.0], ".3g", "0 (-1–1)"),
    ],
)
def test_a_mean_has_its_range_unless_it_is_of_one(values: list[float], form: str, text: str):
    assert mean_range(values, form) == text


def test_runs_differ_in_model_and_seed_alone(tmp_path: Path):
    like = PretrainConfig(run_dir=tmp_path, data=(Path("shards"),), context=8, train=TrainConfig(steps=200, seed=9))
    models = {"a": toy_hybrid(), "b": toy_transmamba()}
    runs = seeded_runs(like, models, 2)
    assert [run.run_dir.name for run in seed_by_seed(runs)] == ["a-seed-0", "b-seed-0", "a-seed-1", "b-seed-1"]
    for name, of_model in runs.items():
        assert ModelConfig.from_json(Path(str(of_model[0].model)).read_text()) == models[name]
        for seed, run in enumerate(of_model):
            assert run.train.seed == seed
            back = replace(run, run_dir=like.run_dir, model=None, train=replace(run.train, seed=9))
            assert back == like


@dataclass(frozen=True)
class Settings:
    run_dir: Path = Path("here")
    data: Path | None = Path("shards")
    lr: float = 0.1
    batch_tokens: int = 5
    schedules: tuple[str, ...] = ("v9", "v1")


def test_settings_are_plain_and_do_not_know_where_they_lie():
    plain = settings_of(Settings(), {"a": toy_hybrid()})
    assert plain == settings_of(Settings(run_dir=Path("there")), {"a": toy_hybrid()})
    assert json.loads(json.dumps(plain)) == plain
    assert plain["data"] == "shards"
    assert plain["architectures"]["a"]["width"] == 16
    assert plain != settings_of(Settings(), {"a": toy_hybrid().replace(width=32)})


def test_a_command_can_be_typed():
    words = command_of("study", Settings(), ("batch_tokens", "schedules", "lr"))
    assert words == "tandem recipe study --batch-tokens 5 --schedules v9 v1 --lr 0.1"


def test_the_machine_is_told_without_a_gpu_that_is_not_used():
    cores = os.cpu_count()
    assert machine(torch.device("cpu")) == f"{cores} cores, {platform.machine()}, torch {torch.__version__}"


def test_files_are_written_beside_what_is_there(tmp_path: Path):
    (tmp_path / "old").write_bytes(b"0")
    write_files(tmp_path, {"a.json": b"1", "b.md": b"2"})
    write_files(tmp_path, {"a.json": b"3"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"old": b"0", "a.json": b"3", "b.md": b"2"}
