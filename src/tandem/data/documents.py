"""Documents on disk: one JSON object a line, UTF-8, written atomically and read back lazily."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tandem.report import atomic_path


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One coherent text.

    Attributes:
        text: the document itself.
        source: where it came from, unique in its corpus, e.g. `sqs/SendMessage`.
        group: documents of one group never sit on both sides of the train/validation split.
    """

    text: str
    source: str
    group: str


def write_documents(path: Path, documents: Iterable[Document]) -> Path:
    """Writes documents as JSON lines; the file appears whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for document in documents:
            row = {"text": document.text, "source": document.source, "group": document.group}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def read_documents(path: Path) -> Iterator[Document]:
    """Reads what `write_documents` wrote, or any lines with a `text`; each is its own group unless it names one.

    Raises:
        ValueError: no such file, or a line that is no document (names file and line).
    """
    if not path.is_file():
        raise ValueError(f"data.documents={path} does not exist; make it with `tandem data fetch`")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield _document(line, f"{path}:{number}", f"data.documents={path} line {number}")


def _document(line: bytes, place: str, name: str) -> Document:
    example = '{"text": "..."}'
    try:
        row = json.loads(line)
        text, source = row["text"], str(row.get("source", place))
        text.encode()  # JSON can say half a character, which no tokenizer and no UTF-8 file takes
        return Document(text=text, source=source, group=str(row.get("group", source)))
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} has half a surrogate pair at character {error.start} of its text; leave it out"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{name} is no JSON object with a text, such as {example}; correct or remove the line"
        ) from error
