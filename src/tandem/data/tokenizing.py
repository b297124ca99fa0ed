"""From a prepared corpus to a directory that a run trains on: a tokenizer and the shards of both splits."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tandem.data.corpora import PreparedCorpus
from tandem.data.documents import Document
from tandem.data.shards import open_shards, write_shards
from tandem.data.split import SPLITS
from tandem.data.tokenizer import Tokenizer
from tandem.report import atomic_path

SAMPLE_CHARACTERS = 20_000_000
"""Text that a tokenizer is trained on; the same 4,096 merges come out of much more, only later."""


def tokenize_corpus(
    corpus: PreparedCorpus, out_dir: Path, *, vocab_size: int = 4096, tokenizer: Tokenizer | None = None
) -> Path:
    """Writes `tokenizer.json`, `train/` and `validation/` into `out_dir`, unless they are there already and whole.

    Args:
        vocab_size: of the tokenizer that is trained on the train split.
        tokenizer: use this one instead of training.

    Raises:
        ValueError: vocab_size too small.
    """
    made = {
        "corpus": corpus.path.name,
        "license": corpus.facts["license"],
        "vocab_size": tokenizer.vocab_size if tokenizer else vocab_size,
        "given_tokenizer": tokenizer.fingerprint if tokenizer else "",
    }
    description = out_dir / "tokens.json"
    if _is_there(out_dir, description, made):
        return out_dir
    tokenizer = tokenizer or train_tokenizer(corpus.documents("train"), vocab_size)
    # Removed first and written last: while it is missing the directory counts as unfinished.
    description.unlink(missing_ok=True)
    out_dir.mkdir(parents=True, exist_ok=True)
    tokenizer.save(out_dir)
    facts = {"corpus": made["corpus"], "license": made["license"], "packages": corpus.facts["packages"]}
    for split in SPLITS:
        write_shards(corpus.documents(split), tokenizer, out_dir / split, facts=facts)
    with atomic_path(description) as temporary:
        temporary.write_text(json.dumps(made, indent=1, ensure_ascii=False), encoding="utf-8")
    return out_dir


def _is_there(out_dir: Path, description: Path, made: dict[str, Any]) -> bool:
    """Whether an earlier call made the same, and none of its files has been lost, cut off or changed since."""
    try:
        if json.loads(description.read_text(encoding="utf-8")) != made:
            return False
        fingerprint = Tokenizer.load(out_dir).fingerprint
        return all(open_shards(out_dir, split).meta["tokenizer"] == fingerprint for split in SPLITS)
    except (OSError, ValueError):
        return False


def train_tokenizer(documents: Iterable[Document], vocab_size: int = 4096) -> Tokenizer:
    """Trains on the first SAMPLE_CHARACTERS of text; prepared corpora are in hash order, so that is a fair sample."""
    return Tokenizer.train(_sample(documents), vocab_size)


def _sample(documents: Iterable[Document]) -> Iterator[str]:
    left = SAMPLE_CHARACTERS
    for document in documents:
        if left <= 0:
            return
        yield document.text[:left]
        left -= len(document.text)
