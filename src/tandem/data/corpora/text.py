"""A user's own text: files and directories as a corpus."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tandem.data.cleaning import Filters
from tandem.data.corpora.corpus import Corpus
from tandem.data.documents import Document, read_documents

TEXT_SUFFIXES = (".txt", ".md", ".rst", ".text", ".jsonl")
"""What is taken from a directory; a file that is named itself may have any suffix."""

_LONG_FILE = 100_000
_PIECE = 20_000


def text_corpus(paths: Sequence[Path], filters: Filters | None = None) -> Corpus:
    """Corpus of UTF-8 text files, of those in directories, and of `.jsonl` files with a `text` field on each line.

    A file above 100,000 characters is cut at blank lines into documents of about 20,000, so that one long file can be
    split between training and validation; a shorter file is one document.

    Raises:
        ValueError: no path, a path does not exist, a directory without text files, or files that are all empty.
    """
    files = list(_files(paths))
    if not any(path.stat().st_size for path in files):
        raise ValueError(
            f"corpus.paths={[str(path) for path in paths]} is an empty corpus, 0 bytes; give files with text"
        )
    stamps = "".join(f"{path}\0{path.stat().st_size}\0{path.stat().st_mtime_ns}\n" for path in files)
    digest = hashlib.sha256(stamps.encode()).hexdigest()[:16]

    def read(_: Path) -> Iterator[Document]:
        for path in files:
            yield from read_text_file(path)

    return Corpus(
        name="text",
        summary=f"{len(files)} files",
        packages=(f"files {digest}",),
        license="yours",
        read=read,
        filters=filters or Filters(),
    )


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    if not paths:
        raise ValueError("corpus.paths=[] names no text; give files or directories after `text`")
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in TEXT_SUFFIXES and file.is_file())
            if not found:
                raise ValueError(f"corpus.path={path} holds no {', '.join(TEXT_SUFFIXES)} files; name the files")
            yield from (file.absolute() for file in found)
        elif path.is_file():
            yield path.absolute()
        else:
            raise ValueError(f"corpus.path={path} does not exist; give a text file or a directory")


def read_text_file(path: Path) -> Iterator[Document]:
    """Documents of one file.

    Raises:
        ValueError: see `read_text`.
    """
    text = read_text(path)
    if path.suffix.lower() == ".jsonl":
        yield from read_documents(path)
    elif len(text) <= _LONG_FILE:
        yield Document(text=text, source=str(path), group=str(path))
    else:
        for number, piece in enumerate(_pieces(text)):
            yield Document(text=piece, source=f"{path}#{number}", group=f"{path}#{number}")


def read_text(path: Path) -> str:
    """The whole text of a file, without a byte order mark.

    Raises:
        ValueError: bytes that are no UTF-8 text, or a NUL byte; names file and byte offset.
    """
    data = path.read_bytes()
    # A NUL is valid UTF-8, but no text has one and nearly every binary format does.
    bad = data.find(b"\0")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        bad = error.start if bad < 0 else min(bad, error.start)
        text = ""
    if bad >= 0:
        raise ValueError(
            f"corpus.file={path} is not UTF-8 text: byte 0x{data[bad]:02x} at offset {bad}; "
            "convert it to UTF-8 (e.g. `iconv -t utf-8`) or leave it out"
        )
    return text


def _pieces(text: str) -> Iterator[str]:
    """Runs of whole paragraphs of about `_PIECE` characters."""
    open_piece: list[str] = []
    size = 0
    for paragraph in re.split(r"\n\s*\n", text):
        open_piece.append(paragraph)
        size += len(paragraph)
        if size >= _PIECE:
            yield "\n\n".join(open_piece)
            open_piece, size = [], 0
    if open_piece:
        yield "\n\n".join(open_piece)
