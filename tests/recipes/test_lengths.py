"""The sweep over lengths on a small shape, its rows and its figure."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_toys import SMALL

from tandem.recipes import lengths
from tandem.recipes.lengths import LengthRow, measure_lengths, write_lengths


def test_both_layers_are_timed_at_every_length(monkeypatch: pytest.MonkeyPatch):
    def once(call: Any, sets: Any, *, runs: int) -> tuple[float, ...]:
        call(sets[0])
        return (1.0, 2.0, 4.0)

    monkeypatch.setattr(lengths, "milliseconds", once)
    monkeypatch.setattr(lengths, "TOKENS", 128)
    monkeypatch.setattr(lengths, "LENGTHS", (32, 128))
    rows = list(lengths._rows(SMALL, "cpu"))
    assert [(row.layer, row.length) for row in rows] == [("M", 32), ("M", 128), ("A", 32), ("A", 128)]
    assert rows[0].nanoseconds == (2e6 / 128, 2e6 / 128)


def test_rows_and_figure_are_written(tmp_path: Path):
    rows = [LengthRow(layer=x, length=n, forward=(0.1, 0.2), both=(0.5, n / 1024)) for x in "MA" for n in (1024, 4096)]
    table, picture = write_lengths(rows, tmp_path / "new", "Time a token")
    assert [json.loads(line)["length"] for line in table.read_text().splitlines()] == [1024, 4096, 1024, 4096]
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_a_remedy():
    with pytest.raises(ValueError, match="run on a machine with an NVIDIA GPU"):
        measure_lengths()
