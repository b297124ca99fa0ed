import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tandem.data import corpora, corpus
from tandem.data.corpora import catalog


def test_every_corpus_says_where_it_is_from():
    known = corpora()
    assert next(iter(known)) == "api-docs"
    for name, one in known.items():
        assert one.name == name
        assert all((one.license, one.packages, one.summary))
        assert name in one.key()
    assert len({one.key() for one in known.values()}) == len(known)


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match=r"corpus\.name='nope' is unknown; use one of api-docs, "):
        corpus("nope")


def test_books_are_read_from_the_tarball(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tarball = tmp_path / "d.tgz"
    with tarfile.open(tarball, "w:gz") as archive:
        for name in ("chapter_1", "data", "contents"):
            data = b"CHAPTER 1\r\n\r\nCall me\nIshmael.\n"
            info = tarfile.TarInfo(f"package/moby-dick/data/{name}.txt")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    monkeypatch.setattr(catalog, "npm_tarball", lambda *_: tarball)
    [document] = corpus("moby-dick").read(tmp_path)
    assert (document.source, document.text) == ("chapter_1", "CHAPTER 1\n\nCall me Ishmael.")


def test_pages_are_read_from_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "usr/share/doc/python3.11/html"
    folder.mkdir(parents=True)
    (folder / "about.html").write_text("<h1>About</h1><p>These documents &amp; more.</p>")
    (folder / "genindex-A.html").write_text("<p>A</p>")

    class Files:
        def __init__(self, *_: Any):
            pass

        def __enter__(self):
            return tmp_path

        def __exit__(self, *_: Any):
            pass

    monkeypatch.setattr(catalog, "debian_files", Files)
    [document] = corpus("python-docs").read(tmp_path)
    assert (document.source, document.text) == ("about.html", "About\nThese documents & more.")
