import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tandem.data import Corpus, Document, corpora, corpus
from tandem.data.corpora import books, catalog


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
    monkeypatch.setattr(books, "npm_tarball", lambda *_: tarball)
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


def test_a_union_has_the_documents_licenses_and_packages_of_its_parts(tmp_path: Path):
    def part(name: str, recipe: int = 1):
        text = f"This is the text of {name}, and there is more of it where that came from. " * 5
        read = [Document(text=text, source=f"{name}/{n}", group=f"{name}/{n}") for n in range(3)]
        return Corpus(
            name=name, summary=name, packages=(f"P {name}",), license=f"L {name}", read=lambda _: read, recipe=recipe
        )

    both = catalog.union("both", "two", (part("a"), part("b")))
    assert [document.source for document in both.read(tmp_path)] == ["a/0", "a/1", "a/2", "b/0", "b/1", "b/2"]
    assert (both.packages, both.license) == (("P a", "P b"), "a: L a; b: L b")
    assert both.key() != catalog.union("both", "two", (part("a"), part("b", recipe=2))).key()


def test_the_first_run_reads_documentation_and_novels():
    one = corpus("quickstart")
    assert "botocore" in one.packages[0]
    assert "bundled" in one.packages[1]
    assert one.license == "api-docs: Apache-2.0; classics: public domain"
