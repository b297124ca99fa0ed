import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from train_toys import Regression, Stream, config, parameters

from tandem.report import read_metrics
from tandem.train import ScheduleConfig, Stage, TrainConfig, fit_stages, turbos_stages

STAGES = (
    Stage(name="base", steps=12, lr=1e-2, context=8, batch_tokens=8, schedule=ScheduleConfig(warmup_steps=2)),
    Stage(name="annealing", steps=8, lr=1e-3, context=8, batch_tokens=4),
    Stage(
        name="long",
        steps=6,
        lr=1e-4,
        context=4,
        batch_tokens=4,
        schedule=ScheduleConfig(kind="constant", warmup_steps=0),
    ),
)


class Opener:
    """Builds a new task for each stage, as a model with another RoPE is; keeps the last."""

    def __init__(self, edits: dict[str, Callable[..., Any]] | None = None, limits: dict[str, int] | None = None):
        self.edits, self.limits = edits or {}, limits or {}
        self.opened: list[str] = []
        self.settings: list[TrainConfig] = []

    def __call__(self, stage: Stage, settings: TrainConfig) -> tuple[Regression, Stream]:
        self.opened.append(stage.name)
        self.settings.append(settings)
        self.task = Regression()
        stream = Stream(size=stage.batch_tokens, edit=self.edits.get(stage.name), limit=self.limits.get(stage.name))
        return self.task, stream


def interrupt_at(batch: int) -> Callable[..., Any]:
    def edit(count: int, x: torch.Tensor) -> torch.Tensor:
        if count == batch:
            os.kill(os.getpid(), signal.SIGINT)
        return x

    return edit


def rows(run_dir: Path) -> list[dict[str, Any]]:
    timeless = {"seconds", "tokens_per_second"}
    found = read_metrics(run_dir / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in timeless} for row in found]


def test_stages_follow_one_another_in_one_file(tmp_path: Path):
    opener = Opener()
    result = fit_stages(STAGES, config(), tmp_path, opener)
    assert opener.opened == ["base", "annealing", "long"]
    assert [settings.optimizer.lr for settings in opener.settings] == [1e-2, 1e-3, 1e-4]
    assert (result.step, result.reason, result.run_dir) == (6, "finished", tmp_path)
    assert result.counts == {"tokens": 12 * 8 + 8 * 4 + 6 * 4}
    train = [row for row in rows(tmp_path) if row["kind"] == "train"]
    assert [row["step"] for row in train] == list(range(1, 27))
    assert [row["stage"] for row in train] == ["base"] * 12 + ["annealing"] * 8 + ["long"] * 6
    assert train[-1]["lr"] == 1e-4
    assert sorted(path.name for path in (tmp_path / "stages").iterdir()) == ["1-base", "2-annealing", "3-long"]


def test_weights_and_optimizer_are_handed_over(tmp_path: Path):
    """Two stages of a constant rate are one run of both lengths, but for the data starting anew."""
    source = Stream()
    batches = [next(source) for _ in range(5)]
    tasks: list[Regression] = []

    def quiet(stage: Stage, settings: TrainConfig) -> tuple[Regression, Stream]:
        tasks.append(Regression(noisy=False))
        return tasks[-1], Stream(edit=lambda count, x: batches[(count - 1) % 5])

    def stage(name: str, steps: int) -> Stage:
        flat = ScheduleConfig(kind="constant", warmup_steps=0)
        return Stage(name=name, steps=steps, lr=1e-3, context=8, batch_tokens=8, schedule=flat)

    fit_stages((stage("one", 5), stage("two", 5)), config(), tmp_path / "parts", quiet)
    parts = tasks[-1]
    fit_stages((stage("one", 10),), config(), tmp_path / "whole", quiet)
    assert all(torch.equal(a, b) for a, b in zip(parameters(parts), parameters(tasks[-1]), strict=True))


@pytest.mark.parametrize(("stage", "batch"), [("base", 7), ("annealing", 1), ("annealing", 6), ("long", 3)])
def test_a_curriculum_goes_on_in_the_stage_it_was_left_in(tmp_path: Path, stage: str, batch: int):
    whole = Opener()
    fit_stages(STAGES, config(), tmp_path / "whole", whole)
    cut = Opener({stage: interrupt_at(batch)})
    assert fit_stages(STAGES, config(), tmp_path / "cut", cut).interrupted
    assert cut.opened[-1] == stage
    resumed = Opener()
    fit_stages(STAGES, config(), tmp_path / "cut", resumed)
    assert resumed.opened[0] == stage
    assert all(torch.equal(a, b) for a, b in zip(parameters(whole.task), parameters(resumed.task), strict=True))
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_a_stage_whose_data_ran_out_is_not_opened_again(tmp_path: Path):
    first = Opener({"annealing": interrupt_at(2)}, limits={"base": 10})
    fit_stages(STAGES, config(), tmp_path, first)
    resumed = Opener(limits={"base": 10})
    fit_stages(STAGES, config(), tmp_path, resumed)
    assert resumed.opened == ["annealing", "long"]
    assert [row["step"] for row in rows(tmp_path) if row["kind"] == "train"] == list(range(1, 25))


def test_a_finished_curriculum_only_loads(tmp_path: Path):
    fit_stages(STAGES, config(), tmp_path, Opener())
    before = (tmp_path / "metrics.jsonl").read_bytes()
    again = Opener()
    assert fit_stages(STAGES, config(), tmp_path, again).reason == "finished"
    assert again.opened == ["long"]
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_the_time_budget_covers_all_stages(tmp_path: Path):
    opener = Opener()
    assert fit_stages(STAGES, config(max_seconds=1e-6), tmp_path, opener).reason == "time"
    assert opener.opened == ["base"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda **given: fit_stages((), config(), Path("run"), Opener()), "stages=[] must be at least one"),
        (lambda **given: Stage(**{**given, "name": "a/b"}), "stage.name='a/b' becomes a directory"),
        (lambda **given: Stage(**{**given, "steps": 0}), "stage.steps=0 of stage 'a' is below 1"),
        (lambda **given: Stage(**{**given, "rope_alpha": 0.5}), "stage.rope_alpha=0.5 of stage 'a' is below 1"),
    ],
)
def test_mistakes_are_one_line(build: Callable[..., Any], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(name="a", steps=1, lr=1.0, context=1, batch_tokens=1)


def test_turbos_at_full_size():
    path = Path("x")
    stages = turbos_stages(pretraining=(path,), annealing=(path,), long_32k=(path, path), long_256k=(path, path))
    assert [stage.context for stage in stages] == [4096, 4096, 32768, 262144]
    assert [stage.rope_alpha for stage in stages] == [1, 1, 50, 1000]
    assert [stage.cut for stage in stages] == [True, False, False, False]
    tokens = [stage.steps * stage.batch_tokens * stage.accumulate for stage in stages]
    assert tokens == pytest.approx([16e12, 300e9, 30e9, 20e9], rel=1e-3)
    annealing = stages[1]
    assert annealing.lr * annealing.schedule.final_lr == pytest.approx(5e-6)
    assert {stage.lr for stage in stages[2:]} == {5e-6}
    assert stages[2].weights == (3.0, 1.0)
