# ruff: noqa: ANN201, SIM102 - Triton takes no `and` of a constant and a loaded value
"""Triton kernels of the SSD scan, forwards; `scan.py` launches them.

A program of `forward_kernel` walks the chunks of a segment with one head's state in registers, so that x, B, C and y
cross the memory once and no state does. Where documents are so few and long that segments are parts of them, the state
that each segment adds by itself is found first (`states_kernel`), then passed along the document (`passing_kernel`).

Shapes: T tokens, H heads, P head width, G groups, N state width, Q tokens of a chunk, K segments, S documents. Blocks are
padded to powers of two. In chunk tokens i and j, f_i is the decay from the chunk's start through i, e_j from behind j to
its end, L_ij from behind j through i.
"""

from typing import no_type_check

import triton
import triton.language as tl

from tandem.ops.triton import tables

_LOG2_E = tl.constexpr(1.4426950408889634)
_TINY = tl.constexpr(2.0**-126)  # a step of 0 counts as this: its logarithm is finite
_FORGOTTEN = tl.constexpr(-150.0)  # a log-decay, base 2, whose power of two is 0 in float32
_LOOK_BACK = tl.constexpr(32)  # chunks whose decays are added at once
_FIRST, _LAST = tl.constexpr(tables.FIRST), tl.constexpr(tables.LAST)


