"""What a corpus is, and the one way from its packages to cleaned documents on disk."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tandem.data.cleaning import Filters, normalize
from tandem.data.dedup import LineDeduplicator, drop_near_duplicates, fingerprint, require_datasketch
from tandem.data.documents import Document, read_documents, write_documents
from tandem.data.split import split_documents
from tandem.report import atomic_directory, progress

_RECIPE = 2  # raise when cleaning or splitting changes: prepared corpora of an older recipe are then made again

Stage = Callable[[Iterable[Document]], Iterator[Document]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """A source of documents and how to clean it.

    Attributes:
        name: what `tandem data fetch` calls it.
        summary: one line on what the text is.
        packages: registry packages it is read from, with their registry.
        license: under which the text may be used.
        read: yields the documents; is given the directory for downloads.
        recipe: raised when `read` changes its result.
        filters: bounds on length, letters and language.
        repeated_lines: remove lines that an earlier document had; wrong for code and verse.
        near_duplicates: remove nearly equal documents.
    """

    name: str
    summary: str
    packages: tuple[str, ...]
    license: str
    read: Callable[[Path], Iterable[Document]]
    recipe: int = 1
    filters: Filters = field(default_factory=Filters)
    repeated_lines: bool = True
    near_duplicates: bool = True

    def stages(self) -> dict[str, Stage]:
        """Cleaning steps by name, in order."""
        steps: dict[str, Stage] = {"normalized": _normalized, "exact duplicates": _without_copies}
        if self.repeated_lines:
            steps["repeated lines"] = _without_repeated_lines
        steps["filters"] = lambda documents: (d for d in documents if self.filters.reject(d.text) is None)
        if self.near_duplicates:
            steps["near duplicates"] = drop_near_duplicates
        return steps

    def key(self, extra: Sequence[str] = ()) -> str:
        """Directory name of the prepared corpus; equal keys mean equal documents."""
        recipe = [_RECIPE, self.recipe, self.packages, asdict(self.filters), *self.stages(), *extra]
        return f"{self.name}-{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:8]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedCorpus:
    """Cleaned documents on disk: `train.jsonl`, `validation.jsonl`, and `corpus.json` with where they are from.

    Attributes:
        path: the directory.
        facts: name, license, packages; documents and characters after each step; documents, groups and bytes per split.
    """

    path: Path
    facts: dict[str, Any]

    def documents(self, split: str) -> Iterator[Document]:
        """Documents of `train` or `validation`, in hash order, read lazily."""
        return read_documents(self.path / f"{split}.jsonl")


def cache_directory() -> Path:
    """`$TANDEM_CACHE`, else `~/.cache/tandem`."""
    chosen = os.environ.get("TANDEM_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "tandem"


def prepare(corpus: Corpus, *, cache: Path | None = None, extra: dict[str, Stage] | None = None) -> PreparedCorpus:
    """Downloads, cleans and splits a corpus, or returns what an earlier call made.

    Args:
        cache: where downloads and prepared corpora live; `cache_directory()` by default.
        extra: further cleaning steps by name, after the usual ones.

    Raises:
        ValueError: a download fails, or nothing is left after cleaning.
        ImportError: a cleaning step needs an extra that is not installed.
    """
    root = cache or cache_directory()
    path = root / "corpora" / corpus.key(tuple(extra or ()))
    facts_file = path / "corpus.json"
    if not facts_file.is_file():
        if corpus.near_duplicates:
            require_datasketch()
        started = time.monotonic()
        documents, steps = _clean(corpus, root / "downloads", extra or {})
        splits = split_documents(documents)
        facts = {
            "corpus": corpus.name,
            "license": corpus.license,
            "packages": list(corpus.packages),
            "steps": steps,
            "splits": {split: _size(part) for split, part in splits.items()},
            "seconds": round(time.monotonic() - started, 1),
        }
        with atomic_directory(path) as temporary:
            for split, part in splits.items():
                write_documents(temporary / f"{split}.jsonl", part)
            (temporary / "corpus.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
    return PreparedCorpus(path=path, facts=json.loads(facts_file.read_text(encoding="utf-8")))


def _clean(
    corpus: Corpus, downloads: Path, extra: dict[str, Stage]
) -> tuple[list[Document], list[dict[str, int | str]]]:
    """Documents after all stages, and how many were left after each."""
    steps: list[dict[str, int | str]] = []
    documents: list[Document] = []
    read: dict[str, Stage] = {"read": lambda _: iter(corpus.read(downloads))}
    for name, stage in (read | corpus.stages() | extra).items():
        done: list[Document] = []
        with progress(f"{corpus.name}: {name}", None, unit="documents") as bar:
            for document in stage(documents):
                done.append(document)
                bar.advance()
        documents = done
        steps.append({"step": name, "documents": len(done), "characters": sum(len(d.text) for d in done)})
    if not documents:
        raise ValueError(
            f"corpus.{corpus.name} is empty after cleaning ({steps[0]['documents']} documents read); "
            "give more text, or loosen its filters"
        )
    return documents, steps


def _size(documents: Sequence[Document]) -> dict[str, int]:
    return {
        "documents": len(documents),
        "groups": len({document.group for document in documents}),
        "bytes": sum(len(document.text.encode()) for document in documents),
    }


def _normalized(documents: Iterable[Document]) -> Iterator[Document]:
    return (replace(document, text=normalize(document.text)) for document in documents)


def _without_copies(documents: Iterable[Document]) -> Iterator[Document]:
    seen: set[bytes] = set()
    for document in documents:
        key = fingerprint(document.text)
        if key not in seen:
            seen.add(key)
            yield document


def _without_repeated_lines(documents: Iterable[Document]) -> Iterator[Document]:
    deduplicate = LineDeduplicator()
    return (replace(document, text=deduplicate(document.text)) for document in documents)
