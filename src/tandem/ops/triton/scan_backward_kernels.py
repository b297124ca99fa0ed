# ruff: noqa: ANN201
"""Triton kernels of the SSD scan, backwards; `scan.py` launches them.

The states that enter the chunks and the gradients of those that leave them are found first, by `states_kernel` of
`scan_kernels.py`. Then every chunk is by itself: a program takes one chunk and some heads of one group, one after the
other, so that gradients of B and C are summed in registers and repeat bit for bit.

Shapes: T tokens, H heads, P head width, G groups, N state width, Q tokens of a chunk, C chunks. In chunk tokens i and j,
f_i is the decay from the chunk's start through i, e_j from behind j to its end, L_ij from behind j through i.
"""

from typing import no_type_check

import triton
import triton.language as tl

from tandem.ops.triton.scan_kernels import load_rows, log_difference, store_rows


@no_type_check
@triton.jit
def entering_kernel(
    x, B, C, dy, decay, entering, chunks, dC, flows, parts, skips,
    T, CHUNKS, H, G, R, x_token, x_head, B_token, B_group, C_token, C_group, dy_token, dy_head, BLOCKS,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of C in one chunk, for the heads of one of the BLOCKS parts of a group.

    `flows` (programs, Q, Q): the gradient of C_i·B_j. `parts` (first two planes): that of each token's log-decay through
    pairs of tokens, and through the entering state before it is summed over later tokens. `skips` (C, H): that of D.
    """
    chunk, group = tl.program_id(0) // (G * BLOCKS), tl.program_id(0) % (G * BLOCKS) // BLOCKS
    block, heads = tl.program_id(0) % BLOCKS, R // BLOCKS
    first = tl.load(chunks + 3 * chunk).to(tl.int64)
    i_Q, row_N = tl.arange(0, Q), tl.arange(0, BLOCK_N)
    length = tl.load(chunks + 3 * chunk + 1) - first
    if length == 0:
        return  # of a fixed layout; nothing was written for it either
    valid_Q = i_Q < length
    plane = tl.cast(H, tl.int64) * CHUNKS * Q
    B_QN = load_rows(B + first * B_token + group * B_group, B_token, i_Q, valid_Q, N, BLOCK_N)
    C_QN = load_rows(C + first * C_token + group * C_group, C_token, i_Q, valid_Q, N, BLOCK_N)
    dtype: tl.constexpr = B_QN.dtype
    before_QQ = (i_Q[:, None] < i_Q[None, :]).to(dtype)
    flows_QQ, dC_QN = tl.zeros((Q, Q), tl.float32), tl.zeros((Q, BLOCK_N), tl.float32)
    for r in range(heads):
        head = group * R + block * heads + r
        slot = (chunk.to(tl.int64) * H + head) * N * P
        x_QP = load_rows(x + first * x_token + head * x_head, x_token, i_Q, valid_Q, P, BLOCK_P)
        dy_QP = load_rows(dy + first * dy_token + head * dy_head, dy_token, i_Q, valid_Q, P, BLOCK_P)
        entering_NP = load_rows(entering + slot, P, row_N, row_N < N, P, BLOCK_P)
        place = (head.to(tl.int64) * CHUNKS + chunk) * Q
        log = decay + place
        f_Q = tl.exp2(tl.load(log + i_Q))

        # y_i = f_i C_i S + …
        weighted_QP = (dy_QP * f_Q[:, None]).to(dtype)
        dC_QN = tl.dot(weighted_QP, tl.trans(entering_NP), dC_QN, input_precision=PRECISION)
        read_QP = tl.dot(C_QN, entering_NP, input_precision=PRECISION)
        tl.store(parts + plane + place + i_Q, f_Q * tl.sum(read_QP * dy_QP, 1))

        # … + Σ_{j≤i} (C_i·B_j) L_ij dt_j x_j + D x_i
        flow_QQ = tl.dot(dy_QP, tl.trans(x_QP), input_precision=PRECISION)
        skip = tl.sum(tl.sum(tl.where(i_Q[:, None] == i_Q[None, :], flow_QQ, 0.0), 1), 0)
        tl.store(skips + chunk * H + head, skip)
        pair_QQ = tl.exp2(log_difference(log, plane, i_Q[:, None], i_Q[None, :], PRECISE, STEP=True))
        flow_QQ *= tl.where(i_Q[:, None] >= i_Q[None, :], pair_QQ, 0.0)
        flows_QQ += flow_QQ
        # A log-decay k acts on all pairs j < k ≤ i; summed as a product, since differences of prefix sums would cancel.
        flow_QQ *= tl.dot(C_QN, tl.trans(B_QN), input_precision=PRECISION)
        through_QQ = tl.dot(flow_QQ.to(dtype), before_QQ, input_precision=PRECISION)
        pairs_Q = tl.sum(tl.where(i_Q[:, None] >= i_Q[None, :], through_QQ, 0.0), 0)
        tl.store(parts + place + i_Q, pairs_Q)

    flows_QQ = flows_QQ.to(dtype)
    tl.store(flows + tl.program_id(0).to(tl.int64) * Q * Q + i_Q[:, None] * Q + i_Q[None, :], flows_QQ)
    dC_QN = tl.dot(flows_QQ, B_QN, dC_QN, input_precision=PRECISION)
    store_rows(dC + ((block * T + first) * G + group) * N, G * N, i_Q, valid_Q, dC_QN, N, BLOCK_N)


@no_type_check
@triton.jit
def leaving_kernel(
    x, B, C, dy, decay, D, leaving, flows, chunks, dx, dB, parts,
    T, CHUNKS, H, G, R, x_token, x_head, B_token, B_group, C_token, C_group, dy_token, dy_head, BLOCKS,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of x and B in one chunk, for the heads of one of the BLOCKS parts of a group.

    `parts` (last two planes): the gradient of each token's log-decay through the leaving state before it is summed over
    earlier tokens, and that of dt itself.
    """
    chunk, group = tl.program_id(0) // (G * BLOCKS), tl.program_id(0) % (G * BLOCKS) // BLOCKS
    block, heads = tl.program_id(0) % BLOCKS, R // BLOCKS
    first = tl.load(chunks + 3 * chunk).to(tl.int64)
    i_Q, row_N = tl.arange(0, Q), tl.arange(0, BLOCK_N)
    length = tl.load(chunks + 3 * chunk + 1) - first
    if length == 0:
        return  # of a fixed layout; nothing was written for it either
    valid_Q = i_Q < length
    plane = tl.cast(H, tl.int64) * CHUNKS * Q
    B_QN = load_rows(B + first * B_token + group * B_group, B_token, i_Q, valid_Q, N, BLOCK_N)
    C_QN = load_rows(C + first * C_token + group * C_group, C_token, i_Q, valid_Q, N, BLOCK_N)
    dtype: tl.constexpr = B_QN.dtype
    flow_QQ = tl.load(flows + tl.program_id(0).to(tl.int64) * Q * Q + i_Q[:, None] * Q + i_Q[None, :])
    dB_QN = tl.dot(tl.trans(flow_QQ), C_QN, input_precision=PRECISION)
    for r in range(heads):
        head = group * R + block * heads + r
        x_QP = load_rows(x + first * x_token + head * x_head, x_token, i_Q, valid_Q, P, BLOCK_P)
        dy_QP = load_rows(dy + first * dy_token + head * dy_head, dy_token, i_Q, valid_Q, P, BLOCK_P)
        slot = (chunk.to(tl.int64) * H + head) * N * P
        leaving_NP = load_rows(leaving + slot, P, row_N, row_N < N, P, BLOCK_P)
        place = (head.to(tl.int64) * CHUNKS + chunk) * Q
        log = decay + place
        e_Q = tl.exp2(log_difference(log, plane, Q - 1, i_Q, PRECISE, STEP=False))
        dt_Q = tl.load(log + 2 * plane + i_Q)

        # y_i gains (C_i·B_j) L_ij dt_j x_j for j ≤ i: turned, rows are j, as the product below takes them.
        pair_QQ = tl.exp2(log_difference(log, plane, i_Q[None, :], i_Q[:, None], PRECISE, STEP=False))
        mixing_QQ = tl.dot(B_QN, tl.trans(C_QN), input_precision=PRECISION)
        mixing_QQ = (mixing_QQ * tl.where(i_Q[:, None] <= i_Q[None, :], pair_QQ, 0.0)).to(dtype)

        # The leaving state gains e_j dt_j x_j B_jᵀ.
        weighted_QP = (x_QP * (e_Q * dt_Q)[:, None]).to(dtype)
        dB_QN = tl.dot(weighted_QP, tl.trans(leaving_NP), dB_QN, input_precision=PRECISION)
        dx_QP = tl.dot(B_QN, leaving_NP, input_precision=PRECISION) * e_Q[:, None]
        tl.store(parts + 2 * plane + place + i_Q, dt_Q * tl.sum(dx_QP * x_QP, 1))
        dx_QP = tl.dot(mixing_QQ, dy_QP, dx_QP, input_precision=PRECISION)
        tl.store(parts + 3 * plane + place + i_Q, tl.sum(dx_QP * x_QP, 1))
        dx_QP *= dt_Q[:, None]
        if D is not None:
            dx_QP += dy_QP * tl.load(D + head)
        store_rows(dx + (first * H + head) * P, H * P, i_Q, valid_Q, dx_QP, P, BLOCK_P)

    store_rows(dB + ((block * T + first) * G + group) * N, G * N, i_Q, valid_Q, dB_QN, N, BLOCK_N)


@no_type_check
@triton.jit
def decay_gradients_kernel(
    pairs, written, carried, decay, A, chunks, d_dt, dA, skips, H, Q: tl.constexpr, HEADS: tl.constexpr
):
    """Gradients of dt (T, H) and of A in each chunk (C, H), from what the other kernels leave.

    `pairs`: the first two planes of parts, None where states alone are read; `written`: the last two.
    """
    chunk, head_h = tl.program_id(0), tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    plane = tl.cast(H, tl.int64) * tl.num_programs(0) * Q
    first, end = tl.load(chunks + 3 * chunk), tl.load(chunks + 3 * chunk + 1)
    i_Q, some_h = tl.arange(0, Q), head_h < H
    if end == first:  # of a fixed layout
        tl.store(dA + chunk * H + head_h, tl.zeros((HEADS,), tl.float32), mask=some_h)
        if skips is not None:
            tl.store(skips + chunk * H + head_h, tl.zeros((HEADS,), tl.float32), mask=some_h)
        return
    mask = some_h[None, :]
    place = (head_h[None, :].to(tl.int64) * tl.num_programs(0) + chunk) * Q + i_Q[:, None]
    total_h = tl.load(carried + chunk * H + head_h, mask=some_h, other=0.0)
    earlier = (i_Q > 0)[:, None] & some_h[None, :]
    d_log_Qh = tl.cumsum(tl.load(written + place - 1, mask=earlier, other=0.0), 0) + total_h[None, :]
    if pairs is not None:
        d_log_Qh += tl.load(pairs + place, mask=mask, other=0.0)
        d_log_Qh += tl.cumsum(tl.load(pairs + plane + place, mask=mask, other=0.0), 0, reverse=True)
    direct_Qh = tl.load(written + plane + place, mask=mask, other=0.0)
    A_h = tl.load(A + head_h, mask=some_h, other=0.0)
    dt_Qh = tl.load(decay + 2 * plane + place, mask=mask, other=0.0)
    out = (first + i_Q)[:, None].to(tl.int64) * H + head_h[None, :]
    tl.store(d_dt + out, d_log_Qh * A_h[None, :] + direct_Qh, mask=mask & (first + i_Q < end)[:, None])
    tl.store(dA + chunk * H + head_h, tl.sum(d_log_Qh * dt_Qh, 0), mask=some_h)
