"""The whole recipe on toys; its numbers against the runs' own files and the models that they left."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_toys import VOCABULARY, toy_transmamba

from tandem import hub
from tandem.data import open_shards
from tandem.recipes import transmamba
from tandem.recipes.comparison import seeded_runs
from tandem.recipes.pretrain import PretrainConfig, run_pretraining, validate_at_start
from tandem.recipes.side_by_side import is_finished
from tandem.recipes.transmamba import (
    TransMambaRecipeConfig,
    _adaptations,
    _training,
    compare_transmamba,
    transmamba_models,
)


def pretrain_here(runs: Sequence[PretrainConfig], *, jobs: int) -> bool:
    """Without a process for each, which takes longer than these trainings."""
    for run in runs:
        if not is_finished(run):
            run_pretraining(run)
    return all(map(is_finished, runs))


def call_here(function: Callable[[Any], Any], given: Sequence[Any], *, jobs: int, label: str) -> list[Any]:
    return [function(each) for each in given]


@pytest.fixture
def config(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> TransMambaRecipeConfig:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(transmamba, "pretrain_all", pretrain_here)
    monkeypatch.setattr(transmamba, "call_all", call_here)
    (tmp_path / "toy.json").write_text(toy_transmamba().to_json())
    return TransMambaRecipeConfig(
        run_dir=tmp_path / "run",
        data=shards,
        model=str(tmp_path / "toy.json"),
        schedules=("v5",),
        changes=("mamba",),
        seeds=1,
        steps=4,
        batch_tokens=512,
        context=256,
        adapt=0.5,
        samples=2,
        batch=2,
        device="cpu",
        jobs=2,
        rounds=2,
    )


def results(config: TransMambaRecipeConfig) -> dict[str, Any]:
    return json.loads((config.run_dir / "transmamba.json").read_text())


def times_of(config: TransMambaRecipeConfig) -> dict[str, int]:
    """When each model and each result of a training was written."""
    files = (path for pattern in ("*/model/config.json", "*/*.json") for path in config.run_dir.glob(pattern))
    return {str(path): path.stat().st_mtime_ns for path in files if path.name != "config.json" or "model" in str(path)}


def test_the_comparison_is_made_and_a_seed_more_repeats_nothing(
    config: TransMambaRecipeConfig, capsys: pytest.CaptureFixture[str]
):
    assert compare_transmamba(config) == config.run_dir
    before, first = times_of(config), results(config)
    assert list(first["models"]) == ["transformer", "mamba", "hybrid", "v5"]

    assert compare_transmamba(replace(config, seeds=2, jobs=1)) == config.run_dir
    assert before.items() <= times_of(config).items()
    second = results(config)
    for name, row in second["models"].items():
        assert row["bits_per_byte"][:1] == first["models"][name]["bits_per_byte"]
        assert len(set(row["bits_per_byte"])) == 2
        for seed in range(2):
            model, _, _ = hub.load(config.run_dir / f"{name}-seed-{seed}/model")
            assert row["total_parameters"] == sum(parameter.numel() for parameter in model.parameters())
            assert row["transpoints"] == list(model.config.transpoints)
            file = json.loads((config.run_dir / f"{name}-seed-{seed}/retrieval.json").read_text())
            assert second["retrieval"][name][seed] == file
            assert [cell["length"] for cell in file["results"]] == [256, 512, 1024]
    assert second["models"]["v5"]["transpoints"] == [64, 96]
    assert second["speeds"]["256"]["transformer"]["time_relative"] == [1, 1, 1]
    assert second["tokens"] == 4 * 512

    table = (config.run_dir / "transmamba.md").read_text()
    bits = second["models"]["v5"]["bits_per_byte"]
    assert f"| {sum(bits) / 2:.3f} ({min(bits):.3f}–{max(bits):.3f}) |" in table
    assert "| phone-book | 1,024 | v5 | " in table
    assert (config.run_dir / "transmamba.png").read_bytes().startswith(b"\x89PNG")
    assert "transmamba.json" in capsys.readouterr().out


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on_to_the_same_numbers(
    config: TransMambaRecipeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    whole = replace(config, run_dir=config.run_dir.with_name("whole"))
    compare_transmamba(whole)
    with monkeypatch.context() as patch:
        patch.setattr(transmamba, "pretrain_all", lambda runs, *, jobs: pretrain_here(runs[:3], jobs=jobs) and False)
        assert compare_transmamba(config) is None
    assert "stopped; the same command goes on" in capsys.readouterr().out
    assert not (config.run_dir / "transmamba.json").exists()
    compare_transmamba(config)
    ours, theirs = results(config), results(whole)
    for name in ("models", "changes"):
        assert ours[name] == theirs[name]
    for name, files in ours["retrieval"].items():
        assert [file["results"] for file in files] == [file["results"] for file in theirs["retrieval"][name]]
    assert_changes_start_from_the_trained_weights(config)
    books = open_shards(config.run_dir / "phone-books", "train")
    assert books.tokens >= config.books * config.batch_tokens * config.steps * (1 + config.adapt)
    assert max(books.lengths) - 1 <= config.context


def assert_changes_start_from_the_trained_weights(config: TransMambaRecipeConfig):
    made = results(config)
    control, mamba = (made["changes"][name]["before"]["bits_per_byte"] for name in ("v5", "mamba"))
    assert control == pytest.approx(made["models"]["v5"]["bits_per_byte"], rel=1e-6)
    assert mamba != control
    changed, _, _ = hub.load(config.run_dir / "v5-as-mamba-seed-0/model")
    assert changed.config.transpoints == (0, 0)
    file = json.loads((config.run_dir / "v5-as-mamba-seed-0/retrieval-at-start.json").read_text())
    assert [cell["length"] for cell in file["results"]] == [256]


def test_runs_of_one_seed_read_the_same_tokens_in_the_same_order(config: TransMambaRecipeConfig, shards: Path):
    models = transmamba_models(config)
    template = _training(config, (shards, shards))
    runs = seeded_runs(template, models, 3)
    for of_seed in zip(*runs.values(), strict=True):
        assert len({replace(run, run_dir=Path(), model="") for run in of_seed}) == 1
    assert [run.train.seed for run in runs["mamba"]] == [0, 1, 2]
    assert template.weights == (0.5, 0.5)
    adapted = _adaptations(config, runs["v5"])
    assert list(adapted) == ["v5", "mamba"]
    for of_seed in zip(*adapted.values(), strict=True):
        assert len({replace(run, run_dir=Path(), schedule=None) for run in of_seed}) == 1
    assert [run.init for run in adapted["mamba"]] == [str(run.run_dir / "model") for run in runs["v5"]]
    seeds = {run.train.seed for of in (*runs.values(), *adapted.values()) for run in of}
    assert len(seeds) == 6
    schedules = transmamba_models(replace(config, schedules=("v5", "v1")))
    assert schedules["v1"].transpoints == (64, 64)


@pytest.mark.parametrize("name", ["transmamba-nano", "transmamba-400m"])
def test_all_models_have_as_many_parameters(config: TransMambaRecipeConfig, name: str):
    from tandem.plan import parameters

    models = transmamba_models(replace(config, model=name, schedules=("v9", "v1"), context=512))
    totals = [parameters(model).total for model in models.values()]
    assert max(totals) / min(totals) < 1.01
    assert models["v9"].transpoints[:8] == (0, 8, 16, 32, 64, 128, 256, 512)


def test_a_validation_before_the_first_step_is_that_of_the_weights(config: TransMambaRecipeConfig):
    run = PretrainConfig(run_dir=config.run_dir, data=(config.data or Path(),), model=config.model, context=32)
    torch.manual_seed(5)
    assert validate_at_start(run) == validate_at_start(run)
    assert validate_at_start(run)["loss"] == pytest.approx(math.log(VOCABULARY), abs=1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda config: replace(config, seeds=0), "seeds=0 is below 1"),
        (lambda config: replace(config, schedules=()), "schedules=.* names none"),
        (lambda config: replace(config, schedules=("v1", "v1")), "names one twice"),
        (lambda config: replace(config, books=1.0), "books=1.0 is not between 0 and 1"),
        (lambda config: replace(config, speed_contexts=(0,)), "speed_contexts=.* holds one below 1"),
        (lambda config: replace(config, changes=("v10",)), "schedule='v10' is unknown"),
        (lambda config: replace(config, model="nano"), "has none|no T layers"),
        (lambda config: replace(config, device="cuda:99"), "device='cuda:99' is not available"),
    ],
)
def test_mistakes_are_one_line_and_train_nothing(
    config: TransMambaRecipeConfig, spoil: Callable[..., Any], message: str
):
    with pytest.raises(ValueError, match=message):
        compare_transmamba(spoil(config))
    assert not config.run_dir.exists()


def test_a_context_without_room_for_a_book(config: TransMambaRecipeConfig):
    with pytest.raises(ValueError, match="has no room for a phone book"):
        compare_transmamba(replace(config, context=16))


def test_data_that_is_not_there_claims_no_run_directory(config: TransMambaRecipeConfig):
    with pytest.raises(ValueError, match=r"nowhere.* does not exist; make it with"):
        compare_transmamba(replace(config, data=Path("nowhere")))
    assert not config.run_dir.exists()


def test_other_settings_are_refused(config: TransMambaRecipeConfig):
    config.run_dir.mkdir()
    (config.run_dir / "config.json").write_text('{"lr": 0.1}')
    with pytest.raises(ValueError, match=r"run_dir=.* was started with"):
        compare_transmamba(config)
