import os
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from train_toys import Regression, Stream, config, parameters

from tandem.report import read_metrics
from tandem.train import Checkpoints, OptimizerConfig, ScheduleConfig, SpikeConfig, fit

TIMES = ("seconds", "tokens_per_second")


def rows(run_dir: Path, kind: str | None = None):
    """Metrics without wall-clock values, which alone may differ between two runs."""
    found = read_metrics(run_dir / "metrics.jsonl")
    return [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in found
        if kind is None or row["kind"] == kind
    ]


def assert_same(left: Regression, right: Regression):
    assert all(torch.equal(a, b) for a, b in zip(parameters(left), parameters(right), strict=True))


def stop_after(batches: int, number: int):
    """An edit of the stream that signals this process while the given batch is read."""

    def edit(count: int, batch: Tensor):
        if count == batches:
            os.kill(os.getpid(), number)
        return batch

    return edit


def given(batches: Sequence[Tensor]):
    """A stream of exactly these batches."""
    return Stream(edit=lambda count, batch: batches[count - 1])


def test_a_run_writes_all_kinds_of_rows(tmp_path: Path):
    result = fit(Regression(), Stream(), config(), tmp_path)
    assert (result.step, result.reason, result.interrupted) == (20, "finished", False)
    assert result.counts == {"tokens": 160}
    assert result.validation == {"loss": 1.5, "bits_per_byte": 2.0}
    train = rows(tmp_path, "train")
    assert [row["step"] for row in train] == list(range(1, 21))
    assert train[-1]["tokens"] == 160
    assert {"loss", "lr", "grad_norm"} <= set(train[0])
    assert [row["step"] for row in rows(tmp_path, "validation")] == [10, 20]
    assert rows(tmp_path, "load")[0]["layers"] == [[0.33333] * 3] * 2


def test_rates_are_counts_over_the_time_between_two_rows(tmp_path: Path):
    fit(Regression(), Stream(), config(log_every=3), tmp_path)
    train = [row for row in read_metrics(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["step"] for row in train] == [1, 3, 6, 9, 12, 15, 18, 20]
    for before, row in pairwise(train):
        rate = (row["tokens"] - before["tokens"]) / (row["seconds"] - before["seconds"])
        assert row["tokens_per_second"] == pytest.approx(rate, rel=1e-6)


def test_a_run_learns(tmp_path: Path):
    fit(Regression(noisy=False), Stream(size=64), config(steps=150, validate_every=0), tmp_path)
    losses = [row["loss"] for row in rows(tmp_path, "train")]
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])


def test_stopping_and_going_on_changes_no_bit_and_no_row(tmp_path: Path):
    whole = Regression()
    fit(whole, Stream(), config(), tmp_path / "whole")
    for number in (signal.SIGINT, signal.SIGTERM):
        run_dir = tmp_path / f"cut{number}"
        for at in (3, 4, 11):
            result = fit(Regression(), Stream(edit=stop_after(at, number)), config(), run_dir)
            assert result.interrupted
            assert result.step == at
        resumed = Regression()
        assert fit(resumed, Stream(), config(), run_dir).reason == "finished"
        assert_same(whole, resumed)
        assert resumed.network[4].calls == whole.network[4].calls
        assert rows(run_dir) == rows(tmp_path / "whole")


def test_sigkill_at_any_time_changes_no_bit_and_no_row(tmp_path: Path):
    script = Path(__file__).with_name("killed_run.py")
    command = [sys.executable, str(script), str(tmp_path), "10", "1", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole = load_file(Checkpoints(tmp_path / "whole", 1).latest() / "model.safetensors")
    for run_dir in (tmp_path / "1", tmp_path / "4"):
        weights = load_file(Checkpoints(run_dir, 1).latest() / "model.safetensors")
        assert all(torch.equal(weights[name], whole[name]) for name in whole)
        assert rows(run_dir) == rows(tmp_path / "whole")
        assert not list((run_dir / "checkpoints").glob(".*"))


def test_a_second_interrupt_aborts(tmp_path: Path):
    class Stubborn(Regression):
        def validate(self):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            return super().validate()

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(Stubborn(), Stream(), config(), tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    # The checkpoint of step 5 is there, the one of step 10 was refused.
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]


def test_outside_the_main_thread_a_run_trains_without_signals(tmp_path: Path):
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(Regression(), Stream(), config(), tmp_path)))
    thread.start()
    thread.join()
    assert results[0].reason == "finished"


