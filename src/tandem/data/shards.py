"""Token shards: flat files of ids that are memory-mapped, an index of documents, and a description with hashes.

A directory of shards holds one split:

    meta.json          format, dtype, counts, licenses, tokenizer fingerprint, size and SHA-256 of every other file
    tokens-00000.bin   ids of whole documents one after another, each `<bos> text <eos>`, little-endian
    lengths.bin        uint32, ids of each document with its bos and eos
    bytes.bin          uint32, UTF-8 bytes of each document's text
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tandem.data.documents import Document
from tandem.data.tokenizer import Tokenizer
from tandem.report import atomic_directory, progress

_FORMAT = 1
_DOCUMENTS_AT_ONCE = 1024
_TOKENS_PER_FILE = 1 << 26


class _HashingFile:
    """A file that knows its hash and size when it is closed, without being read again."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._file: BinaryIO = path.open("wb")
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, values: npt.NDArray[np.generic]) -> None:
        data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def close(self) -> tuple[str, dict[str, Any]]:
        self._file.close()
        return self.name, {"bytes": self.size, "sha256": self._hash.hexdigest()}


class _ShardWriter:
    """Appends batches of encoded documents to the files of one directory and counts what it wrote."""

    def __init__(self, directory: Path, dtype: np.dtype[Any], tokens_per_file: int) -> None:
        self._directory, self._dtype, self._bytes_per_file = directory, dtype, tokens_per_file * dtype.itemsize
        self._lengths, self._sizes = self._open("lengths.bin"), self._open("bytes.bin")
        self._shards: list[_HashingFile] = []
        self.counts = {"documents": 0, "tokens": 0, "bytes": 0}

    def _open(self, name: str) -> _HashingFile:
        return _HashingFile(self._directory / name)

    def append(self, ids: Sequence[list[int]], sizes: Sequence[int]) -> None:
        """Documents as ids with bos and eos, and the bytes of their texts."""
        if not self._shards or self._shards[-1].size >= self._bytes_per_file:
            self._shards.append(self._open(f"tokens-{len(self._shards):05d}.bin"))
        flat = np.fromiter(itertools.chain.from_iterable(ids), dtype=self._dtype)
        self._shards[-1].write(flat)
        self._lengths.write(np.array([len(row) for row in ids], dtype=np.uint32))
        self._sizes.write(np.array(sizes, dtype=np.uint32))
        for name, more in (("documents", len(ids)), ("tokens", len(flat)), ("bytes", sum(sizes))):
            self.counts[name] += more

    def close(self) -> dict[str, dict[str, Any]]:
        """Size and hash of each file by name."""
        return dict(file.close() for file in (self._lengths, self._sizes, *self._shards))


def write_shards(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    directory: Path,
    *,
    facts: dict[str, Any] | None = None,
    tokens_per_file: int = _TOKENS_PER_FILE,
) -> Path:
    """Encodes documents into a new directory of shards; it appears whole or not at all.

    Args:
        facts: stored in meta.json beside the counts, e.g. corpus name and license.
        tokens_per_file: a file is closed after the batch of documents that reaches this.

    Raises:
        ValueError: no documents.
    """
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    rows = iter(documents)
    with atomic_directory(directory) as temporary, progress(f"tokenize {directory.name}", None, unit="bytes") as bar:
        writer = _ShardWriter(temporary, dtype, tokens_per_file)
        try:
            while batch := list(islice(rows, _DOCUMENTS_AT_ONCE)):
                texts = [document.text for document in batch]
                ids = [[tokenizer.bos_id, *row, tokenizer.eos_id] for row in tokenizer.encode_batch(texts)]
                sizes = [len(text.encode()) for text in texts]
                writer.append(ids, sizes)
                bar.advance(sum(sizes))
        finally:
            files = writer.close()
        if not writer.counts["documents"]:
            raise ValueError("data.documents=[] is an empty corpus; give at least one document")
        meta = {
            "format": _FORMAT,
            "dtype": dtype.name,
            **writer.counts,
            "vocab_size": tokenizer.vocab_size,
            "tokenizer": tokenizer.fingerprint,
            **(facts or {}),
            "files": files,
        }
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False), encoding="utf-8")
    return directory


