import sys
from collections.abc import Sequence

import numpy as np
import pytest

from tandem.data import Document, drop_semantic_duplicates
from tandem.data.semantic import sentence_encoder

# Texts are `topic:variant`; equal topics point the same way, variants differ a little.
TOPICS = {name: np.eye(12)[k] * (k + 1) for k, name in enumerate("abcdefgh")}


def encoder(texts: Sequence[str]):
    rows = []
    for text in texts:
        topic, variant = text.split(":")
        rows.append(TOPICS[topic] + 0.01 * int(variant) * np.eye(12)[11])
    return np.array(rows)


@pytest.mark.parametrize("block", [1, 3, 32])
def test_the_first_of_each_meaning_is_kept(block: int):
    texts = ["a:1", "b:1", "a:2", "c:1", "d:1", "b:3", "e:1", "f:1", "g:1", "h:1", "c:4", "h:9"]
    documents = [Document(text=text, source=text, group=text) for text in texts]
    kept = drop_semantic_duplicates(documents, threshold=0.95, encoder=encoder, block=block)
    assert [document.text for document in kept] == ["a:1", "b:1", "c:1", "d:1", "e:1", "f:1", "g:1", "h:1"]


def test_threshold_is_checked():
    with pytest.raises(ValueError, match=r"dedup\.semantic_threshold=0"):
        list(drop_semantic_duplicates([], threshold=0, encoder=encoder))


def test_missing_transformers_names_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'transformers"):
        sentence_encoder()