def test_steps_that_are_not_finite_or_spike_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    def edit(count: int, batch: Tensor):
        return {6: batch * torch.nan, 9: batch * 1e4}.get(count, batch)

    task = Regression(noisy=False)
    seen = []
    step = task.step
    task.step = lambda batch: seen.append(parameters(task)) or step(batch)
    fit(task, Stream(edit=edit), config(skip=SpikeConfig(grad_norm=10.0, window=16)), tmp_path)
    events = rows(tmp_path, "event")
    assert [row["step"] for row in events] == [6, 9]
    assert "loss is nan" in events[0]["message"]
    assert "× the median" in events[1]["message"]
    assert len([record for record in caplog.records if "left out" in record.message]) == 2
    same = [all(torch.equal(a, b) for a, b in zip(*pair, strict=True)) for pair in pairwise(seen)]
    assert [number for number, equal in enumerate(same, start=1) if equal] == [6, 9]
    assert [row["step"] for row in rows(tmp_path, "train")] == [n for n in range(1, 21) if n not in (6, 9)]


def test_the_spike_windows_survive_a_restart(tmp_path: Path):
    def edit(count: int, batch: Tensor) -> Tensor:
        if count == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return batch * 1e4 if count == 11 else batch

    settings = config(skip=SpikeConfig(grad_norm=10.0, window=32))
    assert fit(Regression(noisy=False), Stream(edit=edit), settings, tmp_path).step == 10
    fit(Regression(noisy=False), Stream(edit=edit), settings, tmp_path)
    assert [row["step"] for row in rows(tmp_path, "event")] == [11]


def test_a_left_out_step_leaves_the_optimizer_as_it_was(tmp_path: Path):
    flat = config(steps=6, schedule=ScheduleConfig(kind="constant", warmup_steps=0))
    clean, dirty = Regression(noisy=False), Regression(noisy=False)
    batches = [torch.randn(8, 16) for _ in range(6)]
    spoiled = [*batches[:3], batches[0] * torch.inf, *batches[3:]]
    fit(clean, given(batches), flat, tmp_path / "clean")
    fit(dirty, given(spoiled), replace(flat, steps=7), tmp_path / "dirty")
    assert_same(clean, dirty)


def test_too_many_bad_steps_in_a_row_end_the_run(tmp_path: Path):
    stream = Stream(edit=lambda count, batch: batch * torch.nan if count > 4 else batch)
    with pytest.raises(ValueError, match=r"max_consecutive=3 steps in a row .* loss is nan; lower train.optimizer.lr"):
        fit(Regression(), stream, config(skip=SpikeConfig(max_consecutive=3)), tmp_path)


