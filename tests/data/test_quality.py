import random

import pytest

from tandem.data import Document, QualityClassifier

GOOD = "the result shows that we can explain why this happens when people read about it in a good book".split()
BAD = "buy now click here cheap free offer winner casino login subscribe discount menu home cart".split()


def sample(words: list[str], seed: int):
    return " ".join(random.Random(seed).choices(words, k=30))


def test_unseen_texts_are_told_apart():
    classifier = QualityClassifier([sample(GOOD, k) for k in range(30)], [sample(BAD, k) for k in range(10)])
    assert classifier.scores([sample(GOOD, k) for k in range(100, 120)]).min() > 0.5
    assert classifier.scores([sample(BAD, k) for k in range(100, 120)]).max() < 0.5
    assert 0.2 < classifier.scores([""])[0] < 0.8
    documents = [
        Document(text=sample(words, 200 + k), source=name, group=name)
        for name, words in (("good", GOOD), ("bad", BAD))
        for k in range(5)
    ]
    assert {document.source for document in classifier.stage()(documents)} == {"good"}


def test_equal_examples_give_equal_classifiers():
    good, bad = [sample(GOOD, k) for k in range(5)], [sample(BAD, k) for k in range(5)]
    assert QualityClassifier(good, bad).fingerprint == QualityClassifier(good, bad).fingerprint
    assert QualityClassifier(good, bad).fingerprint != QualityClassifier(bad, good).fingerprint


def test_too_few_examples_are_refused():
    with pytest.raises(ValueError, match=r"quality\.bad has 1 texts"):
        QualityClassifier(["a b"] * 4, ["c d"])
