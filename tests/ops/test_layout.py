"""Index tensors of a layout against the lists they stand for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.ops import SequenceLayout


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
