from pathlib import Path

import pytest

from tandem.data import PreparedCorpus, Tokenizer, open_shards, prepare, text_corpus, tokenize_corpus
from tandem.data.cleaning import Filters


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("text")
    for k in range(20):
        lines = [f"This is line {n} of file {k}, and it says that {n * k} is not {n + k} at all." for n in range(30)]
        (root / f"{k}.txt").write_text("\n".join(lines))
    return prepare(text_corpus([root], Filters(min_letters=0.6)), cache=tmp_path_factory.mktemp("cache"))


def test_a_corpus_becomes_a_tokenizer_and_two_splits(prepared: PreparedCorpus, tmp_path: Path):
    out = tokenize_corpus(prepared, tmp_path / "tokens", vocab_size=300)
    tokenizer = Tokenizer.load(out)
    for split in ("train", "validation"):
        shards = open_shards(out, split)
        assert shards.meta["tokenizer"] == tokenizer.fingerprint
        assert shards.meta["license"] == "yours"
        texts = [document.text for document in prepared.documents(split)]
        assert [tokenizer.decode(ids.tolist()) for ids in shards] == texts


def test_the_second_time_is_instant_and_a_change_starts_over(prepared: PreparedCorpus, tmp_path: Path):
    out = tokenize_corpus(prepared, tmp_path, vocab_size=300)
    before = (out / "train" / "meta.json").stat().st_mtime_ns
    assert tokenize_corpus(prepared, tmp_path, vocab_size=300) == out
    assert (out / "train" / "meta.json").stat().st_mtime_ns == before
    tokenize_corpus(prepared, tmp_path, vocab_size=310)
    assert open_shards(out, "train").vocab_size == 310


def test_an_interrupted_run_is_not_taken_for_a_finished_one(
    prepared: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tokenize_corpus(prepared, tmp_path, vocab_size=300)
    monkeypatch.setattr(
        "tandem.data.tokenizing.write_shards", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        tokenize_corpus(prepared, tmp_path, vocab_size=310)
    monkeypatch.undo()
    tokenize_corpus(prepared, tmp_path, vocab_size=300)
    assert open_shards(tmp_path, "train").vocab_size == Tokenizer.load(tmp_path).vocab_size == 300


@pytest.mark.parametrize("name", ["tokenizer.json", "tokens.json", "train/tokens-00000.bin", "validation/meta.json"])
@pytest.mark.parametrize("how", ["cut off", "lost"])
def test_what_was_damaged_is_written_again(prepared: PreparedCorpus, tmp_path: Path, name: str, how: str):
    """As the message about the damage says."""
    tokenize_corpus(prepared, tmp_path, vocab_size=300)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    damaged = tmp_path / name
    damaged.write_bytes(before[damaged][:-3])
    if how == "lost":
        damaged.unlink()
    tokenize_corpus(prepared, tmp_path, vocab_size=300)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_given_tokenizer_is_used(prepared: PreparedCorpus, tmp_path: Path):
    given = Tokenizer.train(["some other words entirely"], vocab_size=290)
    out = tokenize_corpus(prepared, tmp_path, tokenizer=given)
    assert Tokenizer.load(out).fingerprint == given.fingerprint == open_shards(out, "train").meta["tokenizer"]
