import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.train import claim_run_dir, held_run_dir

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


def test_another_process_is_refused_until_the_first_has_ended(tmp_path: Path):
    script = "import sys; from pathlib import Path; from tandem.train import held_run_dir\n"
    script += "with held_run_dir(Path(sys.argv[1]), {'steps': int(sys.argv[2])}, {'steps'}): pass"

    def other(steps: int) -> str:
        command = [sys.executable, "-c", script, str(tmp_path), str(steps)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr

    with held_run_dir(tmp_path, {"steps": 1}):
        assert f"run_dir={tmp_path} is in use by another process; wait" in other(2)
        assert json.loads((tmp_path / "config.json").read_text()) == {"steps": 1}
    assert other(3) == ""
    assert json.loads((tmp_path / "config.json").read_text()) == {"steps": 3}


def fail_in(run_dir: Path, config: dict[str, object], *, row: str = "") -> None:
    def fail() -> None:
        (run_dir / "metrics.jsonl").write_text(row)
        raise ValueError("weight=-1 must be above 0")

    with pytest.raises(ValueError, match="weight"), held_run_dir(run_dir, config):
        fail()


def test_settings_that_were_refused_may_be_put_right(tmp_path: Path):
    fail_in(tmp_path, {"weight": -1})
    with held_run_dir(tmp_path, {"weight": 1}):
        pass
    fail_in(tmp_path, {"weight": 1})  # an old run's settings stay
    assert json.loads((tmp_path / "config.json").read_text()) == {"weight": 1}


def test_a_run_that_failed_after_its_first_row_keeps_its_settings(tmp_path: Path):
    fail_in(tmp_path, {"weight": -1}, row="{}\n")
    assert json.loads((tmp_path / "config.json").read_text()) == {"weight": -1}
