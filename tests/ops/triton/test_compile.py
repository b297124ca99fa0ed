"""torch.compile traces the ops without a break; in a process of its own, which the checker of shapes leaves alone."""

import os
import subprocess
import sys
from pathlib import Path

import torch


def test_a_block_is_traced_whole():
    switches = {"JAXTYPING_DISABLE": "1", "TRITON_INTERPRET": str(int(not torch.cuda.is_available()))}
    script = Path(__file__).with_name("compiled_ops.py")
    done = subprocess.run([sys.executable, script], env=os.environ | switches, capture_output=True, text=True)
    assert done.stdout == "traced whole\n", done.stderr
