"""Index tensors of a layout against the lists they stand for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tandem.ops import FixedLayout, NotKeptError, SequenceLayout


@given(
    documents=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 5)), min_size=1, max_size=5),
    chunk=st.integers(1, 8),
)
def test_indices_are_those_of_the_lists(documents: list[tuple[int, int]], chunk: int):
    lengths, starts = zip(*documents, strict=True)
    layout = SequenceLayout.from_lengths(lengths, chunk=chunk, starts=starts)
    assert layout.position_T.tolist() == [s + i for n, s in documents for i in range(n)]
    assert layout.document_T.tolist() == [d for d, (n, _) in enumerate(documents) for _ in range(n)]
    grid = layout.token_CQ.tolist()
    assert [grid[place] for place in layout.grid_T.tolist()] == list(range(sum(lengths)))
    assert grid.count(sum(lengths)) == len(grid) - sum(lengths)
    firsts = [grid[row] for row in range(0, len(grid), chunk)]
    assert firsts == [sum(lengths[:d]) + i for d, n in enumerate(lengths) for i in range(0, n, chunk)]
    assert sorted(c for ids, _ in layout.chunk_steps for c in ids.tolist()) == list(range(layout.chunks))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": []}, "at least one document"),
        ({"lengths": [3, 0]}, "each of one token or more"),
        ({"lengths": [3], "starts": [-1]}, "one count ≥ 0"),
        ({"lengths": [3], "starts": [1, 2]}, "for each of the 1 documents"),
        ({"lengths": [3], "chunk": 0}, "layout.chunk=0"),
    ],
)
def test_wrong_lists_are_named(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        SequenceLayout.from_lengths(**arguments)


def test_a_fixed_layout_keeps_its_tensors_and_refuses_what_does_not_fit():
    layout = FixedLayout.of(SequenceLayout.from_lengths([5, 3]), documents=4)
    index, bounds = layout.index_T, layout.bounds_S
    assert (layout.tokens, layout.documents) == (8, 4)
    layout.refill([1, 4, 3])
    assert layout.index_T is layout.position_T is index
    assert index.tolist() == [0, 0, 1, 2, 3, 0, 1, 2]
    assert layout.bounds_S is bounds
    assert bounds.tolist() == [0, 1, 5, 8, 8]
    with pytest.raises(ValueError, match="add up to 9 tokens but the layout holds 8"):
        layout.refill([9])
    with pytest.raises(ValueError, match="has 5 documents but there is room for documents=4"):
        layout.refill([1, 1, 1, 1, 4])
    with pytest.raises(ValueError, match="text was read before"):
        FixedLayout.of(SequenceLayout.from_lengths([2], starts=[1]), documents=2)
    for name in ("document_T", "grid_T", "chunk_counts", "last_S", "chunk_steps"):
        with pytest.raises(NotKeptError, match="more of the layout than a graph may keep"):
            getattr(layout, name)


@given(
    documents=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=6),
    point=st.integers(0, 26),
)
def test_a_split_puts_each_token_on_its_side_once(documents: list[tuple[int, int]], point: int):
    lengths, starts = zip(*documents, strict=True)
    layout = SequenceLayout.from_lengths(lengths, starts=starts)
    split = layout.split(point)
    order = range(layout.tokens) if split.order is None else split.order[0].tolist()
    found = [(layout.document_T[t].item(), layout.position_T[t].item()) for t in order]
    expected = []
    for part, owners in ((split.before, split.before_documents), (split.behind, split.behind_documents)):
        if part is not None:
            expected += [
                (owners[d], p) for d, p in zip(part.document_T.tolist(), part.position_T.tolist(), strict=True)
            ]
    assert found == expected
    assert all((position < point) == (at < split.first) for at, (_, position) in enumerate(found))
    crossing = split.before_documents[len(split.before_documents) - split.crossing :]
    assert crossing == split.behind_documents[: split.crossing]
    assert (split.crossed.tokens if split.crossed else 0) == sum(point - starts[d] for d in crossing)
    if split.order is not None:
        order_T, place_T = split.order
        assert torch.equal(order_T[place_T], torch.arange(layout.tokens))


def test_a_split_is_made_once():
    layout = SequenceLayout.from_lengths([5, 9])
    assert layout.split(4) is layout.split(4)


def test_a_fixed_layout_has_no_split_that_depends_on_its_documents():
    layout = FixedLayout.of(SequenceLayout.from_lengths([5, 1]), documents=4)
    assert layout.split(0).behind is layout
    assert layout.split(6).before is layout
    with pytest.raises(NotKeptError, match="the point 3"):
        layout.split(3)
