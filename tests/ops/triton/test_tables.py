"""Which tokens the programs of the scan work on."""

import pytest
import torch

tables = pytest.importorskip("tandem.ops.triton.tables", reason="needs Triton: pip install triton")


def test_chunks_and_segments_never_cross_documents():
    made = tables.scan_tables((10, 1, 4), 4, 4, torch.device("cpu"))
    assert made.chunks_C3.tolist() == [[0, 4, 0], [4, 8, 0], [8, 10, 0], [10, 11, 1], [11, 15, 2]]
    assert made.segments_K5.tolist() == [
        [0, 8, 0, 0, tables.FIRST],
        [8, 10, 2, 0, tables.LAST],
        [10, 11, 3, 1, tables.FIRST | tables.LAST],
        [11, 15, 4, 2, tables.FIRST | tables.LAST],
    ]
    assert made.documents_S2.tolist() == [[0, 2], [2, 3], [3, 4]]
    assert tables.segment_count((10, 1, 4), 4, 4) == 4


def test_segments_are_whole_chunks_of_near_equal_length():
    assert tables.segment_ends(4096, 64, 4096) == [4096]
    assert tables.segment_ends(5000, 64, 4096) == [5000]
    assert tables.segment_ends(8192, 64, 4000) == [4096, 8192]
    assert tables.segment_ends(1000, 64, 300) == [384, 768, 1000]


def test_a_document_that_is_cut_is_cut_into_short_walks():
    assert len(tables.segment_ends(262_144, 64, 65_536)) == 16
    assert tables.segment_ends(24_576, 64, 16_384) == [*range(4096, 24_577, 4096)]
    assert tables.segment_ends(24_512, 64, 16_384) == [24_512]


@pytest.mark.parametrize("lengths", [(10, 1, 4), (15, 0, 0), (5, 5, 5)])
def test_fixed_tables_have_one_size_and_end_with_what_is_empty(lengths: tuple[int, ...]):
    sizes = tables.fixed_sizes(15, 3, 4, 4)
    fixed = tables.fixed_views(tables.fixed_tables(lengths, 4, 4), sizes)
    made = tables.scan_tables(tuple(n for n in lengths if n), 4, 4, torch.device("cpu"))
    for have, want, size in zip(fixed, made, sizes, strict=True):
        assert len(have) == size
        assert have[: len(want)].tolist() == want.tolist()
    assert not fixed.segments_K5[len(made.segments_K5) :].any()
    assert not fixed.chunks_C3[len(made.chunks_C3) :].any()
    assert all(first == end for first, end in fixed.documents_S2[len(made.documents_S2) :].tolist())