@no_type_check
@triton.jit
def load_rows(pointer, stride, row_Q, valid_Q, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """(Q, BLOCK) of rows that lie `stride` apart; zero where a row is not valid or a column is past WIDTH."""
    column = tl.arange(0, BLOCK)
    mask = valid_Q[:, None]
    if BLOCK != WIDTH:
        mask = mask & (column < WIDTH)[None, :]
    return tl.load(pointer + row_Q[:, None] * stride + column[None, :], mask=mask, other=0.0)


@no_type_check
@triton.jit
def store_rows(pointer, stride, row_Q, valid_Q, value, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """The inverse of `load_rows`, in the pointer's dtype."""
    column = tl.arange(0, BLOCK)
    mask = valid_Q[:, None]
    if BLOCK != WIDTH:
        mask = mask & (column < WIDTH)[None, :]
    tl.store(pointer + row_Q[:, None] * stride + column[None, :], value.to(pointer.dtype.element_ty), mask=mask)


@no_type_check
@triton.jit
def first_state(start, slot, column_P, P: tl.constexpr, N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr):
    """(N, P) from the slot's state (P, N) in memory; zeros without a `start`."""
    row_N = tl.arange(0, BLOCK_N)
    if start is None:
        state_NP = tl.zeros((BLOCK_N, BLOCK_P), tl.float32)
    else:
        mask = (row_N < N)[:, None] & (column_P < P)[None, :]
        place = slot.to(tl.int64) * P * N + row_N[:, None] + column_P[None, :] * N
        state_NP = tl.load(start + place, mask=mask, other=0.0)
    return state_NP


@no_type_check
@triton.jit
def store_state(pointer, slot, column_P, state_NP, P: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr):
    """Writes (N, P) to a slot as a state (P, N)."""
    row_N = tl.arange(0, BLOCK_N)
    mask = (row_N < N)[:, None] & (column_P < P)[None, :]
    tl.store(pointer + slot.to(tl.int64) * P * N + row_N[:, None] + column_P[None, :] * N, state_NP, mask=mask)


@no_type_check
@triton.jit
def log_difference(decay, plane, to_Q, from_Q, PRECISE: tl.constexpr, STEP: tl.constexpr):
    """Log-decays from behind tokens `from_Q` through tokens `to_Q` of a chunk, base 2; with STEP, plus log dt of the former.

    PRECISE: both prefix sums carry twice float32's digits, so that their difference is exact to float32 even where one token
    forgets everything. Without, it is off by 1e-3 at the worst (see `decays_kernel`), below the rounding of bfloat16.
    """
    difference = tl.load(decay + to_Q) - tl.load(decay + (plane if STEP else 0) + from_Q)
    if PRECISE:
        decay += 3 * plane
        difference += tl.load(decay + to_Q) - tl.load(decay + (plane if STEP else 0) + from_Q)
    return difference


@no_type_check
@triton.jit
def decays_kernel(dt, A, decay, chunks, H, dt_stride, Q: tl.constexpr, HEADS: tl.constexpr, PRECISE: tl.constexpr):
    """Log-decays from each chunk's start through its tokens, base 2, on the chunk grid, turned to (3 or 5, H, C Q).

    The planes: this sum; the sum less log dt; dt; if PRECISE, what the first two lost in rounding to float32. Behind a
    short chunk's last token dt is 0, so that nothing decays or is added there. No decay is below 2⁻²⁰⁰, which is 0 in
    float32 too: it keeps the sums small.
    """
    chunk, head_h = tl.program_id(0), tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    plane = tl.cast(H, tl.int64) * tl.num_programs(0) * Q
    first, end = tl.load(chunks + 3 * chunk), tl.load(chunks + 3 * chunk + 1)
    i_Q, some_h = tl.arange(0, Q), (head_h < H)[None, :]
    token_Q = first + i_Q
    mask = (token_Q < end)[:, None] & some_h
    dt_Qh = tl.load(dt + token_Q[:, None].to(tl.int64) * dt_stride + head_h[None, :], mask=mask, other=0.0)
    A_h = tl.load(A + head_h, mask=head_h < H, other=0.0)
    sum_Qh = tl.cumsum(tl.maximum((dt_Qh * A_h[None, :]).to(tl.float64) * _LOG2_E, -200.0), 0)
    less_Qh = sum_Qh - tl.log2(tl.maximum(dt_Qh, _TINY)).to(tl.float64)
    high_Qh, less_high_Qh = sum_Qh.to(tl.float32), less_Qh.to(tl.float32)
    decay += (head_h[None, :].to(tl.int64) * tl.num_programs(0) + chunk) * Q + i_Q[:, None]
    tl.store(decay, high_Qh, mask=some_h)
    tl.store(decay + plane, less_high_Qh, mask=some_h)
    tl.store(decay + 2 * plane, dt_Qh, mask=some_h)
    if PRECISE:
        tl.store(decay + 3 * plane, (sum_Qh - high_Qh.to(tl.float64)).to(tl.float32), mask=some_h)
        tl.store(decay + 4 * plane, (less_Qh - less_high_Qh.to(tl.float64)).to(tl.float32), mask=some_h)


@no_type_check
@triton.jit
def forgotten_chunks(decay, count, Q: tl.constexpr, REVERSE: tl.constexpr):
    """How many of a segment's `count` chunks, first of those walked, lie behind a decay that is 0 in float32.

    Nothing of them is left at the walk's end: of a long segment most heads remember a short piece. Beside it the log-decay of
    the whole segment, or of so much of it that it is 0.
    """
    reached, remembered, done = 0.0, 0, 0
    while (done < count) & (reached > _FORGOTTEN):
        back_B = done + tl.arange(0, _LOOK_BACK)
        chunk_B = back_B if REVERSE else count - 1 - back_B
        log_B = tl.load(decay + chunk_B * Q + Q - 1, mask=back_B < count, other=0.0)
        behind_B = reached + tl.cumsum(log_B, 0) - log_B
        remembered += tl.sum(((behind_B > _FORGOTTEN) & (back_B < count)).to(tl.int32), 0)
        reached += tl.sum(log_B, 0)
        done += _LOOK_BACK
    return count - remembered, reached


@no_type_check
@triton.jit
def states_kernel(
    value, key, decay, segments, start, chunk_states, end, segment_decay, entering, carried,
    CHUNKS, H, R, value_token, value_head, key_token, key_group,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
    REVERSE: tl.constexpr, LOCAL: tl.constexpr, PRECISE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Walks the states of one head along a segment: of x and B forwards, or the gradient's, of dy and C, in REVERSE.

    LOCAL: from zero, to the state and the decay of the whole segment, where another segment follows. Otherwise from
    `start` (a state a segment), to the states that enter the chunks, and, at the document's end, to `end`; and, in REVERSE,
    from the states `entering` the chunks to the gradients of the chunks' log-decays through them, `carried` (blocks, C, H).
    Without `chunk_states` only the segments at the documents' ends are walked, and of any segment only what reaches its end.
    """
    segment, head = tl.program_id(0) // H, tl.program_id(0) % H
    segments += segment * 5
    first, behind, chunk = tl.load(segments), tl.load(segments + 1), tl.load(segments + 2).to(tl.int64)
    is_final = (tl.load(segments + 4) & (_FIRST if REVERSE else _LAST)) != 0
    if LOCAL or chunk_states is None:
        if is_final == LOCAL:
            return
    p0 = tl.program_id(1) * BLOCK_P
    i_Q, row_N, column_P = tl.arange(0, Q), tl.arange(0, BLOCK_N), p0 + tl.arange(0, BLOCK_P)
    value += first.to(tl.int64) * value_token + head * value_head + p0
    key += first.to(tl.int64) * key_token + (head // R) * key_group
    plane = tl.cast(H, tl.int64) * CHUNKS * Q
    decay += (head.to(tl.int64) * CHUNKS + chunk) * Q
    length, count = behind - first, tl.cdiv(behind - first, Q)
    WIDTH: tl.constexpr = BLOCK_P if P % BLOCK_P == 0 else P  # more than one block only where they divide P

    state_NP = first_state(start, segment * H + head, column_P, P, N, BLOCK_P, BLOCK_N)
    forgotten, total = 0, 0.0
    if chunk_states is None:
        forgotten, total = forgotten_chunks(decay, count, Q, REVERSE)
        state_NP = tl.where(forgotten == 0, state_NP, 0.0)
    for step in range(forgotten, count):
        c = count - 1 - step if REVERSE else step
        valid_Q = i_Q < length - c * Q
        end_log = tl.load(decay + c * Q + Q - 1)
        if chunk_states is not None:
            place = ((chunk + c) * H + head) * N * P + p0
            kept_NP = state_NP.to(chunk_states.dtype.element_ty)
            if entering is not None:
                entering_NP = load_rows(entering + place, P, row_N, row_N < N, WIDTH, BLOCK_P)
            store_rows(chunk_states + place, P, row_N, row_N < N, kept_NP, WIDTH, BLOCK_P)
            if entering is not None:
                through = tl.sum(tl.sum(kept_NP.to(tl.float32) * entering_NP, 1), 0)
                tl.store(carried + (tl.program_id(1) * CHUNKS + chunk + c) * H + head, through * tl.exp2(end_log))
        value_QP = load_rows(value + (c * Q).to(tl.int64) * value_token, value_token, i_Q, valid_Q, WIDTH, BLOCK_P)
        key_QN = load_rows(key + (c * Q).to(tl.int64) * key_token, key_token, i_Q, valid_Q, N, BLOCK_N)
        log = decay + c * Q
        log_Q = tl.load(log + i_Q) if REVERSE else log_difference(log, plane, Q - 1, i_Q, PRECISE, STEP=True)
        weighted_QP = (value_QP * tl.exp2(log_Q)[:, None]).to(value_QP.dtype)
        state_NP *= tl.exp2(end_log)
        state_NP = tl.dot(tl.trans(key_QN), weighted_QP, state_NP, input_precision=PRECISION)
    if LOCAL:
        store_state(end, segment * H + head, column_P, state_NP, P, N, BLOCK_N)
        tl.store(segment_decay + segment * H + head, tl.exp2(total))
    elif end is not None:
        if is_final:
            store_state(end, tl.load(segments + 3) * H + head, column_P, state_NP, P, N, BLOCK_N)


@no_type_check
@triton.jit
def passing_kernel(states, segment_decay, start, documents, H, PN, REVERSE: tl.constexpr, BLOCK: tl.constexpr):
    """Turns the states that segments add, (K, H, P N), into those that enter them, in place."""
    document, head = tl.program_id(0) // H, tl.program_id(0) % H
    first, behind = tl.load(documents + 2 * document), tl.load(documents + 2 * document + 1)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = place < PN
    if start is None:
        state = tl.zeros((BLOCK,), tl.float32)
    else:
        state = tl.load(start + (document * H + head).to(tl.int64) * PN + place, mask=mask, other=0.0)
    slot, ahead = (behind - 1 if REVERSE else first) * H + head, -H if REVERSE else H
    pointer = states + slot.to(tl.int64) * PN + place
    added = tl.load(pointer, mask=mask & (first < behind), other=0.0)
    decay = tl.load(segment_decay + slot, mask=first < behind, other=0.0)
    for step in range(behind - first):
        # The next loads are under way before this step's store.
        follows = step + 1 < behind - first
        next_added = tl.load(pointer + ahead * PN, mask=mask & follows, other=0.0)
        slot += ahead
        next_decay = tl.load(segment_decay + slot, mask=follows, other=0.0)
        tl.store(pointer, state, mask=mask)
        state = state * decay + added
        added, decay = next_added, next_decay
        pointer += ahead * PN


@no_type_check
@triton.jit
def forward_kernel(
    x, B, C, decay, D, segments, start, y, final,
    CHUNKS, H, R, x_token, x_head, B_token, B_group, C_token, C_group,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One head's y along a segment, and the state at its document's end."""
    segment, head = tl.program_id(0) // H, tl.program_id(0) % H
    segments += segment * 5
    first, behind = tl.load(segments), tl.load(segments + 1)
    p0 = tl.program_id(1) * BLOCK_P
    column_P = p0 + tl.arange(0, BLOCK_P)
    i_Q = tl.arange(0, Q)
    x += first.to(tl.int64) * x_token + head * x_head + p0
    B += first.to(tl.int64) * B_token + (head // R) * B_group
    C += first.to(tl.int64) * C_token + (head // R) * C_group
    y += (first.to(tl.int64) * H + head) * P + p0
    plane = tl.cast(H, tl.int64) * CHUNKS * Q
    decay += (head.to(tl.int64) * CHUNKS + tl.load(segments + 2)) * Q
    length = behind - first
    WIDTH: tl.constexpr = BLOCK_P if P % BLOCK_P == 0 else P  # more than one block only where they divide P

    state_NP = first_state(start, segment * H + head, column_P, P, N, BLOCK_P, BLOCK_N)
    for offset in range(0, length, Q):
        valid_Q = i_Q < length - offset
        x_QP = load_rows(x, x_token, i_Q, valid_Q, WIDTH, BLOCK_P)
        B_QN = load_rows(B, B_token, i_Q, valid_Q, N, BLOCK_N)
        C_QN = load_rows(C, C_token, i_Q, valid_Q, N, BLOCK_N)

        # y_i = f_i C_i S + Σ_{j≤i} (C_i·B_j) L_ij dt_j x_j + D x_i
        y_QP = tl.dot(C_QN, state_NP.to(C_QN.dtype), input_precision=PRECISION)
        y_QP *= tl.exp2(tl.load(decay + i_Q))[:, None]
        pair_QQ = tl.exp2(log_difference(decay, plane, i_Q[:, None], i_Q[None, :], PRECISE, STEP=True))
        mixing_QQ = tl.dot(C_QN, tl.trans(B_QN), input_precision=PRECISION)
        mixing_QQ *= tl.where(i_Q[:, None] >= i_Q[None, :], pair_QQ, 0.0)
        if D is not None:
            mixing_QQ += tl.where(i_Q[:, None] == i_Q[None, :], tl.load(D + head), 0.0)
        y_QP = tl.dot(mixing_QQ.to(x_QP.dtype), x_QP, y_QP, input_precision=PRECISION)
        store_rows(y, H * P, i_Q, valid_Q, y_QP, WIDTH, BLOCK_P)

        # S = f_end S + Σ_j e_j dt_j x_j B_jᵀ
        weight_Q = tl.exp2(log_difference(decay, plane, Q - 1, i_Q, PRECISE, STEP=True))
        weighted_QP = (x_QP * weight_Q[:, None]).to(x_QP.dtype)
        state_NP *= tl.exp2(tl.load(decay + Q - 1))
        state_NP = tl.dot(tl.trans(B_QN), weighted_QP, state_NP, input_precision=PRECISION)
        x += Q * x_token
        B += Q * B_token
        C += Q * C_token
        y += Q * H * P
        decay += Q
    if (tl.load(segments + 4) & _LAST) != 0:
        store_state(final, tl.load(segments + 3) * H + head, column_P, state_NP, P, N, BLOCK_N)
