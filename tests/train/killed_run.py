"""Trains the toy once, then again in children killed at random times: `killed_run.py DIRECTORY KILLS EVERY...`.

DIRECTORY/whole is the run that was left alone; DIRECTORY/EVERY was killed KILLS times and then went to its end, with a
checkpoint every EVERY steps.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from train_toys import Regression, Stream, config

from tandem.train import fit

# Wide enough that about half of the time goes into checkpoints when every step has one.
WIDTH = 192


def train(run_dir: Path, every: int) -> None:
    fit(Regression(WIDTH, python=True), Stream(width=WIDTH), config(steps=60, checkpoint_every=every), run_dir)


def child(run_dir: Path, every: int) -> int:
    process = os.fork()
    if process == 0:
        # A child that fails must not go on as a second parent.
        try:
            train(run_dir, every)
            os._exit(0)
        finally:
            os._exit(1)
    return process


def main() -> None:
    directory, kills, chance = Path(sys.argv[1]), int(sys.argv[2]), random.Random(1)
    torch.set_num_threads(1)
    # In this process: it also loads what torch imports at its first step, so that children spend their time training.
    started = time.perf_counter()
    train(directory / "whole", 1)
    seconds = time.perf_counter() - started
    for every in map(int, sys.argv[3:]):
        for _ in range(kills):
            process = child(directory / str(every), every)
            time.sleep(chance.uniform(0.01, seconds / 6))
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        assert os.waitpid(child(directory / str(every), every), 0)[1] == 0


if __name__ == "__main__":
    main()
