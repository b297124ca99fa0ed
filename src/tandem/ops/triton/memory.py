# ruff: noqa: ANN201
"""The Memory Converter as Triton kernels, forward and backward; `tandem.ops.convert_memory` calls it.

Forwards it is the scan's walk along chunks (`states_kernel`) that keeps no state but the last. Backwards no state is found
again: each token's part in the state is w_j V_j K_jᵀ, with w_j = dt_j times the decay behind j, so that its gradients are
products of the one gradient dS of its document, all chunks at once:

    u_j = V_jᵀ dS K_j    dV_j = w_j dS K_j    dK_j = Σ_heads w_j dSᵀ V_j    dS_before = f dS
    d(dt_j) = u_j w_j / dt_j + A a_j    dA = Σ_j dt_j a_j    a_j = Σ_{k<j} w_k u_k + f <dS, S_before>

a_j is the gradient of the log-decay of token j and f the decay of the whole document. Sums along a document are made in
blocks of chunks, in float64. No sum uses atomics, so results repeat bit for bit.

Shapes: T tokens, S documents, C chunks, Q tokens of a chunk, H heads, P head width, G groups of heads sharing a key, N
state width.
"""

from collections.abc import Sequence
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from tandem.ops.layout import FixedLayout, SequenceLayout
from tandem.ops.triton.scan import scan_is_supported
from tandem.ops.triton.scan_backward_kernels import decay_gradients_kernel
from tandem.ops.triton.scan_kernels import load_rows, log_difference, store_rows
from tandem.ops.triton.sums import sum_over
from tandem.ops.triton.support import ceil_div, opaque
from tandem.ops.triton.walks import HEADS, Problem, Walk, blocks_of, hold, in_rows, launch, problem_of

_CHUNKS = 64  # of a block in the sums along a document


def convert_is_supported(K_TGN: Tensor, V_THP: Tensor, dt_TH: Tensor, layout: SequenceLayout) -> bool:
    """Whether the kernels take these: one dtype, as many values as decays, room for the widths, and no fixed layout."""
    return (
        K_TGN.dtype == V_THP.dtype
        and V_THP.shape[1] == dt_TH.shape[1]
        and scan_is_supported(V_THP, K_TGN)
        and not isinstance(layout, FixedLayout)
    )


def convert(
    K_TGN: Tensor,
    V_THP: Tensor,
    dt_TH: Tensor,
    A_H: Tensor,
    layout: SequenceLayout,
    state_SHPN: Tensor | None = None,
) -> Tensor:
    """`convert_memory_direct` for K and V of one dtype, float32 or narrower; tokens and heads may lie apart in memory.

    Returns:
        state_SHPN, float32.
    """
    if not torch.compiler.is_compiling():
        hold(layout, problem_of(V_THP, K_TGN, layout.lengths))
    state = None if state_SHPN is None else state_SHPN.float()
    return _Convert.apply(V_THP, K_TGN, dt_TH.float(), A_H.float(), state, layout.lengths)


class _Convert(torch.autograd.Function):
    @staticmethod
    def forward(ctx, V, K, dt, A, state, lengths) -> Tensor:
        given = in_rows(V), in_rows(K), dt, A.contiguous(), None if state is None else state.contiguous()
        ctx.save_for_backward(*given)
        ctx.lengths = lengths
        return memory_forward(*given, lengths)

    @staticmethod
    def backward(ctx, d_end) -> tuple[Tensor | None, ...]:
        dV, dK, d_dt, dA, d_state = memory_backward(d_end.contiguous(), *ctx.saved_tensors, ctx.lengths)
        return dV, dK, d_dt, dA, None if ctx.saved_tensors[4] is None else d_state, None


def _forward_shapes(V, K, dt, A, state, lengths):
    return V.new_empty((len(lengths), *V.shape[1:], K.shape[2]), dtype=torch.float32)


@opaque(_forward_shapes)
def memory_forward(V: Tensor, K: Tensor, dt: Tensor, A: Tensor, state: Tensor | None, lengths: Sequence[int]) -> Tensor:
    """The state at each document's end, (S, H, P, N)."""
    problem = problem_of(V, K, lengths)
    decay, end = problem.decays(dt, A), problem.states(problem.S)
    entering_KHPN = problem.segment_states(V, K, decay, state, reverse=False)
    problem.walk(V, K, decay, Walk(entering_KHPN, None, end), reverse=False)
    return end


