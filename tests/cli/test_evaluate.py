"""`tandem eval` from the command line: the table, the file, and Ctrl-C."""

import json
from pathlib import Path
from typing import Any

import pytest

from tandem.cli import evaluate as verb
from tandem.cli import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def test_a_bundled_model_is_measured(capsys: pytest.CaptureFixture[str]):
    Path("text.txt").write_text("Returns the name of a bucket. " * 30)
    options = "--text text.txt --lengths 130 --samples 2 --device cpu"
    main(["eval", "nano", "--tasks", "phone-book,perplexity", *options.split()])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    assert next(row for row in rows if "exact" in row)[:2] == ["phone-book", "130"]
    plain = json.loads(Path("runs/eval/nano.json").read_text())
    bits = next(cell for cell in plain["results"] if cell["task"] == "perplexity")["metrics"]["bits_per_byte"]["value"]
    assert next(row for row in rows if "bits_per_byte" in row)[:3] == ["perplexity", "bits_per_byte", f"{bits:.3g}"]
    assert lines[-1] == "results: runs/eval/nano.json"
    assert all(len(line) <= 80 for line in lines)


def test_what_was_rounded_stands_below_the_table(capsys: pytest.CaptureFixture[str]):
    Path("text.txt").write_text("Returns the name of a bucket.")
    rounding = "--precision.weights E4M3 --precision.block 128 --precision.kv mxfp8 --precision.state nvfp4"
    main(["eval", "nano", "--tasks", "perplexity", "--text", "text.txt", "--device", "cpu", *rounding.split()])
    out = capsys.readouterr().out
    assert "weights: E4M3, block 128, float32 scales, 8.271 bits each, 89% of parameters" in out
    assert "kv: ocp:e4m3fn, block 32, e8m0 scales, 8.25 bits each, 264 bytes a token" in out
    assert "state: ocp:e2m1, block 16, e4m3 scales, 4.501 bits each, 92,180 bytes a document" in out


def test_ctrl_c_says_what_is_kept(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verb, "run_evaluation", interrupted)
    Path("out").mkdir()
    for written in ("nothing was done yet", "what is done is in out/eval.json"):
        with pytest.raises(SystemExit) as left:
            main(["eval", "nano", "--tasks", "needle", "--output", "out"])
        assert left.value.code == 130
        assert capsys.readouterr().out == f"stopped; {written}, and the same command goes on\n"
        Path("out/eval.json").touch()
