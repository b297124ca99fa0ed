"""The SSD scan of Mamba-2 as Triton kernels, forward and backward; `tandem.ops.ssd_chunked` calls it.

Forwards, a program walks the chunks of one document and one head with the state in registers (`scan_kernels.py`).
Backwards, the states between chunks are found again rather than kept, then all chunks are worked on at once
(`scan_backward_kernels.py`). Matrix products take x's dtype and sum in float32; decays, the state and its recurrence are
float32. No sum uses atomics, so results repeat bit for bit.

Shapes: T tokens, S documents, K segments of documents, C chunks, H heads, P head width, G groups of heads sharing B and C,
N state width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tandem.ops.layout import FixedLayout, SequenceLayout
from tandem.ops.triton.scan_backward_kernels import decay_gradients_kernel, entering_kernel, leaving_kernel
from tandem.ops.triton.scan_kernels import decays_kernel, forward_kernel, passing_kernel, states_kernel
from tandem.ops.triton.support import ceil_div, opaque, power_of_two
from tandem.ops.triton.tables import ScanTables, fixed_sizes, fixed_tables, fixed_views, scan_tables, segment_count

_WALKS = 256  # programs that walk chunks one after the other: two on each of an H100's 132 processors at once
_SHORTEST = 1024  # tokens of a segment; shorter ones are not worth finding their states twice
_GRADIENTS = 256  # programs that take some heads of a group in a chunk
_HEADS = 16  # of a tile in the kernels that turn (T, H) to (H, T)


def scan_is_supported(x_THP: Tensor, B_TGN: Tensor) -> bool:
    """Whether the kernels have room for these widths: a head's state has to fit in the registers of a program."""
    P, N = (power_of_two(t.shape[2]) for t in (x_THP, B_TGN))
    return P <= 128 and N <= 256 and P * N * x_THP.element_size() <= 32_768


