"""What the scan and the memory converter share: sizes, tables and launches of programs that walk along chunks.

Shapes: T tokens, S documents, K segments of documents, C chunks, H heads, P head width, G groups of heads sharing a key, N
state width, Q tokens of a chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tandem.ops.layout import SequenceLayout
from tandem.ops.triton.scan_kernels import decays_kernel, passing_kernel, states_kernel
from tandem.ops.triton.support import ceil_div, power_of_two
from tandem.ops.triton.tables import ScanTables, fixed_sizes, fixed_views, scan_tables

_WALKS = 256  # programs that walk chunks one after the other: two on each of an H100's 132 processors at once
_SHORTEST = 1024  # tokens of a segment; shorter ones are not worth finding their states twice
_GRADIENTS = 256  # programs that take some heads of a group in a chunk
HEADS = 16  # of a tile in the kernels that turn (T, H) to (H, T)


@dataclass(frozen=True, eq=False)
class Problem:
    """Sizes, tables and launches that both directions share.

    `value` below is x or V, or, in reverse, dy; `key` is B or K, or C.
    """

    dtype: torch.dtype
    device: torch.device
    S: int
    T: int
    H: int
    P: int
    G: int
    N: int
    Q: int
    tables: ScanTables

    @cached_property
    def C(self) -> int:
        """Chunks."""
        return len(self.tables.chunks_C3)

    @cached_property
    def K(self) -> int:
        """Segments."""
        return len(self.tables.segments_K5)

    @cached_property
    def R(self) -> int:
        """Heads of a group."""
        return self.H // self.G

    @cached_property
    def is_cut(self) -> bool:
        """Whether some document is more than one segment."""
        return self.K > self.S

    @cached_property
    def walks(self) -> tuple[int, int]:
        """The grid of the kernels that walk along segments."""
        return self.K * self.H, _parts(self.P)

    @cached_property
    def turns(self) -> tuple[int, int]:
        """The grid of the kernels that turn (T, H) to (H, T)."""
        return self.C, ceil_div(self.H, HEADS)

    @property
    def is_precise(self) -> bool:
        """Whether differences of log-decays are to be exact to float32."""
        return self.dtype == torch.float32

    def states(self, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """So many states of all heads, to be written."""
        return torch.empty(count, self.H, self.P, self.N, dtype=dtype, device=self.device)

    @cached_property
    def tiles(self) -> dict[str, dict[str, Any]]:
        """What `tile` says of each kernel."""
        return {kernel: self.tile(kernel) for kernel in ("forward", "states", "reverse", "entering", "leaving")}

    def tile(self, kernel: str) -> dict[str, Any]:
        """Widths, padded widths and the launch of a kernel; walks take a part of P, the others all of it."""
        P, N = (max(16, power_of_two(width)) for width in (self.P, self.N))
        walks = kernel in ("forward", "states", "reverse")
        blocks = {"BLOCK_P": P // _parts(self.P) if walks else P, "BLOCK_N": N}
        precision = {"PRECISE": self.is_precise, "PRECISION": "tf32x3" if self.is_precise else "tf32"}
        options = _options(kernel, blocks["BLOCK_P"] * N, precise=self.is_precise)
        return {"P": self.P, "N": self.N, "Q": self.Q, **blocks, **precision, **options}

    def decays(self, dt: Tensor, A: Tensor) -> Tensor:
        """What `decays_kernel` says of the chunks, (3 or 5, H, C Q)."""
        dt = dt if dt.stride(1) == 1 else dt.contiguous()
        decay = dt.new_empty(5 if self.is_precise else 3, self.H, self.C * self.Q)
        sizes = (self.H, dt.stride(0), self.Q, HEADS, self.is_precise)
        launch(decays_kernel, self.turns, dt, A, decay, self.tables.chunks_C3, *sizes)
        return decay

    def segment_states(
        self, value: Tensor, key: Tensor, decay: Tensor, start: Tensor | None, *, reverse: bool
    ) -> Tensor | None:
        """The state that enters each segment (in reverse: its gradient, from behind), from the documents' own."""
        if not self.is_cut:
            return start
        states, decay_KH = self.states(self.K), decay.new_empty(self.K, self.H)
        self.walk(value, key, decay, Walk(None, None, states, decay_KH), reverse=reverse)
        PN, block = self.P * self.N, 256  # small: a program waits for memory at each segment
        grid = (self.S * self.H, ceil_div(PN, block))
        launch(passing_kernel, grid, states, decay_KH, start, self.tables.documents_S2, self.H, PN, reverse, block)
        return states

    def walk(self, value: Tensor, key: Tensor, decay: Tensor, states: "Walk", *, reverse: bool) -> None:
        """Launches `states_kernel`."""
        given = (value, key, decay, self.tables.segments_K5, *states)
        sizes = (self.C, self.H, self.R, *value.stride()[:2], *key.stride()[:2])
        tile = self.tiles["states" if states.carried is None else "reverse"]
        launch(
            states_kernel, self.walks, *given, *sizes, REVERSE=reverse, LOCAL=states.segment_decay is not None, **tile
        )


