"""The SSD scan of Mamba-2 as Triton kernels, forward and backward; `tandem.ops.ssd_chunked` calls it.

Forwards, a program walks the chunks of one document and one head with the state in registers (`scan_kernels.py`).
Backwards, the states between chunks are found again rather than kept, then all chunks are worked on at once
(`scan_backward_kernels.py`). Matrix products take x's dtype and sum in float32; decays, the state and its recurrence are
float32. No sum uses atomics, so results repeat bit for bit.

Shapes: T tokens, S documents, K segments of documents, C chunks, H heads, P head width, G groups of heads sharing B and C,
N state width.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from tandem.ops.layout import FixedLayout, SequenceLayout
from tandem.ops.triton.scan_backward_kernels import decay_gradients_kernel, entering_kernel, leaving_kernel
from tandem.ops.triton.scan_kernels import forward_kernel
from tandem.ops.triton.sums import sum_over
from tandem.ops.triton.support import opaque, power_of_two
from tandem.ops.triton.tables import fixed_tables, segment_count
from tandem.ops.triton.walks import (
    HEADS,
    Problem,
    Walk,
    blocks_of,
    chunk_tokens,
    hold,
    in_rows,
    launch,
    problem_of,
    segment_tokens,
)


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
        hold(layout, problem_of(x_THP, B_TGN, layout.lengths))
    skip = None if D_H is None else D_H.float()
    state = None if state_SHPN is None else state_SHPN.float()
    tables = _fixed_tables(x_THP, layout) if isinstance(layout, FixedLayout) else None
    return _Scan.apply(x_THP, dt_TH.float(), A_H.float(), B_TGN, C_TGN, skip, state, layout.lengths, tables)


def _fixed_tables(x_THP: Tensor, layout: FixedLayout) -> Tensor:
    chunk, longest = chunk_tokens(x_THP.dtype), segment_tokens(layout.lengths, *x_THP.shape[1:])
    return layout.kept((chunk, longest), partial(fixed_tables, chunk=chunk, longest=longest))


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dt, A, B, C, D, state, lengths, tables) -> tuple[Tensor, Tensor]:
        given = in_rows(x), dt, A.contiguous(), in_rows(B), in_rows(C), None if D is None else D.contiguous()
        state = None if state is None else state.contiguous()
        y, final, entering = ssd_forward(*given, state, lengths, tables)
        ctx.save_for_backward(*given, entering if len(entering) else state)
        ctx.lengths, ctx.tables, ctx.has_state = lengths, tables, state is not None
        ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    def backward(ctx, dy, d_final) -> tuple[Tensor | None, ...]:
        x, *_, D, _ = ctx.saved_tensors
        dy = torch.zeros_like(x) if dy is None else in_rows(dy)
        d_final = None if d_final is None else d_final.contiguous()
        dx, d_dt, dB_dC, dA_dD, d_state = ssd_backward(dy, d_final, *ctx.saved_tensors, ctx.lengths, ctx.tables)
        dD, d_state = None if D is None else dA_dD[1], d_state if ctx.has_state else None
        return dx, d_dt, dA_dD[0], dB_dC[0], dB_dC[1], dD, d_state, None, None


def _forward_shapes(x, dt, A, B, C, D, state, lengths, tables):
    (_, H, P), N = x.shape, B.shape[2]
    S, K = len(lengths), segment_count(lengths, chunk_tokens(x.dtype), segment_tokens(lengths, H, P))
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
    problem = problem_of(x, B, lengths, tables)
    decay = problem.decays(dt, A)
    start_KHPN = problem.segment_states(x, B, decay, state, reverse=False)
    y, final = x.new_empty(x.shape), problem.states(problem.S)
    given = (x, B, C, decay, D, problem.tables.segments_K5, start_KHPN, y, final)
    sizes = (problem.C, problem.H, problem.R, *x.stride()[:2], *B.stride()[:2], *C.stride()[:2])
    launch(forward_kernel, problem.walks, *given, *sizes, **problem.tiles["forward"])
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
    problem = problem_of(x, B, lengths, tables)
    decay = problem.decays(dt, A)
    entering = problem.states(problem.C, x.dtype)
    problem.walk(x, B, decay, Walk(start, entering), reverse=False)
    d_start = problem.segment_states(dy, C, decay, d_final, reverse=True)
    leaving, d_state = problem.states(problem.C, x.dtype), problem.states(problem.S)
    carried = decay.new_empty(problem.walks[1], problem.C, problem.H)
    problem.walk(dy, C, decay, Walk(d_start, leaving, d_state, None, entering, carried), reverse=True)
    d_dt, dA_dD_2CH = dt.new_empty(dt.shape), decay.new_empty(2, problem.C, problem.H)
    dx, dB_dC_2TGN, parts = _chunk_gradients(problem, x, B, C, dy, decay, D, (entering, leaving), dA_dD_2CH[1])
    carried_CH = carried[0] if len(carried) == 1 else sum_over(carried, 0)
    given = (parts[:2], parts[2:], carried_CH, decay, A, problem.tables.chunks_C3, d_dt, *dA_dD_2CH)
    launch(decay_gradients_kernel, problem.turns, *given, problem.H, problem.Q, HEADS)
    return dx, d_dt, dB_dC_2TGN, sum_over(dA_dD_2CH, 1), d_state


def _chunk_gradients(
    problem: Problem,
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
    blocks = blocks_of(chunks * G, problem.R)
    dx, parts = x.new_empty(x.shape), decay.new_empty(4, *decay.shape[1:])
    dB, dC = dB_dC = B.new_empty(2, blocks, *B.shape, dtype=B.dtype if blocks == 1 else torch.float32)
    flows = x.new_empty(chunks * G * blocks, problem.Q, problem.Q)
    strides = (*x.stride()[:2], *B.stride()[:2], *C.stride()[:2], *dy.stride()[:2])
    sizes = (T, chunks, H, G, problem.R, *strides, blocks)
    given = (x, B, C, dy, decay, entering, problem.tables.chunks_C3, dC, flows, parts, skips_CH)
    launch(entering_kernel, (len(flows),), *given, *sizes, **problem.tiles["entering"])
    given = (x, B, C, dy, decay, D, leaving, flows, problem.tables.chunks_C3, dx, dB, parts)
    launch(leaving_kernel, (len(flows),), *given, *sizes, **problem.tiles["leaving"])
    return dx, dB_dC[:, 0] if blocks == 1 else sum_over(dB_dC, 1, B.dtype), parts
