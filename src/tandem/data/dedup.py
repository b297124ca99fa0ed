"""Duplicates: equal documents and lines by hash, nearly equal documents by MinHash.

Removal runs over the whole corpus before it is split, so nothing in validation has its twin in training.
"""

import hashlib
import importlib.util
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tandem.data.documents import Document

_WORD = re.compile(r"\w+")
_BLANK_LINES = re.compile(r"\n{2,}")


def fingerprint(text: str) -> bytes:
    """128-bit hash of the words alone: case, spacing and punctuation do not make a text new."""
    words = " ".join(_WORD.findall(text.casefold()))
    return hashlib.blake2b(words.encode(), digest_size=16).digest()


class LineDeduplicator:
    """Removes lines that an earlier document already had, and headings that lost all their lines.

    Only lines of at least `min_words` words count: short ones are headings, and repeat for good reason. What a field
    is called does not count either, so `Name: text` equals `OtherName: text`.

    >>> seen = LineDeduplicator(min_words=3)
    >>> seen("Sizes:\\n\\nthe size of a box"), seen("Again:\\n\\nThe size of a box.")
    ('Sizes:\\n\\nthe size of a box', '')
    """

    def __init__(self, min_words: int = 8) -> None:
        self.min_words = min_words
        self.removed = 0
        self._seen: set[bytes] = set()

    def __call__(self, text: str) -> str:
        """The text without the lines seen before."""
        kept = [line for line in text.split("\n") if self._is_new(line)]
        return _drop_empty_headings("\n".join(kept))

    def _is_new(self, line: str) -> bool:
        label, colon, rest = line.partition(": ")
        body = rest if colon and " " not in label.strip() else line
        if body.count(" ") + 1 < self.min_words:
            return True
        key = fingerprint(body)
        if key in self._seen:
            self.removed += 1
            return False
        self._seen.add(key)
        return True


def _drop_empty_headings(text: str) -> str:
    """Removes blocks of one line that end in a colon and are followed by another such block or by nothing."""
    blocks = [block for block in _BLANK_LINES.split(text.strip("\n")) if block.strip()]
    kept: list[str] = []
    following_is_heading = True
    for block in reversed(blocks):
        is_heading = block.endswith(":") and "\n" not in block
        if not (is_heading and following_is_heading):
            kept.append(block)
            following_is_heading = is_heading
    return "\n\n".join(reversed(kept))


def drop_near_duplicates(
    documents: Iterable[Document], *, threshold: float = 0.8, permutations: int = 64, words: int = 5
) -> Iterator[Document]:
    """Yields documents whose word shingles overlap no earlier one's by `threshold` or more.

    MinHash estimates the Jaccard similarity of the sets of `words`-word shingles (Broder 1997); locality-sensitive
    hashing finds the candidates, so the cost is linear in the number of documents.

    Raises:
        ImportError: the extra `data` is missing.
        ValueError: threshold outside (0, 1).
    """
    if not 0 < threshold < 1:
        raise ValueError(f"dedup.threshold={threshold} is no similarity between 0 and 1; use 0.8")
    index, sketch = _minhash_index(threshold, permutations)
    for number, document in enumerate(documents):
        minhash = sketch(shingles(document.text, words))
        if not index.query(minhash):
            index.insert(number, minhash, check_duplication=False)
            yield document


def shingles(text: str, words: int) -> set[str]:
    """All runs of `words` consecutive words, case folded; the whole text when it is shorter."""
    found = _WORD.findall(text.casefold())
    return {" ".join(found[k : k + words]) for k in range(max(len(found) - words + 1, 1))}


def require_datasketch() -> None:
    """Fails now rather than after minutes of reading.

    Raises:
        ImportError: the extra `data` is missing.
    """
    if importlib.util.find_spec("datasketch") is None:
        raise ImportError(
            "near-duplicate removal needs datasketch: pip install 'tandem-lm[data]', or fetch with --no-near-duplicates"
        )


def _minhash_index(threshold: float, permutations: int) -> tuple[Any, Callable[[set[str]], Any]]:
    """A locality-sensitive index and the function that sketches a set of shingles for it."""
    require_datasketch()
    from datasketch import MinHash, MinHashLSH  # here: it brings scipy.integrate, and only fetching needs it

    empty = MinHash(num_perm=permutations, hashfunc=zlib.crc32)  # CRC-32 is far faster than the default SHA-1

    def sketch(items: set[str]) -> MinHash:
        minhash = empty.copy()
        minhash.update_batch([item.encode() for item in items])
        return minhash

    return MinHashLSH(threshold=threshold, num_perm=permutations), sketch
