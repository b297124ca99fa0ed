"""The grid of the sweep, and the whole recipe on toys."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.recipes.precision_sweep import PrecisionSweepConfig, grid, sweep_precision


def test_the_default_grid_has_every_run_once():
    cells = grid(PrecisionSweepConfig())
    assert len(cells) >= 60
    assert len({cell.name for cell in cells}) == len(cells)


def test_a_seed_more_only_adds_runs():
    few, more = (set(grid(PrecisionSweepConfig(seeds=seeds))) for seeds in (2, 3))
    assert few < more


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (96, 64)}, r"widths=\(96, 64\) must be one or more, each above the one before"),
        ({"widths": (60,)}, r"widths=\(60,\) must be multiples of 16"),
        ({"steps": ()}, r"steps=\(\) must be one or more"),
        ({"seeds": 0}, "seeds=0 is below 1"),
    ],
)
def test_mistakes_are_named(options: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        PrecisionSweepConfig(**options)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_the_sweep_is_made_and_repeats_nothing(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = PrecisionSweepConfig(
        run_dir=tmp_path, data=shards, widths=(16,), steps=(2,), seeds=1, batch_tokens=64, context=32, jobs=2
    )
    assert sweep_precision(config) == tmp_path
    first = json.loads((tmp_path / "precision.json").read_text())
    assert len(first["rows"]) == len(grid(config))
    assert "do not tell" in first["law"]
    log = tmp_path / grid(config)[0].name / "log.txt"
    written = log.stat().st_mtime_ns
    assert sweep_precision(replace(config, jobs=1)) == tmp_path
    assert log.stat().st_mtime_ns == written
