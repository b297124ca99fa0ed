from pathlib import Path

import pytest

from tandem.data import Document, read_documents, write_documents


def test_documents_survive_the_disk(tmp_path: Path):
    documents = [Document(text=text, source=f"s{k}", group="g") for k, text in enumerate(["a\nb", "é 東 🦊", "\u2028"])]
    path = write_documents(tmp_path / "d.jsonl", documents)
    assert list(read_documents(path)) == documents


@pytest.mark.parametrize(
    ("line", "message"),
    [
        *((line, "line 2 is no JSON object with a text") for line in ('{"text": "b"', "", "[1]", '{"loss": 1}')),
        *((line, "line 2 is no JSON object with a text") for line in ('{"text": 5}', '{"text": null}', "[" * 99_999)),
        ('{"text": "ab\\ud800"}', "line 2 has half a surrogate pair at character 2 of its text; leave it out"),
    ],
)
def test_unreadable_lines_are_named(tmp_path: Path, line: str, message: str):
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "a", "source": "s", "group": "g"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        list(read_documents(path))
    with pytest.raises(ValueError, match="does not exist"):
        list(read_documents(tmp_path / "none.jsonl"))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = write_documents(tmp_path / "d.jsonl", [Document(text="old", source="s", group="g")])

    def failing():
        yield Document(text="new", source="s", group="g")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_documents(path, failing())
    assert [d.text for d in read_documents(path)] == ["old"]
    assert list(tmp_path.iterdir()) == [path]