class ShardSet:
    """Documents of one split as ids, read from memory-mapped files. Open it with `open_shards`.

    Attributes:
        meta: the content of meta.json.
        lengths: int64 array, ids of each document with bos and eos; a document of n ids trains n − 1 tokens.
        document_bytes: int64 array, UTF-8 bytes of each document's text.
    """

    def __init__(self, directory: Path, meta: dict[str, Any]) -> None:
        self.directory = directory
        self.meta = meta
        self.lengths = np.fromfile(directory / "lengths.bin", dtype="<u4").astype(np.int64)
        self.document_bytes = np.fromfile(directory / "bytes.bin", dtype="<u4").astype(np.int64)
        dtype = np.dtype(meta["dtype"]).newbyteorder("<")
        names = sorted(name for name in meta["files"] if name.startswith("tokens-"))
        self._files = [np.memmap(directory / name, dtype=dtype, mode="r") for name in names]
        self._file_starts = np.cumsum([0, *(len(file) for file in self._files)])
        self._starts = np.cumsum(self.lengths) - self.lengths

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """Number of ids, bos and eos of every document included."""
        return int(self.meta["tokens"])

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all texts."""
        return int(self.meta["bytes"])

    @property
    def vocab_size(self) -> int:
        """Vocabulary of the tokenizer that wrote the ids."""
        return int(self.meta["vocab_size"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the hashes of all files; equal fingerprints hold equal documents in equal order."""
        return hashlib.sha256(json.dumps(self.meta["files"], sort_keys=True).encode()).hexdigest()

    def document(self, index: int) -> npt.NDArray[np.integer]:
        """Ids of one document, bos and eos included, as a view of the file."""
        start = int(self._starts[index])
        file = int(np.searchsorted(self._file_starts, start, side="right")) - 1
        offset = start - int(self._file_starts[file])
        return self._files[file][offset : offset + int(self.lengths[index])]

    def __iter__(self) -> Iterator[npt.NDArray[np.integer]]:
        """All documents in stored order."""
        return (self.document(index) for index in range(len(self)))


def open_shards(directory: Path | str, split: str | None = None, *, verify: bool = True) -> ShardSet:
    """Opens a directory of shards, or its `split` (`train`, `validation`).

    Args:
        verify: compare the SHA-256 of every file, about a second a gigabyte; sizes are always compared.

    Raises:
        ValueError: a file is missing, cut off, changed, or of another format; names the file.
    """
    root = Path(directory) / split if split else Path(directory)
    remedy = f"write the shards again with `tandem data tokenize --out {Path(directory)}`"
    try:
        meta = json.loads((root / "meta.json").read_text(encoding="utf-8"))
        files, found = meta["files"], meta["format"]
    except FileNotFoundError as error:
        raise ValueError(f"data.shards={root} has no meta.json, so it holds no shards; {remedy}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"data.shards={root / 'meta.json'} is unreadable; {remedy}") from error
    if found != _FORMAT:
        raise ValueError(f"data.shards={root} has format {found}, this version reads {_FORMAT}; {remedy}")
    for name, expected in files.items():
        _check_file(root / name, expected, verify=verify, remedy=remedy)
    return ShardSet(root, meta)


def _check_file(path: Path, expected: dict[str, Any], *, verify: bool, remedy: str) -> None:
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise ValueError(f"data.shard={path} has {size} bytes of {expected['bytes']}, so it is cut off; {remedy}")
        if verify:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                    raise ValueError(f"data.shard={path} was changed after it was written; {remedy}")
    except OSError as error:
        raise ValueError(f"data.shard={path} cannot be read ({error.strerror}); {remedy}") from error
