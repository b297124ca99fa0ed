"""`tandem data` on made text: what it prints, and that a mistake is a `ValueError` of one line."""

from pathlib import Path

import pytest

from tandem.cli.data import run
from tandem.data import Tokenizer, open_shards

SENTENCE = "And so it was that person {} came to the town and told us about what he had seen on the road to the sea. "


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "texts"
    folder.mkdir()
    for k in range(12):
        names = (f"{'abcdefghijkl'[k]}{n}" for n in range(12))
        (folder / f"{k}.txt").write_text("\n".join(SENTENCE.format(name) for name in names))
    return folder


def test_list_names_every_corpus(capsys: pytest.CaptureFixture[str]):
    run(["list"])
    shown = capsys.readouterr().out
    for name in ("api-docs", "state-of-the-union", "internet-standards", "text PATH ...", "Apache-2.0"):
        assert name in shown


def test_fetch_prints_counts_and_license(folder: Path, capsys: pytest.CaptureFixture[str]):
    run(["fetch", "text", str(folder), "--no-near-duplicates"])
    shown = capsys.readouterr().out
    assert "license: yours" in shown
    assert "exact duplicates" in shown
    assert "near duplicates" not in shown
    assert (Path(shown.splitlines()[-1]) / "train.jsonl").is_file()


def test_tokenize_writes_what_a_run_reads(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "tokens"
    common = ["--corpus", "text", "--paths", str(folder), "--no-near-duplicates"]
    run(["tokenize", "--out", str(out), "--vocab", "300", *common])
    assert "train: 10 documents" in capsys.readouterr().out
    assert open_shards(out, "train").vocab_size == Tokenizer.load(out).vocab_size == 300
    again = tmp_path / "again"
    run(["tokenize", "--out", str(again), "--tokenizer", str(out / "tokenizer.json"), *common])
    assert open_shards(again, "train").fingerprint == open_shards(out, "train").fingerprint


def test_examples_of_good_and_bad_text_filter(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    spam = "Buy it now and click on the link to win, as all of you will have a free offer and a discount if you do. "
    for k in range(4):
        (folder / f"spam{k}.txt").write_text("\n".join(f"{spam} {'wxyz'[k]}{n}" for n in range(12)))
    (tmp_path / "good.txt").write_text("\n\n".join(SENTENCE.format(k) for k in "pqrst"))
    (tmp_path / "bad.jsonl").write_text("\n".join(f'{{"text": "{spam} {k}"}}' for k in "pqrst"))
    examples = ["--good", str(tmp_path / "good.txt"), "--bad", str(tmp_path / "bad.jsonl")]
    run(["fetch", "text", str(folder), "--no-near-duplicates", *examples])
    steps = [line for line in capsys.readouterr().out.splitlines() if "quality" in line]
    assert len(steps) == 1
    assert " 12 " in steps[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fetch", "nope"], r"corpus\.name='nope' is unknown"),
        (["fetch", "text"], r"corpus\.paths=\[\] names no text"),
        (["fetch", "api-docs", "a.txt"], r"data\.paths=a\.txt goes with the corpus `text`"),
        (["fetch", "text", __file__, "--good", __file__], "give both --good and --bad"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str):
    with pytest.raises(ValueError, match=message) as caught:
        run(arguments)
    assert "\n" not in str(caught.value)
