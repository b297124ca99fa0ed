import random

import pytest

from tandem.data import Document
from tandem.data.dedup import LineDeduplicator, drop_near_duplicates, fingerprint, shingles

WORDS = [f"word{k}" for k in range(2000)]


def document(text: str, name: str = "d"):
    return Document(text=text, source=name, group=name)


def random_text(seed: int, words: int = 200):
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def test_fingerprint_sees_words_only():
    assert fingerprint("The  cat, sat!") == fingerprint("the cat sat")
    assert fingerprint("the cat sat") != fingerprint("the cats at")


def test_lines_seen_before_are_removed_and_short_ones_stay():
    deduplicate = LineDeduplicator(min_words=5)
    line = "the token that marks the next page of results"
    assert (
        deduplicate(f"One\n\nRequest fields:\n\nNextToken: {line}.") == f"One\n\nRequest fields:\n\nNextToken: {line}."
    )
    again = f"Two\n\nRequest fields:\n\nToken: {line}\n\nName: a name\n\nResponse fields:\n\nOther: {line.upper()}"
    assert deduplicate(again) == "Two\n\nRequest fields:\n\nName: a name"
    assert deduplicate.removed == 2


def test_headings_that_lost_their_lines_go_with_them():
    deduplicate = LineDeduplicator(min_words=3)
    deduplicate("one two three four")
    assert deduplicate("Title\n\nFirst:\n\nOne two three four.\n\nSecond:\n\nnew words come here") == (
        "Title\n\nSecond:\n\nnew words come here"
    )


def test_near_duplicates_are_dropped_and_others_kept():
    pytest.importorskip("datasketch", reason="pip install 'tandem-lm[data]'")
    originals = [random_text(seed) for seed in range(20)]
    copies = [text.replace(text.split()[100], "changed") for text in originals[:10]]
    kept = list(drop_near_duplicates(document(text) for text in [*originals, *copies]))
    assert [d.text for d in kept] == originals


def test_half_equal_documents_are_no_duplicates():
    pytest.importorskip("datasketch", reason="pip install 'tandem-lm[data]'")
    pairs = [[random_text(k), random_text(k, 100) + " " + random_text(k + 1000, 100)] for k in range(10)]
    texts = [text for pair in pairs for text in pair]
    assert [d.text for d in drop_near_duplicates(map(document, texts))] == texts


def test_shingles_of_short_text_are_the_text():
    assert shingles("A b", 5) == {"a b"}
    assert shingles("a b c d", 3) == {"a b c", "b c d"}


def test_threshold_is_checked():
    with pytest.raises(ValueError, match=r"dedup\.threshold=1\.5"):
        list(drop_near_duplicates([], threshold=1.5))


def test_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'tandem-lm\[data\]'"):
        list(drop_near_duplicates([document("text")]))
