import lzma
from collections import Counter
from pathlib import Path

import pytest

from tandem.data import Document, read_documents
from tandem.data.corpora import classics
from tandem.data.corpora.classics import CLASSICS_FILE, read_classics, write_classics

# As in any edition; of Moby-Dick 135 chapters and the epilogue.
CHAPTERS = {
    "emma": 55,
    "mansfield-park": 48,
    "northanger-abbey": 31,
    "persuasion": 24,
    "pride-and-prejudice": 61,
    "sense-and-sensibility": 50,
    "moby-dick": 136,
}


@pytest.fixture(scope="module")
def documents():
    return list(read_classics())


def test_all_chapters_are_there(documents: list[Document]):
    assert Counter(document.source.split("/")[0] for document in documents) == CHAPTERS
    assert len({document.group for document in documents}) == sum(CHAPTERS.values())
    texts = {document.source: document.text for document in documents}
    assert texts["pride-and-prejudice/01"].startswith(
        "Chapter 1\n\nIt is a truth universally acknowledged, that a single man in possession of a good fortune, must be"
    )
    assert texts["moby-dick/1"].startswith("CHAPTER 1. Loomings.\n\nCall me Ishmael. Some years ago")
    assert texts["moby-dick/epilogue"].endswith("only found another orphan.")


def test_nothing_but_the_novels(documents: list[Document]):
    text = "\n".join(document.text for document in documents)
    for foreign in ("Gutenberg", "http", "Copyright", "Signet", "VOLUME", "FINIS", "_"):
        assert foreign not in text


def test_the_file_is_small_enough_to_bundle():
    assert CLASSICS_FILE.stat().st_size < 2_000_000


def test_damage_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    damaged = tmp_path / "classics.jsonl.xz"
    monkeypatch.setattr(classics, "CLASSICS_FILE", damaged)
    damaged.write_bytes(CLASSICS_FILE.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"corpus\.file=.* is damaged .*; install tandem-lm again"):
        list(read_classics())
    damaged.write_bytes(lzma.compress(b'{"text": "other", "source": "a/1"}\n'))
    with pytest.raises(ValueError, match=r"corpus\.file=.* has SHA-256 .*, not .*; install tandem-lm again"):
        list(read_classics())


def test_made_again_from_chapters_it_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, documents: list[Document]
):
    monkeypatch.setattr(classics, "_chapters", lambda _: iter(documents))
    made = write_classics(tmp_path / "again.jsonl.xz", tmp_path)
    unpacked = tmp_path / "again.jsonl"
    unpacked.write_bytes(lzma.decompress(made.read_bytes()))
    assert list(read_documents(unpacked)) == documents
    monkeypatch.setattr(classics, "_chapters", lambda _: iter(documents[1:]))
    with pytest.raises(ValueError, match=r"corpus\.classics of these packages has SHA-256"):
        write_classics(tmp_path / "other.jsonl.xz", tmp_path)
    assert not (tmp_path / "other.jsonl.xz").exists()
