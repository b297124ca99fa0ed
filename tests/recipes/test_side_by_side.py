"""Real processes: interrupted together, gone on with, orphaned, failing."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recipe_toys import toy_hybrid
from safetensors.torch import load_file

from tandem.recipes.pretrain import PretrainConfig, run_pretraining
from tandem.recipes.side_by_side import _gpu_of, _Job, call_all, is_finished, pretrain_all
from tandem.train import Checkpoints, ScheduleConfig, TrainConfig


@pytest.fixture
def configs(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> list[PretrainConfig]:
    """Two trainings that differ in their seed, without end; their learning rate does not depend on how long they are."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "model.json").write_text(toy_hybrid().to_json())
    schedule = ScheduleConfig(kind="constant", warmup_steps=4)
    train = TrainConfig(steps=1_000_000, schedule=schedule, checkpoint_every=1_000_000, log_every=1)
    return [
        PretrainConfig(
            run_dir=tmp_path / f"seed-{seed}",
            data=(shards,),
            model=str(tmp_path / "model.json"),
            context=32,
            batch_tokens=64,
            device="cpu",
            train=replace(train, seed=seed, validate_every=0),
        )
        for seed in range(2)
    ]


def with_steps(config: PretrainConfig, steps: int) -> PretrainConfig:
    return replace(config, train=replace(config.train, steps=steps))


def rows(config: PretrainConfig) -> int:
    path = config.run_dir / "metrics.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def wait_for_rows(configs: list[PretrainConfig], count: int) -> None:
    deadline = time.monotonic() + 60
    while any(rows(config) < count for config in configs) and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.slow
def test_ctrl_c_stops_all_and_the_same_call_goes_on_to_the_same_bits(configs: list[PretrainConfig], tmp_path: Path):
    def interrupt() -> None:
        wait_for_rows(configs, 4)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert not pretrain_all(configs, jobs=2)
    thread.join()
    for config in configs:
        assert Checkpoints(config.run_dir, 1).latest() is not None
        assert not is_finished(config)
    configs = [with_steps(config, 10 + max(map(rows, configs))) for config in configs]
    assert pretrain_all(configs, jobs=2)
    whole = replace(configs[1], run_dir=tmp_path / "whole")
    run_pretraining(whole)
    ours, theirs = (load_file(c.run_dir / "model/model.safetensors") for c in (configs[1], whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    before = (configs[0].run_dir / "log.txt").stat().st_mtime_ns
    assert pretrain_all(configs, jobs=2)
    assert (configs[0].run_dir / "log.txt").stat().st_mtime_ns == before


def test_a_child_saves_when_its_parent_is_gone(configs: list[PretrainConfig]):
    long = configs[0]
    job = _Job(long, 1)
    wait_for_rows([long], 5)
    assert job.process.stdin is not None
    job.process.stdin.close()
    assert job.process.wait(60) == 0
    assert Checkpoints(long.run_dir, 1).latest() is not None


def test_a_failure_is_quoted_and_the_others_are_saved(configs: list[PretrainConfig], tmp_path: Path):
    broken = replace(configs[1], data=(tmp_path / "nowhere",))
    with pytest.raises(ValueError, match=r"training run_dir=.*seed-1 failed \(.*nowhere.*\); see .*log.txt"):
        pretrain_all([configs[0], broken], jobs=2)


def test_no_jobs(configs: list[PretrainConfig]):
    with pytest.raises(ValueError, match="jobs=0 is below 1"):
        pretrain_all(configs, jobs=0)


def test_calls_are_answered_in_their_order_by_other_processes():
    given = [-3, 2, -1, 0]
    assert call_all(abs, given, jobs=2, label="calls") == [3, 2, 1, 0]
    assert os.getpid() not in call_all(_process, given, jobs=2, label="calls")
    assert call_all(_process, given, jobs=1, label="calls") == [os.getpid()] * 4


def test_an_error_of_a_call_is_raised_here():
    with pytest.raises(ValueError, match="invalid literal for int"):
        call_all(int, ["1", "x", "3"], jobs=2, label="calls")


def test_processes_are_dealt_out_to_all_gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [_gpu_of(n)["CUDA_VISIBLE_DEVICES"] for n in range(4)] == ["4", "6", "4", "6"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    assert _gpu_of(1) == {}


def _process(_: int) -> int:
    return os.getpid()
