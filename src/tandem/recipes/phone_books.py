"""Phone books to learn from: small models meet too little in natural text to learn to look something up.

A document has the form of the evaluation's prompt (`tandem.evaluate.PhoneBook`), a book with numbers asked for under it,
but asks for as many as fit: each of their digits is something to look up. Books and numbers are drawn apart from those of
the evaluation; names come from the same list.
"""

import json
import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from tandem.data import Document, Tokenizer, write_shards
from tandem.evaluate import Line, draw_lines, write_phone_book
from tandem.report import atomic_path

_FEWEST, _ASKED = 2, 2
"""Lines of the shortest book, and names asked for under the longest one."""
_SAMPLE = 16
"""Lines whose tokens are counted to know about how many fit."""


def write_phone_book_shards(directory: Path, tokenizer: Tokenizer, *, documents: int, tokens: int) -> Path:
    """Shards of a split `train` with their tokenizer; instant when they are there already.

    Args:
        tokens: of a document with `<bos>` and without `<eos>`, as the packer counts them; a few less, as whole lines fit.
    Returns:
        directory.
    Raises:
        ValueError: too few tokens for the smallest book.
    """
    made = {"documents": documents, "tokens": tokens, "tokenizer": tokenizer.fingerprint}
    description = directory / "phone-books.json"
    if description.is_file() and json.loads(description.read_text(encoding="utf-8")) == made:
        return directory
    # Removed first and written last: while it is missing the directory counts as unfinished.
    description.unlink(missing_ok=True)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(directory)
    write_shards(_documents(tokenizer, documents, tokens), tokenizer, directory / "train")
    with atomic_path(description) as temporary:
        temporary.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return directory


def _documents(tokenizer: Tokenizer, count: int, tokens: int) -> Iterator[Document]:
    def size(text: str) -> int:
        return len(tokenizer.encode(text)) + 1

    for number in range(count):
        # A string, where the evaluation's books have whole numbers as seeds: no book is in both.
        text = phone_book_document(random.Random(f"phone book to learn from {number}"), tokens, size)
        name = f"phone-book/{number}"
        yield Document(text=text, source=name, group=name)


def phone_book_document(generator: random.Random, tokens: int, size: Callable[[str], int]) -> str:
    """A book of 2 lines or more, and its names asked for in random order, round after round, up to `tokens`.

    The number of lines is uniform on a logarithmic scale: looking up is learned in short books first.

    Args:
        size: counts the tokens of a text.
    Raises:
        ValueError: too few tokens for the smallest book.
    """
    lines = draw_lines(generator)
    empty = size(write_phone_book((), ()))
    sample = list(islice(lines, _SAMPLE))
    a_line = (size(write_phone_book(sample, ())) - empty) / _SAMPLE
    most = int((tokens - empty) / a_line) - _ASKED
    if most < _FEWEST:
        least = empty + (_FEWEST + _ASKED) * a_line + 1
        raise ValueError(f"tokens={tokens} has no room for a phone book of {_FEWEST} lines; use {least:.0f} or more")
    count = int(_FEWEST * ((most + 1) / _FEWEST) ** generator.random())
    book = list(islice(lines, count))
    # Lines are encoded one by one: no token goes across the end of one.
    room = tokens - size(write_phone_book(book, ()))
    sizes = {line: size(write_phone_book((), (line,))) - empty for line in book}
    asked: list[Line] = []
    while True:
        for line in generator.sample(book, len(book)):
            room -= sizes[line]
            if room < 0:
                return write_phone_book(book, asked)
            asked.append(line)
