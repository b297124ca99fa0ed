import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tandem.report import MetricsWriter, read_metrics


def write_steps(path: Path, steps: Iterable[int], **options: int):
    with MetricsWriter(path, **options) as metrics:
        for step in steps:
            metrics.write(step=step, loss=float(step))


def test_rows_come_back_as_written(tmp_path: Path):
    path = tmp_path / "run" / "metrics.jsonl"
    with MetricsWriter(path) as metrics:
        metrics.write(step=3, loss=2.5, stage="base")
        metrics.write(step=3, kind="event", message="línea\nnueva \x85")
    assert read_metrics(path) == [
        {"step": 3, "kind": "train", "loss": 2.5, "stage": "base"},
        {"step": 3, "kind": "event", "message": "línea\nnueva \x85"},
    ]


def test_tensors_arrays_and_non_finite_values_become_plain_json(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as metrics:
        metrics.write(
            step=1,
            scalar=torch.tensor(1.5),
            layers=torch.tensor([[0.25, 0.75]]),
            array=np.float32(0.5),
            bad=[float("nan"), torch.tensor(float("inf"))],
        )
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "step": 1,
        "kind": "train",
        "scalar": 1.5,
        "layers": [[0.25, 0.75]],
        "array": 0.5,
        "bad": [None, None],
    }


def test_each_row_survives_a_kill(tmp_path: Path):
    script = (
        "import os, signal; from tandem.report import MetricsWriter\n"
        "MetricsWriter('m.jsonl').write(step=7); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)
    assert [row["step"] for row in read_metrics(tmp_path / "m.jsonl")] == [7]


def test_resume_drops_the_rows_after_the_checkpoint(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, range(10))
    write_steps(path, range(6, 8), keep_before=6)
    assert [row["step"] for row in read_metrics(path)] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


@given(cut=st.integers(min_value=0, max_value=200))
def test_file_cut_anywhere_loses_only_the_cut_row(tmp_path_factory: pytest.TempPathFactory, cut: int):
    path = tmp_path_factory.mktemp("cut") / "metrics.jsonl"
    write_steps(path, range(5))
    data = path.read_bytes()[:cut]
    path.write_bytes(data)
    whole = data.count(b"\n")
    steps = [row["step"] for row in read_metrics(path)]
    # A row whose newline alone is missing is whole.
    assert steps in (list(range(whole)), list(range(whole + 1)))
    write_steps(path, [99])
    assert [row["step"] for row in read_metrics(path)] == [*steps, 99]


def test_bad_line_before_the_last_is_an_error_that_names_it(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl line 2 is not a JSON object; delete that line"):
        read_metrics(path)


def test_missing_file_is_an_error_with_a_remedy(tmp_path: Path):
    with pytest.raises(ValueError, match=r"metrics=.*none\.jsonl does not exist; give"):
        read_metrics(tmp_path / "none.jsonl")


class FullDisk:
    """A file on a disk that takes five more bytes."""

    def __init__(self, file: FileIO):
        self.file, self.left = file, 5

    def write(self, data: bytes) -> int:
        if not self.left:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(data[: self.left])
        self.left -= written
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_full_disk_leaves_only_whole_rows_and_the_writer_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsWriter(path)
    metrics.write(step=1)
    file = metrics._file
    monkeypatch.setattr(metrics, "_file", FullDisk(file))
    with pytest.raises(OSError, match="no space left") as caught:
        metrics.write(step=2)
    assert caught.value.filename == str(path)
    monkeypatch.undo()
    metrics.write(step=3)
    metrics.close()
    assert path.read_text() == '{"step": 1, "kind": "train"}\n{"step": 3, "kind": "train"}\n'
