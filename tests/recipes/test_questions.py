"""The recipe: options, parts that are kept, and what the report says of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.recipes.question_results import entropy_report, screening_report
from tandem.recipes.questions import QuestionsConfig, ask_again, parts_of


def test_parts_have_names_of_their_own():
    names = [part.name for part in parts_of(QuestionsConfig(subjects=("entropy", "normality", "screening", "faces")))]
    assert len(set(names)) == len(names)
    assert {"entropy-8-greedy", "entropy-16-half-greedy", "screening-10-1024-0.5", "faces-11"} <= set(names)
    assert "entropy-12-greedy" not in names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"searches": 1}, "searches=1 is below 2"),
        ({"seed": -1}, "seed=-1 is below 0"),
        ({"cells": 1000}, "cells=1000 is no power of 2 from 4 on"),
        ({"objects": ()}, r"objects=\(\) must be one or more numbers"),
        ({"subjects": ()}, "subjects is empty"),
    ],
)
def test_mistakes_are_named(options: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        QuestionsConfig(**options)  # pyright: ignore[reportArgumentType]


def test_the_recipe_is_made_and_repeats_nothing(tmp_path: Path):
    config = QuestionsConfig(
        run_dir=tmp_path, subjects=("entropy",), objects=(2,), cells=16, searches=4, greedy_objects=2, draws=200
    )
    ask_again(config)
    first = {file: file.stat().st_mtime_ns for file in (tmp_path / "parts").iterdir()}
    assert {file.name for file in first} == {f"entropy-2-{n}.json" for n in ("bifurcation", "half-greedy", "greedy")}
    assert (tmp_path / "entropy.png").read_bytes()[:4] == b"\x89PNG"
    (tmp_path / "parts" / "entropy-2-greedy.json").unlink()
    ask_again(replace(config, subjects=("entropy", "normality")))
    after = {file: file.stat().st_mtime_ns for file in (tmp_path / "parts").iterdir()}
    kept = [file for file in first if file.name != "entropy-2-greedy.json"]
    assert all(after[file] == first[file] for file in kept)
    rows = json.loads((tmp_path / "queries.json").read_text())["rows"]
    assert rows["entropy-2-greedy"]["entropy"] == pytest.approx(8 - 240 / 256)
    assert rows["normality-2-20-1"]["theory"] == [-30, 5]
    with pytest.raises(ValueError, match="cells=32 but run_dir="):
        ask_again(replace(config, cells=32))


def test_a_curve_above_the_bound_is_told():
    """Two objects on 2^10 cells: n questions remove at most 3 + (n - 2) log2 3 bits."""
    row = {
        "bits": [1.5, 3.0, 4.7],
        "error": [0.0, 0.0, 0.0],
        "questions": [13, 14],
        "cut": 0,
        "entropy": 19.001,
        "cells": 1024,
    }
    text, _ = entropy_report({"entropy-2-greedy": row})
    assert "bits: holds at 2 of 3 points" in text
    assert "n up to half the digits of a cell: holds at 3 of 3" in text
    assert "| 2 | greedy | 3.000 ± 0.000 | 4.700 ± 0.000 | 4.700 ± 0.000 | 13.50 ± 0.50 | 2 |" in text


def test_a_curve_that_was_cut_is_not_drawn_out():
    row = {
        "bits": [1.5, 3.0, 4.5],
        "error": [0.0, 0.0, 0.0],
        "questions": [13],
        "cut": 1,
        "entropy": 19.001,
        "cells": 1024,
    }
    text, _ = entropy_report({"entropy-2-greedy": row})
    assert "| 2 | greedy | 3.000 ± 0.000 | cut | cut |  | 1 (1) |" in text


def test_a_point_off_the_papers_figure_is_told():
    calls = {"IR": [40] * 4, "PR": [7] * 4, "IPR": [60] * 4}
    rows = {
        "screening-2-8-0.0": {"k": 2, "side": 8, "noise": 0.0, "calls": calls},
        "screening-2-8-counts": {"k": 2, "side": 8, "questions": [7, 8]},
    }
    text, _ = screening_report(rows)
    assert "| PR | 2.81 ± 0.00 | 2.81 | 2.8 | agrees |" in text
    assert "| IPR | 5.91 ± 0.00 | 5.91 | 2 | differs |" in text
    assert "1 of 2 points agree" in text
    assert "| 2 | 8 | 7.50 ± 0.50 (2 searches) | 6 + 60 |" in text
