"""Several runs side by side, each a process of its own, behind one progress bar. Start at `pretrain_all`.

Small models leave most of a GPU, and much of a server, idle; independent runs fill it, and are dealt out to all GPUs. A
training writes to its own run directory, what it prints goes to `log.txt` there.
"""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import torch

from tandem.recipes.pretrain import PretrainConfig, run_pretraining
from tandem.report import progress
from tandem.train import is_complete, stop_on_signals

Given = TypeVar("Given")
Made = TypeVar("Made")
_CHILD = "from tandem.recipes.side_by_side import run_child; run_child()"
_TAIL = 1 << 16


def pretrain_all(configs: Sequence[PretrainConfig], *, jobs: int = 1) -> bool:
    """Trains all that have not finished, `jobs` at a time; the processor's cores are shared out among them.

    Ctrl-C lets every process save; the same call goes on. So does an error in one of them, which is then raised.

    Returns:
        True when all have finished, False after an interruption.
    Raises:
        ValueError: jobs below 1, or a training failed (its last line is quoted).
    """
    if jobs < 1:
        raise ValueError(f"jobs={jobs} is below 1; use the number of trainings to run side by side")
    waiting = deque(config for config in configs if not is_finished(config))
    running: list[_Job] = []
    started, total, done = 0, sum(config.train.steps for config in configs), sum(map(_steps_done, configs))
    with stop_on_signals() as stop, progress("trainings", total, done=done) as bar:
        try:
            while running or (waiting and not stop.requested):
                while waiting and len(running) < jobs and not stop.requested:
                    running.append(_Job(waiting.popleft(), jobs, started))
                    started += 1
                if stop.requested:
                    _interrupt(running)
                time.sleep(0.2)
                running = [job for job in running if job.is_running()]
                now = sum(map(_steps_done, configs))
                bar.advance(now - done, running=len(running), waiting=len(waiting))
                done = now
        finally:
            _interrupt(running)
            for job in running:
                job.close()
    return all(map(is_finished, configs))


def is_finished(config: PretrainConfig) -> bool:
    """True when a run has done its steps and left its model."""
    return (config.run_dir / "model").is_dir() and is_complete(config.run_dir, config.train.steps)


def call_all(function: Callable[[Given], Made], given: Sequence[Given], *, jobs: int, label: str) -> list[Made]:
    """`function` of each, `jobs` at a time; it and what it takes and gives travel between processes.

    Ctrl-C ends the processes; what they have written stays.
    """
    if jobs == 1 or len(given) < 2:
        return [function(each) for each in given]
    context, made = multiprocessing.get_context("spawn"), list[Made]()
    prepare = (context.Value("i", 0), _threads(jobs))
    with (
        progress(label, len(given)) as bar,
        ProcessPoolExecutor(min(jobs, len(given)), context, _prepare_worker, prepare) as pool,
    ):
        try:
            for result in pool.map(function, given):
                made.append(result)
                bar.advance(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return made


def _prepare_worker(started: Any, threads: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends at once, without a traceback
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # no bars of its own; errors go to the caller
    with started.get_lock():
        number, started.value = started.value, started.value + 1
    os.environ.update(_gpu_of(number))
    torch.set_num_threads(int(threads))


def _threads(jobs: int) -> str:
    return str(max(1, (os.cpu_count() or 1) // jobs))


def _gpu_of(number: int) -> dict[str, str]:
    """The environment in which a process sees one GPU, another than the process before."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",") if named else [str(gpu) for gpu in range(torch.cuda.device_count())]
    return {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if len(gpus) > 1 else {}


class _Job:
    """One training process. It stands outside the terminal's process group, so that Ctrl-C reaches it once, through us."""

    def __init__(self, config: PretrainConfig, jobs: int, number: int = 0) -> None:
        self.config = config
        self.log = config.run_dir / "log.txt"
        self.interrupted = False
        config.run_dir.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CHILD],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={"OMP_NUM_THREADS": _threads(jobs), **os.environ, **_gpu_of(number)},
                start_new_session=True,
            )
        assert self.process.stdin is not None
        pickle.dump(config, self.process.stdin)
        # It stays open: when this process dies in any way, the child reads its end and saves.
        self.process.stdin.flush()

    def is_running(self) -> bool:
        """False once it has ended well; raises when it has not."""
        code = self.process.poll()
        if code is None:
            return True
        self.close()
        if code and not self.interrupted:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"exit code {code}"
            raise ValueError(
                f"training run_dir={self.config.run_dir} failed ({reason}); see {self.log}, then start again"
            )
        return False

    def close(self) -> None:
        """Waits for its end, and lets go of its input only then."""
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


def _interrupt(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        if not job.interrupted:
            # Once: a second signal would make it leave without saving.
            job.interrupted = True
            job.process.send_signal(signal.SIGINT)


def run_child() -> None:
    """The other end: reads its config from standard input and trains."""
    config = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    run_pretraining(config)


def _stop_with_parent() -> None:
    # Not through sys.stdin: the interpreter cannot end while a thread waits inside its buffer.
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _steps_done(config: PretrainConfig) -> int:
    """Steps of a run by the last whole row of its metrics, without reading all of them."""
    path = config.run_dir / "metrics.jsonl"
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0
