"""Document and chunk tables of the scan: which tokens each program works on.

Chunks are cut at each document's own start and never cross two documents. A walk over chunks is sequential, so a long
document is cut into segments that are walked side by side; a short one is a segment.

Shapes: S documents, K segments, C chunks.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_SHORT = 4096  # tokens; no part of a document is shorter only for the sake of a short walk
FIRST, LAST = 1, 2  # flags of a segment: its document begins, or ends, with it


class ScanTables(NamedTuple):
    """What the kernels of the scan look up, int32 on their device.

    Attributes:
        segments_K5: first token, end, first chunk, document, flags.
        chunks_C3: first token, end, document.
        documents_S2: first segment, end.
    """

    segments_K5: Tensor
    chunks_C3: Tensor
    documents_S2: Tensor


@lru_cache(maxsize=16)
def scan_tables(lengths: tuple[int, ...], chunk: int, longest: int, device: torch.device) -> ScanTables:
    """Tables for documents of these lengths, made once for all layers of a batch, with one copy to the device.

    Args:
        longest: about as many tokens go into a segment at most; see `segment_ends`.
    """
    return ScanTables(*_to_device(_tables(lengths, chunk, longest), device))


def fixed_tables(lengths: tuple[int, ...], chunk: int, longest: int) -> Tensor:
    """The tables of a `FixedLayout` in one tensor on the CPU; behind them lie empty segments and chunks without flags."""
    tables = _tables(lengths, chunk, longest)
    sizes = fixed_sizes(sum(lengths), len(lengths), chunk, longest)
    return torch.cat(
        [F.pad(t, (0, 0, 0, size - len(t))).flatten() for t, size in zip(tables, sizes, strict=True)]
    ).int()


def fixed_sizes(tokens: int, documents: int, chunk: int, longest: int) -> tuple[int, int, int]:
    """Segments, chunks and documents that `fixed_tables` has rows for: the most that any lengths make."""
    return documents + tokens // _piece(longest), documents + tokens // chunk, documents


def fixed_views(flat: Tensor, sizes: tuple[int, int, int]) -> ScanTables:
    """`fixed_tables` as three tables."""
    columns = (5, 3, 2)
    parts = flat.split([size * width for size, width in zip(sizes, columns, strict=True)])
    return ScanTables(*(part.view(-1, width) for part, width in zip(parts, columns, strict=True)))


def _tables(lengths: tuple[int, ...], chunk: int, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    ends = [segment_ends(length, chunk, longest) for length in lengths]
    pieces_S = torch.tensor([len(of_document) for of_document in ends])
    document_K = torch.repeat_interleave(torch.arange(len(lengths)), pieces_S)
    last_S = pieces_S.cumsum(0)
    documents_S2 = torch.stack([last_S - pieces_S, last_S], 1)

    lengths_S = torch.tensor(lengths)
    offset_K = (lengths_S.cumsum(0) - lengths_S)[document_K]
    end_K = offset_K + torch.tensor([end for of_document in ends for end in of_document])
    first_K = torch.cat([end_K.new_zeros(1), end_K[:-1]])
    chunks_K = (end_K - first_K + chunk - 1) // chunk
    flags_K = (first_K == offset_K) * FIRST + (end_K == offset_K + lengths_S[document_K]) * LAST
    chunk_K = chunks_K.cumsum(0) - chunks_K
    segments_K5 = torch.stack([first_K, end_K, chunk_K, document_K, flags_K], 1)

    segment_C = torch.repeat_interleave(torch.arange(len(end_K)), chunks_K)
    first_C = first_K[segment_C] + (torch.arange(len(segment_C)) - chunk_K[segment_C]) * chunk
    end_C = torch.minimum(first_C + chunk, end_K[segment_C])
    return segments_K5, torch.stack([first_C, end_C, document_K[segment_C]], 1), documents_S2


def segment_ends(length: int, chunk: int, longest: int) -> list[int]:
    """Where the segments of one document end: one of up to 1.5 `longest` tokens is whole, others near-equal runs of chunks."""
    if length == 0:
        return []
    pieces = 1 if length < 1.5 * longest else max(2, round(length / _piece(longest)))
    step = -(-length // (pieces * chunk)) * chunk
    return [min(end, length) for end in range(step, length + step, step)]


def _piece(longest: int) -> int:
    """About how many tokens a part of a document that is cut has.

    A quarter of `longest`: what a part leaves behind is found by walking those of its chunks that still count at its end,
    all of them for the few heads that forget slowly, and such walks are to be short.
    """
    return max(longest // 4, min(longest, _SHORT))


def segment_count(lengths: Sequence[int], chunk: int, longest: int) -> int:
    """K: how many segments `scan_tables` makes."""
    return sum(len(segment_ends(length, chunk, longest)) for length in lengths)


def _to_device(tables: tuple[Tensor, ...], device: torch.device) -> list[Tensor]:
    flat = torch.cat([table.flatten() for table in tables]).int()
    if device.type == "cuda":
        flat = flat.pin_memory().to(device, non_blocking=True)  # from pageable memory the copy would wait for the GPU
    parts = flat.split([table.numel() for table in tables])
    return [part.view(table.shape) for part, table in zip(parts, tables, strict=True)]