def problem_of(
    value: Tensor,
    key: Tensor,
    lengths: Sequence[int],
    fixed: Tensor | None = None,
) -> Problem:
    """The problem of values (T, H, P) and keys (T, G, N).

    Args:
        fixed: the tables of a `FixedLayout`; else they are made from the lengths.
    """
    longest, Q = segment_tokens(lengths, *value.shape[1:]), chunk_tokens(value.dtype)
    if fixed is None:
        return _problem(value.shape, key.shape, value.dtype, value.device, tuple(lengths), longest)
    (T, H, P), (_, G, N), S = value.shape, key.shape, len(lengths)
    tables = fixed_views(fixed, fixed_sizes(T, S, Q, longest))
    return Problem(value.dtype, value.device, S, T, H, P, G, N, Q, tables)


def hold(layout: SequenceLayout, problem: Problem) -> None:
    """Lets the tables live as long as the layout: a CUDA graph reads them at each replay."""
    vars(layout).setdefault("held", set()).add(problem)


@lru_cache(maxsize=64)  # at small sizes a GPU waits for Python
def _problem(
    value_shape: torch.Size,
    key_shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
    lengths: tuple[int, ...],
    longest: int,
) -> Problem:
    (T, H, P), (_, G, N), Q = value_shape, key_shape, chunk_tokens(dtype)
    return Problem(dtype, device, len(lengths), T, H, P, G, N, Q, scan_tables(lengths, Q, longest, device))


class Walk(NamedTuple):
    """What `states_kernel` reads and leaves beside its inputs.

    With `segment_decay` each segment starts from zero; with neither that nor `chunks` only documents' ends are found.
    """

    start: Tensor | None
    chunks: Tensor | None  # (C, H, N, P) in x's dtype
    end: Tensor | None = None
    segment_decay: Tensor | None = None
    entering: Tensor | None = None
    carried: Tensor | None = None


def chunk_tokens(dtype: torch.dtype) -> int:
    """Tokens of a chunk: what the tensor cores take at once, or, in float32, what fits the shared memory."""
    return 32 if dtype == torch.float32 else 64


def _parts(P: int) -> int:
    """In how many parts to cut the rows of a state."""
    return 2 if P == 128 else 1


def segment_tokens(lengths: Sequence[int], H: int, P: int) -> int:
    """Tokens of a document that is worth cutting, for walks to fill the processors."""
    return max(_SHORTEST, sum(lengths) * H * _parts(P) // _WALKS)


def blocks_of(sets: int, heads: int) -> int:
    """In how many blocks to cut the heads of a group so that all processors find work; a divisor of `heads`.

    As few as possible: each block computes the products of B and C again and has gradients of its own for them.
    """
    return next(n for n in range(1, heads + 1) if heads % n == 0 and (n * sets >= _GRADIENTS or n == heads))


def _options(kernel: str, state: int, *, precise: bool) -> dict[str, int]:
    """Warps of a program and loads in flight: the fastest on an H100 at 64 heads × 64, state 128, bfloat16."""
    if precise:
        return {"num_warps": 8, "num_stages": 1}
    if state > 8192:
        return {"num_warps": 8, "num_stages": 2}
    if kernel == "reverse":
        return {"num_warps": 8, "num_stages": 3, "maxnreg": 128}  # so that two programs share a processor
    return {"num_warps": 8, "num_stages": 3} if kernel == "states" else {"num_warps": 4, "num_stages": 2}


def launch(kernel: Any, grid: tuple[int, ...], *given: Any, **tile: Any) -> None:
    """Starts a kernel; `tile` are its constants and its warps."""
    kernel[grid](*given, **tile)


def in_rows(t: Tensor) -> Tensor:
    """The same values with channels side by side; tokens and heads may lie apart, as in a slice of a projection."""
    return t if t.stride(2) == 1 else t.contiguous()