def _backward_shapes(d_end, V, K, dt, A, state, lengths):
    return *(t.new_empty(t.shape) for t in (V, K, dt, A)), d_end.new_empty(d_end.shape)


@opaque(_backward_shapes)
def memory_backward(
    d_end: Tensor, V: Tensor, K: Tensor, dt: Tensor, A: Tensor, state: Tensor | None, lengths: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of V, K, dt, A and of the state before."""
    problem = problem_of(V, K, lengths)
    decay = problem.decays(dt, A)
    ends_HC = decay.view(-1, problem.H, problem.C, problem.Q)[..., -1]
    low_HC = ends_HC[3] if problem.is_precise else None
    behind_CH, whole_SH = _sums(problem, ends_HC[0], low_HC, None, reverse=True)
    d_state = d_end * torch.exp2(whole_SH)[:, :, None, None]
    through_SH = None if state is None else (d_state * state).sum((2, 3))
    dV, dK, written, added_CH = _chunk_gradients(problem, V, K, d_end.to(V.dtype), decay, behind_CH)
    before_CH, _ = _sums(problem, added_CH.t(), None, through_SH, reverse=False)
    d_dt, dA_CH = dt.new_empty(dt.shape), torch.empty_like(added_CH)
    given = (None, written, before_CH, decay, A, problem.tables.chunks_C3, d_dt, dA_CH, None)
    launch(decay_gradients_kernel, problem.turns, *given, problem.H, problem.Q, HEADS)
    return dV, dK, d_dt, sum_over(dA_CH, 0), d_state


def _sums(
    problem: Problem, value_HC: Tensor, low_HC: Tensor | None, start_SH: Tensor | None, *, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Of each chunk the sum over those before it in its document (in reverse: behind it), and of whole documents."""
    sums_CH = value_HC.new_empty(problem.C, problem.H)
    totals_SH = value_HC.new_empty(problem.S, problem.H)
    tables = problem.tables
    given = (value_HC, low_HC, start_SH, sums_CH, totals_SH, tables.segments_K5, tables.documents_S2)
    sizes = (problem.H, *value_HC.stride(), problem.Q)
    launch(sums_kernel, (problem.S, ceil_div(problem.H, HEADS)), *given, *sizes, reverse, _CHUNKS, HEADS)
    return sums_CH, totals_SH


def _chunk_gradients(
    problem: Problem, V: Tensor, K: Tensor, d_end: Tensor, decay: Tensor, behind_CH: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    chunks, H, G = problem.C, problem.H, problem.G
    blocks = blocks_of(chunks * G, problem.R)
    dV, added_CH = V.new_empty(V.shape), behind_CH.new_empty(chunks, H)
    dK = K.new_empty(blocks, *K.shape, dtype=K.dtype if blocks == 1 else torch.float32)
    written = decay.new_empty(2, *decay.shape[1:])
    given = (V, K, d_end, decay, behind_CH, problem.tables.chunks_C3, dV, dK, written, added_CH)
    sizes = (problem.T, chunks, H, G, problem.R, *V.stride()[:2], *K.stride()[:2], blocks)
    launch(gradients_kernel, (chunks * G * blocks,), *given, *sizes, **problem.tiles["leaving"])
    return dV, dK[0] if blocks == 1 else sum_over(dK, 0, K.dtype), written, added_CH


@no_type_check
@triton.jit
def sums_kernel(
    value, low, start, sums, totals, segments, documents, H, value_head, value_chunk,
    Q: tl.constexpr, REVERSE: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """Sums of a number a chunk (and what it lost in rounding, `low`) over earlier, in REVERSE later, chunks of a document."""
    document, head_h = tl.program_id(0), tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    some_h = head_h < H
    first = segments + 5 * tl.load(documents + 2 * document)
    last = segments + 5 * (tl.load(documents + 2 * document + 1) - 1)
    chunk = tl.load(first + 2)
    count = tl.load(last + 2) + tl.cdiv(tl.load(last + 1) - tl.load(last), Q) - chunk
    total_h = tl.zeros((HEADS,), tl.float64)
    if start is not None:
        total_h += tl.load(start + document * H + head_h, mask=some_h, other=0.0)
    for done in range(0, count, BLOCK):
        place_B = done + tl.arange(0, BLOCK)
        mask = (place_B < count)[:, None] & some_h[None, :]
        chunk_B = (chunk + (count - 1 - place_B if REVERSE else place_B)).to(tl.int64)
        from_Bh = chunk_B[:, None] * value_chunk + head_h[None, :] * value_head
        value_Bh = tl.load(value + from_Bh, mask=mask, other=0.0).to(tl.float64)
        if low is not None:
            value_Bh += tl.load(low + from_Bh, mask=mask, other=0.0)
        sum_Bh = total_h[None, :] + tl.cumsum(value_Bh, 0) - value_Bh
        tl.store(sums + chunk_B[:, None] * H + head_h[None, :], sum_Bh.to(tl.float32), mask=mask)
        total_h += tl.sum(value_Bh, 0)
    tl.store(totals + document * H + head_h, total_h.to(tl.float32), mask=some_h)


@no_type_check
@triton.jit
def gradients_kernel(
    value, key, d_end, decay, behind, chunks, d_value, d_key, written, added,
    T, CHUNKS, H, G, R, value_token, value_head, key_token, key_group, BLOCKS,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of V and K in one chunk, for the heads of one of the BLOCKS parts of a group.

    `written` (2 planes): dt_j times u_j times the decay behind j, and the same without dt_j; `added`: the former's sum.
    """
    chunk, group = tl.program_id(0) // (G * BLOCKS), tl.program_id(0) % (G * BLOCKS) // BLOCKS
    block, heads = tl.program_id(0) % BLOCKS, R // BLOCKS
    chunks += 3 * chunk
    first, document = tl.load(chunks).to(tl.int64), tl.load(chunks + 2).to(tl.int64)
    i_Q, row_P = tl.arange(0, Q), tl.arange(0, BLOCK_P)
    valid_Q = i_Q < tl.load(chunks + 1) - first
    plane = tl.cast(H, tl.int64) * CHUNKS * Q
    key_QN = load_rows(key + first * key_token + group * key_group, key_token, i_Q, valid_Q, N, BLOCK_N)
    dtype: tl.constexpr = key_QN.dtype
    d_key_QN = tl.zeros((Q, BLOCK_N), tl.float32)
    for r in range(heads):
        head = group * R + block * heads + r
        value_QP = load_rows(value + first * value_token + head * value_head, value_token, i_Q, valid_Q, P, BLOCK_P)
        d_end_PN = load_rows(d_end + (document * H + head) * P * N, N, row_P, row_P < P, N, BLOCK_N)
        place = (head.to(tl.int64) * CHUNKS + chunk) * Q
        log = decay + place
        log_Q = log_difference(log, plane, Q - 1, i_Q, PRECISE, STEP=False)
        behind_Q = tl.exp2(log_Q + tl.load(behind + chunk * H + head))
        dt_Q = tl.load(log + 2 * plane + i_Q)
        weight_Q = behind_Q * dt_Q

        read_QP = tl.dot(key_QN, tl.trans(d_end_PN), input_precision=PRECISION)
        u_Q = tl.sum(read_QP * value_QP, 1)
        tl.store(written + place + i_Q, weight_Q * u_Q)
        tl.store(written + plane + place + i_Q, behind_Q * u_Q)
        tl.store(added + chunk * H + head, tl.sum(weight_Q * u_Q, 0))
        d_value_QP = read_QP * weight_Q[:, None]
        store_rows(d_value + (first * H + head) * P, H * P, i_Q, valid_Q, d_value_QP, P, BLOCK_P)
        weighted_QP = (value_QP * weight_Q[:, None]).to(dtype)
        d_key_QN = tl.dot(weighted_QP, d_end_PN, d_key_QN, input_precision=PRECISION)
    store_rows(d_key + ((block * T + first) * G + group) * N, G * N, i_Q, valid_Q, d_key_QN, N, BLOCK_N)
