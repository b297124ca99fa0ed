"""The whole recipe on toys; its numbers against the runs' own files and the models that they left."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recipe_toys import toy_hybrid

from tandem import hub
from tandem.nn import preset
from tandem.recipes.comparison import seed_by_seed, seeded_runs
from tandem.recipes.twins import TwinsConfig, _training, compare_twins, twin_models
from tandem.report import read_metrics


@pytest.fixture
def config(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> TwinsConfig:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "toy.json").write_text(toy_hybrid().to_json())
    return TwinsConfig(
        run_dir=tmp_path / "run",
        data=shards,
        model=str(tmp_path / "toy.json"),
        against=("attention",),
        seeds=1,
        steps=3,
        batch_tokens=64,
        context=32,
        device="cpu",
        jobs=2,
        rounds=2,
    )


def results(config: TwinsConfig) -> dict[str, Any]:
    return json.loads((config.run_dir / "twins.json").read_text())


def test_the_comparison_is_made_and_a_seed_more_repeats_nothing(
    config: TwinsConfig, capsys: pytest.CaptureFixture[str]
):
    assert compare_twins(config) == config.run_dir
    first = results(config)
    assert list(first["models"]) == ["hybrid", "attention"]
    assert first["tokens"] == 3 * 64
    log = config.run_dir / "hybrid-seed-0/log.txt"
    written = log.stat().st_mtime_ns

    assert compare_twins(replace(config, seeds=2)) == config.run_dir
    assert log.stat().st_mtime_ns == written
    second = results(config)
    for name, row in second["models"].items():
        assert row["bits_per_byte"][:1] == first["models"][name]["bits_per_byte"]
        validations = [
            line["bits_per_byte"]
            for seed in range(2)
            for line in read_metrics(config.run_dir / f"{name}-seed-{seed}/metrics.jsonl")
            if line["kind"] == "validation"
        ]
        assert row["bits_per_byte"] == validations
        assert validations[0] != validations[1]
        assert row["bits_per_byte_mean"] == pytest.approx(sum(validations) / 2)
        model, _, _ = hub.load(config.run_dir / f"{name}-seed-1/model")
        assert row["total_parameters"] == sum(parameter.numel() for parameter in model.parameters())
        assert row["state_bytes"] == sum(layer.state_bytes(8192) for layer in model.layers)
        assert len(row["tokens_per_second"]) == 2
    assert second["models"]["hybrid"]["speed_relative_to_hybrid"] == [1, 1, 1]

    table = (config.run_dir / "twins.md").read_text()
    mean = second["models"]["attention"]["bits_per_byte_mean"]
    assert f"| attention | `AFAFAF` | 0.01M (0.01M) | {mean:.3f} (" in table
    assert "bits per byte, 2 seeds" in table
    assert (config.run_dir / "twins.png").read_bytes().startswith(b"\x89PNG")
    assert "twins.json" in capsys.readouterr().out


def test_runs_of_one_seed_read_the_same_tokens_in_the_same_order(config: TwinsConfig):
    assert config.data is not None
    runs = seeded_runs(_training(config, config.data), twin_models(toy_hybrid()), 3)
    for of_seed in zip(*runs.values(), strict=True):
        same = {replace(run, run_dir=Path(), model="") for run in of_seed}
        assert len(same) == 1
    assert [run.train.seed for run in runs["mamba"]] == [0, 1, 2]
    assert [run.train.seed for run in seed_by_seed(runs)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_nano_is_compared_with_two():
    models = twin_models(preset("nano"))
    assert ["".join(model.layers) for model in models.values()] == ["MFMFAMFMFMF", "AFAFAAFAFAF", "MFMFMMFMFMF"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda config: replace(config, seeds=0), "seeds=0 is below 1"),
        (lambda config: replace(config, against=("mamba", "mamba")), "names a twin twice"),
        (lambda config: replace(config, model="mano"), "preset='mano' is unknown"),
        (lambda config: replace(config, device="cuda:99"), "device='cuda:99' is not available"),
    ],
)
def test_mistakes_are_one_line_and_train_nothing(config: TwinsConfig, spoil: Callable[..., Any], message: str):
    with pytest.raises(ValueError, match=message):
        compare_twins(spoil(config))
    assert not config.run_dir.exists()


def test_data_that_is_not_there_claims_no_run_directory(config: TwinsConfig):
    with pytest.raises(ValueError, match=r"nowhere.* does not exist; make it with"):
        compare_twins(replace(config, data=Path("nowhere")))
    assert not config.run_dir.exists()


def test_other_settings_are_refused(config: TwinsConfig):
    config.run_dir.mkdir()
    (config.run_dir / "config.json").write_text('{"lr": 0.1}')
    with pytest.raises(ValueError, match=r"run_dir=.* was started with"):
        compare_twins(config)
