from pathlib import Path

import pytest

from tandem.data import prepare, read_text_file, text_corpus

PROSE = "There was a time when all of us would go to the river, and it was there that we learned how to swim. "


def test_files_and_directories_are_read(tmp_path: Path):
    for name in ("a.txt", "b.md", "deep/c.rst", "skipped.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{name} " + PROSE * 5)
    named = tmp_path / "skipped.py"
    sources = [document.source for document in text_corpus([tmp_path, named]).read(tmp_path)]
    assert [source.split("/")[-1] for source in sources] == ["a.txt", "b.md", "c.rst", "skipped.py"]


def test_a_long_file_is_cut_at_blank_lines(tmp_path: Path):
    path = tmp_path / "book.txt"
    paragraphs = [f"Paragraph {k}. " + PROSE * 10 for k in range(300)]
    path.write_text("\n\n".join(paragraphs))
    documents = list(read_text_file(path))
    assert "\n\n".join(document.text for document in documents) == "\n\n".join(paragraphs)
    assert max(len(document.text) for document in documents) < 22_000
    assert len({document.group for document in documents}) == len(documents) > 10


def test_lines_of_json_are_documents(tmp_path: Path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "one", "source": "s", "group": "g"}\n{"text": "two"}\n')
    assert [(d.text, d.group) for d in read_text_file(path)] == [("one", "g"), ("two", f"{path}:2")]


@pytest.mark.parametrize(
    ("data", "offset"), [(b"fine so far \xff\xfe", 12), (b"text\0more", 4), (b"\x89PNG\r\n\x1a\n\0", 0)]
)
def test_binary_files_are_refused_with_the_place(tmp_path: Path, data: bytes, offset: int):
    path = tmp_path / "image.txt"
    path.write_bytes(data)
    with pytest.raises(
        ValueError, match=rf"image\.txt is not UTF-8 text: byte 0x\w\w at offset {offset}; convert"
    ) as e:
        list(read_text_file(path))
    assert "\n" not in str(e.value)


def test_a_byte_order_mark_is_no_text(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert [document.text for document in read_text_file(tmp_path / "a.txt")] == ["hello"]


def test_missing_and_empty_paths_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="names no text"):
        text_corpus([])
    with pytest.raises(ValueError, match="does not exist"):
        text_corpus([tmp_path / "none.txt"])
    with pytest.raises(ValueError, match=r"holds no \.txt"):
        text_corpus([tmp_path])
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"corpus\.paths=.* is an empty corpus, 0 bytes"):
        text_corpus([tmp_path])
    (tmp_path / "short.txt").write_text("Too short to teach anything.")
    with pytest.raises(ValueError, match=r"corpus\.text is empty after cleaning"):
        prepare(text_corpus([tmp_path]), cache=tmp_path / "cache")


def test_a_changed_file_makes_another_key(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    first = text_corpus([path]).key()
    assert text_corpus([path]).key() == first
    path.write_text("another")
    assert text_corpus([path]).key() != first
