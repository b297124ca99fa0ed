import json
import re
from pathlib import Path

import pytest

from tandem.train import claim_run_dir

CONFIG = {"model": "nano", "train": {"steps": 5, "optimizer": {"lr": 0.1}}, "stages": [{"lr": 1.0}, {"lr": 2.0}]}


def test_a_new_directory_is_claimed_and_the_same_config_goes_on(tmp_path: Path):
    claim_run_dir(tmp_path / "run", CONFIG)
    assert json.loads((tmp_path / "run/config.json").read_text()) == CONFIG
    claim_run_dir(tmp_path / "run", CONFIG)


def test_steps_and_logging_may_change(tmp_path: Path):
    claim_run_dir(tmp_path, CONFIG)
    longer = {**CONFIG, "train": {**CONFIG["train"], "steps": 9}}
    claim_run_dir(tmp_path, longer)
    assert json.loads((tmp_path / "config.json").read_text()) == longer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model": "mini"},
            "model=mini but run_dir={} was started with model=nano; use that value, or another run_dir",
        ),
        ({"train": {"steps": 5, "optimizer": {"lr": 0.2}}}, "train.optimizer.lr=0.2 but run_dir={} was started with"),
        ({"stages": [{"lr": 1.0}, {"lr": 3.0}]}, "stages.1.lr=3.0 but run_dir={} was started with stages.1.lr=2.0"),
        ({"stages": [{"lr": 1.0}]}, "stages.1.lr=None but run_dir={} was started with stages.1.lr=2.0"),
        ({"seed": 1}, "seed=1 but run_dir={} was started with seed=None"),
    ],
)
def test_the_first_other_difference_is_named(tmp_path: Path, change: dict[str, object], message: str):
    claim_run_dir(tmp_path, CONFIG)
    with pytest.raises(ValueError, match=re.escape(message.format(tmp_path))):
        claim_run_dir(tmp_path, {**CONFIG, **change})
    assert json.loads((tmp_path / "config.json").read_text()) == CONFIG


def test_an_unreadable_config_is_one_line(tmp_path: Path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config=.* is not JSON"):
        claim_run_dir(tmp_path, CONFIG)
