import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from tandem.data.corpora import books
from tandem.data.corpora.books import austen_chapters, chapters

NOVEL = """EMMA

By Jane Austen

VOLUME I

CHAPTER I


Emma Woodhouse, handsome, clever, and rich,
had _very little_ to vex her.

Chapter of accidents it was not.

VOLUME II

CHAPTER I

[At this point in the first edition, Volume 1 ends.]

The end was near.

FINIS

A NOTE ON THE TEXT

By an editor.""".split("\n")

CHAPTERS = [
    "CHAPTER I\n\nEmma Woodhouse, handsome, clever, and rich, had very little to vex her.\n\nChapter of accidents it was not.",
    "CHAPTER I\n\nThe end was near.",
]


def serialized(lines: list[str], kind: int = 16) -> bytes:
    """As R 4 writes a character vector: `saveRDS(lines, version = 3)` without its compression."""
    header = b"X\n" + struct.pack(">IIII", 3, 0x40201, 0x30500, 5) + b"UTF-8" + struct.pack(">II", kind, len(lines))
    return header + b"".join(struct.pack(">II", 0x40009, len(line.encode())) + line.encode() for line in lines)


def block(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + zlib.compress(raw)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The unpacked package, with a data file to be written."""

    class Files:
        def __init__(self, *_: Any):
            pass

        def __enter__(self):
            return tmp_path

        def __exit__(self, *_: Any):
            pass

    monkeypatch.setattr(books, "debian_files", Files)
    data = tmp_path / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    data.parent.mkdir(parents=True)
    return data


def test_a_novel_becomes_its_chapters_and_nothing_else():
    assert list(chapters(NOVEL)) == CHAPTERS
    assert list(chapters(["EMMA", "", "By Jane Austen"])) == []


def test_novels_are_read_from_the_r_data(package: Path, tmp_path: Path):
    package.write_bytes(b"".join(block(serialized(["Chapter 1", "", f"Of {n} pounds, £{n}."])) for n in range(6)))
    documents = list(austen_chapters(tmp_path))
    assert [document.source for document in documents[:2]] == ["emma/01", "mansfield-park/01"]
    assert documents[3].text == "Chapter 1\n\nOf 3 pounds, £3."


def test_other_data_is_refused(package: Path, tmp_path: Path):
    package.write_bytes(block(serialized(NOVEL)))
    with pytest.raises(
        ValueError, match=r"corpus\.package=r-cran-janeaustenr holds 1 texts, not 6; use version 1\.0\.0"
    ):
        list(austen_chapters(tmp_path))
    package.write_bytes(block(serialized(NOVEL, kind=19)))
    with pytest.raises(ValueError, match="has an R object of type 19, not a character vector"):
        list(austen_chapters(tmp_path))