def scan(
    x_THP: Tensor,
    dt_TH: Tensor,
    A_H: Tensor,
    B_TGN: Tensor,
    C_TGN: Tensor,
    layout: SequenceLayout,
    D_H: Tensor | None = None,
    state_SHPN: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`ssd_reference` for x, B and C of one dtype, float32 or narrower; tokens and heads may lie apart in memory."""
    if not (torch.compiler.is_compiling() or isinstance(layout, FixedLayout)):
        # A CUDA graph reads the tables at each replay: they live as long as the layout.
        vars(layout).setdefault("held", set()).add(_problem_of(x_THP, B_TGN, layout.lengths))
    skip = None if D_H is None else D_H.float()
    state = None if state_SHPN is None else state_SHPN.float()
    tables = _fixed_tables(x_THP, layout) if isinstance(layout, FixedLayout) else None
    return _Scan.apply(x_THP, dt_TH.float(), A_H.float(), B_TGN, C_TGN, skip, state, layout.lengths, tables)


def _fixed_tables(x_THP: Tensor, layout: FixedLayout) -> Tensor:
    chunk, longest = _chunk(x_THP.dtype), _longest(layout.lengths, *x_THP.shape[1:])
    return layout.kept((chunk, longest), partial(fixed_tables, chunk=chunk, longest=longest))


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dt, A, B, C, D, state, lengths, tables) -> tuple[Tensor, Tensor]:
        given = _in_rows(x), dt, A.contiguous(), _in_rows(B), _in_rows(C), None if D is None else D.contiguous()
        state = None if state is None else state.contiguous()
        y, final, entering = ssd_forward(*given, state, lengths, tables)
        ctx.save_for_backward(*given, entering if len(entering) else state)
        ctx.lengths, ctx.tables, ctx.has_state = lengths, tables, state is not None
        ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    def backward(ctx, dy, d_final) -> tuple[Tensor | None, ...]:
        x, *_, D, _ = ctx.saved_tensors
        dy = torch.zeros_like(x) if dy is None else _in_rows(dy)
        d_final = None if d_final is None else d_final.contiguous()
        dx, d_dt, dB_dC, dA_dD, d_state = ssd_backward(dy, d_final, *ctx.saved_tensors, ctx.lengths, ctx.tables)
        dD, d_state = None if D is None else dA_dD[1], d_state if ctx.has_state else None
        return dx, d_dt, dA_dD[0], dB_dC[0], dB_dC[1], dD, d_state, None, None


def _forward_shapes(x, dt, A, B, C, D, state, lengths, tables):
    (_, H, P), N = x.shape, B.shape[2]
    S, K = len(lengths), segment_count(lengths, _chunk(x.dtype), _longest(lengths, H, P))
    final = x.new_empty((S, H, P, N), dtype=torch.float32)
    return x.new_empty(x.shape), final, final.new_empty((K if K > S else 0, H, P, N))


@opaque(_forward_shapes)
def ssd_forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor | None,
    lengths: Sequence[int],
    tables: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """y_THP, the final state_SHPN and the states entering the segments, (K, H, P, N), none where those are documents.

    `tables`: those of a `FixedLayout`, read in place of the lengths; else they are made from the lengths.
    """
    problem = _problem_of(x, B, lengths, tables)
    decay = problem.decays(dt, A)
    start_KHPN = problem.segment_states(x, B, decay, state, reverse=False)
    y, final = x.new_empty(x.shape), problem.states(problem.S)
    given = (x, B, C, decay, D, problem.tables.segments_K5, start_KHPN, y, final)
    sizes = (problem.C, problem.H, problem.R, *x.stride()[:2], *B.stride()[:2], *C.stride()[:2])
    _start(forward_kernel, problem.walks, *given, *sizes, **problem.tiles["forward"])
    return y, final, start_KHPN if problem.is_cut and start_KHPN is not None else problem.states(0)


def _backward_shapes(dy, d_final, x, dt, A, B, C, D, start, lengths, tables):
    d_state = x.new_empty((len(lengths), *x.shape[1:], B.shape[2]), dtype=torch.float32)
    return *(t.new_empty(t.shape) for t in (x, dt)), B.new_empty(2, *B.shape), A.new_empty(2, len(A)), d_state


@opaque(_backward_shapes)
def ssd_backward(
    dy: Tensor,
    d_final: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    start: Tensor | None,
    lengths: Sequence[int],
    tables: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, dt, of B and C (2, T, G, N), of A and D (2, H), and of the initial state.

    `start` is the state that enters each segment, or None.
    """
    problem = _problem_of(x, B, lengths, tables)
    decay = problem.decays(dt, A)
    entering = problem.states(problem.C, x.dtype)
    problem.walk(x, B, decay, _Walk(start, entering), reverse=False)
    d_start = problem.segment_states(dy, C, decay, d_final, reverse=True)
    leaving, d_state = problem.states(problem.C, x.dtype), problem.states(problem.S)
    carried = decay.new_empty(_tiles(problem.P), problem.C, problem.H)
    problem.walk(dy, C, decay, _Walk(d_start, leaving, d_state, None, entering, carried), reverse=True)
    d_dt, dA_dD_2CH = dt.new_empty(dt.shape), decay.new_empty(2, problem.C, problem.H)
    dx, dB_dC_2TGN, parts = _chunk_gradients(problem, x, B, C, dy, decay, D, (entering, leaving), dA_dD_2CH[1])
    carried_CH = carried[0] if len(carried) == 1 else carried.sum(0)
    given = (parts, carried_CH, decay, A, problem.tables.chunks_C2, d_dt, *dA_dD_2CH)
    _start(decay_gradients_kernel, problem.turns, *given, problem.H, problem.Q, _HEADS)
    return dx, d_dt, dB_dC_2TGN, dA_dD_2CH.sum(1), d_state


@dataclass(frozen=True, eq=False)
class _Problem:
    """Sizes, tables and launches that both directions share."""

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
        return len(self.tables.chunks_C2)

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
        return self.K * self.H, _tiles(self.P)

    @cached_property
    def turns(self) -> tuple[int, int]:
        """The grid of the kernels that turn (T, H) to (H, T)."""
        return self.C, ceil_div(self.H, _HEADS)

    @property
    def is_precise(self) -> bool:
        return self.dtype == torch.float32

    def states(self, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(count, self.H, self.P, self.N, dtype=dtype, device=self.device)

    @cached_property
    def tiles(self) -> dict[str, dict[str, Any]]:
        """What `tile` says of each kernel."""
        return {kernel: self.tile(kernel) for kernel in ("forward", "states", "reverse", "entering", "leaving")}

    def tile(self, kernel: str) -> dict[str, Any]:
        """Widths, padded widths and the launch of a kernel; walks take a part of P, the others all of it."""
        P, N = (max(16, power_of_two(width)) for width in (self.P, self.N))
        walks = kernel in ("forward", "states", "reverse")
        blocks = {"BLOCK_P": P // _tiles(self.P) if walks else P, "BLOCK_N": N}
        precision = {"PRECISE": self.is_precise, "PRECISION": "tf32x3" if self.is_precise else "tf32"}
        launch = _launch(kernel, blocks["BLOCK_P"] * N, precise=self.is_precise)
        return {"P": self.P, "N": self.N, "Q": self.Q, **blocks, **precision, **launch}

    def decays(self, dt: Tensor, A: Tensor) -> Tensor:
        """What `decays_kernel` says of the chunks, (3 or 5, H, C Q)."""
        dt = dt if dt.stride(1) == 1 else dt.contiguous()
        decay = dt.new_empty(5 if self.is_precise else 3, self.H, self.C * self.Q)
        sizes = (self.H, dt.stride(0), self.Q, _HEADS, self.is_precise)
        _start(decays_kernel, self.turns, dt, A, decay, self.tables.chunks_C2, *sizes)
        return decay

    def segment_states(
        self, value: Tensor, key: Tensor, decay: Tensor, start: Tensor | None, *, reverse: bool
    ) -> Tensor | None:
        """The state that enters each segment (in reverse: its gradient, from behind), from the documents' own."""
        if not self.is_cut:
            return start
        states, decay_KH = self.states(self.K), decay.new_empty(self.K, self.H)
        self.walk(value, key, decay, _Walk(None, None, states, decay_KH), reverse=reverse)
        PN, block = self.P * self.N, 1024
        grid = (self.S * self.H, ceil_div(PN, block))
        _start(passing_kernel, grid, states, decay_KH, start, self.tables.documents_S2, self.H, PN, reverse, block)
        return states

    def walk(self, value: Tensor, key: Tensor, decay: Tensor, states: "_Walk", *, reverse: bool) -> None:
        """Launches `states_kernel`: over x and B, or, in reverse, over dy and C."""
        given = (value, key, decay, self.tables.segments_K5, *states)
        sizes = (self.C, self.H, self.R, *value.stride()[:2], *key.stride()[:2])
        tile = self.tiles["states" if states.carried is None else "reverse"]
        _start(states_kernel, self.walks, *given, *sizes, REVERSE=reverse, LOCAL=states.chunks is None, **tile)


def _problem_of(x: Tensor, B: Tensor, lengths: Sequence[int], fixed: Tensor | None = None) -> _Problem:
    longest, Q = _longest(lengths, x.shape[1], x.shape[2]), _chunk(x.dtype)
    if fixed is None:
        return _problem(x.shape, B.shape, x.dtype, x.device, tuple(lengths), longest)
    (T, H, P), (_, G, N), S = x.shape, B.shape, len(lengths)
    tables = fixed_views(fixed, fixed_sizes(T, S, Q, longest))
    return _Problem(x.dtype, x.device, S, T, H, P, G, N, Q, tables)


@lru_cache(maxsize=64)  # at small sizes a GPU waits for Python
def _problem(
    x_shape: torch.Size,
    B_shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
    lengths: tuple[int, ...],
    longest: int,
) -> _Problem:
    (T, H, P), (_, G, N), Q = x_shape, B_shape, _chunk(dtype)
    return _Problem(dtype, device, len(lengths), T, H, P, G, N, Q, scan_tables(lengths, Q, longest, device))


class _Walk(NamedTuple):
    """What `states_kernel` reads and leaves beside its inputs; without `chunks`, what each segment adds by itself."""

    start: Tensor | None
    chunks: Tensor | None  # (C, H, N, P) in x's dtype
    end: Tensor | None = None
    segment_decay: Tensor | None = None
    entering: Tensor | None = None
    carried: Tensor | None = None


def _chunk_gradients(
    problem: _Problem,
    x: Tensor,
    B: Tensor,
    C: Tensor,
    dy: Tensor,
    decay: Tensor,
    D: Tensor | None,
    states: tuple[Tensor, Tensor],
    skips_CH: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    entering, leaving = states
    chunks, T, H, G = problem.C, problem.T, problem.H, problem.G
    blocks = _blocks(chunks * G, problem.R)
    dx, parts = x.new_empty(x.shape), decay.new_empty(4, *decay.shape[1:])
    dB, dC = dB_dC = B.new_empty(2, blocks, *B.shape, dtype=B.dtype if blocks == 1 else torch.float32)
    flows = x.new_empty(chunks * G * blocks, problem.Q, problem.Q)
    strides = (*x.stride()[:2], *B.stride()[:2], *C.stride()[:2], *dy.stride()[:2])
    sizes = (T, chunks, H, G, problem.R, *strides, blocks)
    given = (x, B, C, dy, decay, entering, problem.tables.chunks_C2, dC, flows, parts, skips_CH)
    _start(entering_kernel, (len(flows),), *given, *sizes, **problem.tiles["entering"])
    given = (x, B, C, dy, decay, D, leaving, flows, problem.tables.chunks_C2, dx, dB, parts)
    _start(leaving_kernel, (len(flows),), *given, *sizes, **problem.tiles["leaving"])
    return dx, dB_dC[:, 0] if blocks == 1 else dB_dC.sum(1).to(B.dtype), parts


def _blocks(sets: int, heads: int) -> int:
    """In how many blocks to cut the heads of a group so that all processors find work; a divisor of `heads`.

    As few as possible: each block computes the products of B and C again and has gradients of its own for them.
    """
    return next(n for n in range(1, heads + 1) if heads % n == 0 and (n * sets >= _GRADIENTS or n == heads))


def _chunk(dtype: torch.dtype) -> int:
    """Tokens of a chunk: what the tensor cores take at once, or, in float32, what fits the shared memory."""
    return 32 if dtype == torch.float32 else 64


def _tiles(P: int) -> int:
    """In how many parts to cut the rows of a state."""
    return 2 if P == 128 else 1


def _longest(lengths: Sequence[int], H: int, P: int) -> int:
    return max(_SHORTEST, sum(lengths) * H * _tiles(P) // _WALKS)


def _launch(kernel: str, state: int, *, precise: bool) -> dict[str, int]:
    """Warps of a program and loads in flight: the fastest on an H100 at 64 heads × 64, state 128, bfloat16."""
    if precise:
        return {"num_warps": 8, "num_stages": 1}
    if state > 8192:
        return {"num_warps": 8, "num_stages": 2}
    if kernel == "reverse":
        return {"num_warps": 8, "num_stages": 3, "maxnreg": 128}  # so that two programs share a processor
    return {"num_warps": 8, "num_stages": 3} if kernel == "states" else {"num_warps": 4, "num_stages": 2}


def _start(kernel: Any, grid: tuple[int, ...], *given: Any, **tile: Any) -> None:
    kernel[grid](*given, **tile)


def _in_rows(t: Tensor) -> Tensor:
    """The same values with channels side by side; tokens and heads may lie apart, as in a slice of a projection."""
    return t if t.stride(2) == 1 else t.contiguous()
