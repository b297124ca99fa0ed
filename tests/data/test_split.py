from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.data import Document
from tandem.data.split import split_documents


def corpus(sizes: Sequence[Sequence[int]]):
    return [
        Document(text="x" * size, source=f"g{k}/d{n}", group=f"g{k}")
        for k, group in enumerate(sizes)
        for n, size in enumerate(group)
    ]


@given(st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=5), min_size=2, max_size=30), st.randoms())
def test_groups_stay_whole_and_order_does_not_matter(sizes: list[list[int]], random: Random):
    documents = corpus(sizes)
    splits = split_documents(documents, validation_bytes=500, largest_share=0.3)
    groups = {split: {d.group for d in part} for split, part in splits.items()}
    assert not groups["train"] & groups["validation"]
    assert groups["train"]
    assert groups["validation"]
    assert sorted(d.source for part in splits.values() for d in part) == sorted(d.source for d in documents)
    random.shuffle(documents)
    assert split_documents(documents, validation_bytes=500, largest_share=0.3) == splits


def test_validation_reaches_its_goal_without_the_largest_group():
    documents = corpus([[10_000], *[[100]] * 200])
    splits = split_documents(documents, validation_bytes=2_000)
    size = sum(len(d.text) for d in splits["validation"])
    assert 2_000 <= size < 2_100
    assert max(len(d.text) for d in splits["validation"]) == 100


def test_validation_is_at_most_a_share_of_a_small_corpus():
    splits = split_documents(corpus([[100]] * 100))
    assert len(splits["validation"]) == 10


def test_the_beginning_of_each_split_is_a_fair_sample():
    """Of documents that are groups of their own, beside groups of many; the counts have a binomial spread."""
    many = corpus([[100] * 20] * 100)
    alone = [Document(text="x" * 100, source=f"alone/{k}", group=f"alone/{k}") for k in range(1000)]
    for part in split_documents([*many, *alone], largest_share=0.5).values():
        half = [document.source.startswith("alone") for document in part[: len(part) // 2]]
        share = sum(document.source.startswith("alone") for document in part) / len(part)
        assert sum(half) / len(half) == pytest.approx(share, abs=4 * (share * (1 - share) / len(half)) ** 0.5)


def test_empty_and_single_group_corpora_are_refused():
    with pytest.raises(ValueError, match="is an empty corpus"):
        split_documents([])
    with pytest.raises(ValueError, match="is a single group"):
        split_documents(corpus([[10, 20]]))