@pytest.mark.parametrize("sizes", [(4, 4, 4), (2, 6, 4)])
def test_accumulation_equals_the_big_batch(tmp_path: Path, sizes: tuple[int, ...]):
    torch.manual_seed(5)
    big = [torch.randn(12, 16, dtype=torch.float64) for _ in range(5)]
    small = [part for batch in big for part in batch.split(sizes)]

    tasks = []
    for name, batches, accumulate in (("big", big, 1), ("small", small, 3)):
        task = Regression(noisy=False)
        task.network.double()
        fit(task, given(batches), config(steps=5, accumulate=accumulate), tmp_path / name)
        tasks.append(task)
    for a, b in zip(*map(parameters, tasks), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    for left, right in zip(rows(tmp_path / "big", "train"), rows(tmp_path / "small", "train"), strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-9)
        assert left["tokens"] == right["tokens"]


def test_a_time_budget_stops_and_the_next_start_goes_on(tmp_path: Path):
    whole, parts = Regression(), Regression()
    fit(whole, Stream(), config(steps=6), tmp_path / "whole")
    stops = [fit(parts, Stream(), config(steps=6, max_seconds=1e-9), tmp_path / "parts") for _ in range(2)]
    assert [stop.reason for stop in stops] == ["time", "time"]
    fit(parts, Stream(), config(steps=6), tmp_path / "parts")
    assert_same(whole, parts)


def test_data_that_ends_ends_the_run(tmp_path: Path):
    result = fit(Regression(), Stream(limit=7), config(accumulate=2), tmp_path)
    assert (result.reason, result.step) == ("data", 3)
    again = fit(Regression(), Stream(limit=9), config(accumulate=2), tmp_path)
    assert (again.reason, again.step) == ("data", 4)


def test_unreadable_data_saves_the_run_and_says_so(tmp_path: Path):
    def edit(count: int, batch: Tensor):
        if count == 8:
            raise OSError("shard 3 is cut off")
        return batch

    whole, resumed = Regression(), Regression()
    fit(whole, Stream(), config(), tmp_path / "whole")
    with pytest.raises(ValueError, match=r"data of step 8 could not be read \(shard 3 is cut off\); the run is saved"):
        fit(resumed, Stream(edit=edit), config(), tmp_path / "cut")
    assert (tmp_path / "cut/checkpoints/step-00000007").is_dir()
    fit(resumed, Stream(), config(), tmp_path / "cut")
    assert_same(whole, resumed)


def test_the_objective_is_differentiated_in_place_of_the_loss(tmp_path: Path):
    class Penalized(Regression):
        def step(self, batch: Tensor):
            output = super().step(batch)
            return {**output, "objective": 0.0 * output["loss"]}

    task = Penalized(noisy=False)
    start = parameters(task)
    flat = config(optimizer=OptimizerConfig(weight_decay=0.0))
    fit(task, Stream(), flat, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(start, parameters(task), strict=True))
    assert "objective" not in rows(tmp_path, "train")[0]


def test_tensorboard_without_its_package_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        fit(Regression(), Stream(), config(tensorboard=True), tmp_path)


def test_tensorboard_gets_the_scalars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written: list[tuple[str, float, int]] = []
    opened: list[tuple[Path, int]] = []

    class SummaryWriter:
        def __init__(self, directory: Path, purge_step: int):
            opened.append((directory, purge_step))

        def add_scalar(self, name: str, value: float, step: int):
            written.append((name, value, step))

        def close(self):
            opened.append((Path("closed"), 0))

    package = types.ModuleType("torch.utils.tensorboard")
    monkeypatch.setattr(package, "SummaryWriter", SummaryWriter, raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", package)
    fit(Regression(), Stream(), config(tensorboard=True), tmp_path)
    assert opened == [(tmp_path / "tensorboard", 1), (Path("closed"), 0)]
    assert ("validation/loss", 1.5, 10) in written
    assert [step for name, _, step in written if name == "train/loss"] == list(range(1, 21))
    assert "train/load" not in {name for name, _, _ in written}


def test_a_task_is_compiled_once_and_only_where_it_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    class Compiled(Regression):
        compiled = 0

        def compile(self):
            self.compiled += 1

    task = Compiled()
    monkeypatch.setattr("tandem.train.compiling.shutil.which", lambda name: "/usr/bin/g++")
    fit(task, Stream(), config(compile="auto"), tmp_path / "with")
    assert task.compiled == 1
    monkeypatch.setattr("tandem.train.compiling.shutil.which", lambda name: None)
    fit(task, Stream(), config(compile="on"), tmp_path / "without")
    fit(task, Stream(), config(compile="off"), tmp_path / "off")
    assert task.compiled == 1
    assert len([record for record in caplog.records if "no C++ compiler" in record.message]) == 1
