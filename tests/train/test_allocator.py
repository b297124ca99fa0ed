"""Freed memory stays with the process: later steps of the same size ask the system for little."""

import os
import subprocess
import sys

import pytest

from tandem.train.allocator import keep_freed_memory

_PAGES = """
import resource, sys, torch
from tandem.train.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    return sum(torch.ones(10_000_000).sum() for _ in range(5))
for _ in range(4):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _PAGES, mode], capture_output=True, text=True, check=True, env={**os.environ}
    )
    return int(done.stdout)


def test_later_steps_fault_few_pages():
    if not keep_freed_memory():
        pytest.skip("the C library is not glibc")
    assert page_faults("keep") < page_faults("default") / 4
