"""Train/validation split by document: whole groups, chosen by hash, enough of them for a steady measurement."""

import hashlib
from collections.abc import Sequence

from tandem.data.documents import Document

SPLITS = ("train", "validation")


def split_documents(
    documents: Sequence[Document], *, validation_bytes: int = 1_100_000, largest_share: float = 0.1
) -> dict[str, list[Document]]:
    """Sets whole groups aside for validation until they hold `validation_bytes` of UTF-8 text.

    Groups are taken in the order of the SHA-256 of their name, so neither the order of the documents nor a random
    state matters. Groups above a quarter of the goal come last: one huge group would make the measurement about itself.
    Both lists are in hash order too, so the beginning of a split is a fair sample of it.

    Args:
        validation_bytes: goal for the validation split; at most `largest_share` of the corpus.

    Raises:
        ValueError: no documents, or a single group, which cannot be on both sides.
    """
    if not documents:
        raise ValueError(
            "data.documents=[] is an empty corpus; give text of at least a few hundred characters of English prose"
        )
    sizes: dict[str, int] = {}
    for document in documents:
        sizes[document.group] = sizes.get(document.group, 0) + len(document.text.encode())
    if len(sizes) < 2:
        raise ValueError(
            f"data.groups={list(sizes)} is a single group, which cannot be split; give at least two documents"
        )
    goal = min(validation_bytes, largest_share * sum(sizes.values()))
    held_out: set[str] = set()
    taken = 0
    for group in sorted(sizes, key=lambda name: (sizes[name] > goal / 4, _rank(name)))[: len(sizes) - 1]:
        if taken >= goal:
            break
        held_out.add(group)
        taken += sizes[group]
    # Another hash than that of the groups: a document that is its own group would otherwise come first in validation,
    # since what came first there is what was held out.
    ordered = sorted(documents, key=lambda document: _rank(f"document {document.source}"))
    return {
        "train": [document for document in ordered if document.group not in held_out],
        "validation": [document for document in ordered if document.group in held_out],
    }


def _rank(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
