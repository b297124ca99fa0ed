"""Selective state-space duality, the scan of Mamba-2 (Dao & Gu 2024, arXiv 2405.21060), in three forms.

`ssd_reference` walks the recurrence, `ssd_chunked` does the same with matrix products on chunks, `ssd_step` advances
one token a document. One test file proves them equal. Decays and states are float32 or wider whatever the inputs are,
every exponent is a sum over a stretch of one chunk and never positive, and B and C are contracted per group.

Shapes: T tokens, S documents, H heads, P head width, G groups of heads sharing B and C, R = H / G, N state width,
C chunks, Q tokens in a chunk.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tandem.ops.cpu.compiled import kernels_for
from tandem.ops.cpu.ssd import ssd as cpu_ssd
from tandem.ops.layout import SequenceLayout
from tandem.ops.rows import move_rows
from tandem.ops.triton.support import triton_for


def ssd_reference(
    x_THP: Float[Tensor, "T H P"],
    dt_TH: Float[Tensor, "T H"],
    A_H: Float[Tensor, "H"],
    B_TGN: Float[Tensor, "T G N"],
    C_TGN: Float[Tensor, "T G N"],
    layout: SequenceLayout,
    D_H: Float[Tensor, "H"] | None = None,
    state: Float[Tensor, "S H P N"] | None = None,
) -> tuple[Tensor, Tensor]:
    """Runs the recurrence one token at a time; every other form is tested against this one.

    S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_tᵀ      (eq. 1)
    y_t = S_t C_t + D x_t                          (eq. 2)

    Args:
        x_THP: inputs, not yet multiplied by dt.
        dt_TH: positive step sizes, after softplus.
        A_H: negative decay rates.
        layout: document boundaries; the state restarts at each.
        D_H: skip weight of each head.
        state: state_SHPN each document starts from; zeros when None.
    Returns:
        y_THP in x's dtype and the state at each document's end, state_SHPN, in float32 or wider.
    Raises:
        ValueError: H is not a multiple of G, or the tensors disagree with the layout's T or S.
    """
    _check(x_THP, dt_TH, B_TGN, layout, state)
    outputs, states = [], []
    for document, (first, length) in enumerate(zip(layout.offsets_S.tolist(), layout.lengths, strict=True)):
        current_1HPN = _initial(x_THP, B_TGN, dt_TH, 1) if state is None else state[document : document + 1]
        for t in range(first, first + length):
            y_1HP, current_1HPN = ssd_step(
                x_THP[t : t + 1], dt_TH[t : t + 1], A_H, B_TGN[t : t + 1], C_TGN[t : t + 1], D_H, current_1HPN
            )
            outputs.append(y_1HP)
        states.append(current_1HPN)
    return torch.cat(outputs), torch.cat(states)


def ssd_step(
    x_SHP: Float[Tensor, "S H P"],
    dt_SH: Float[Tensor, "S H"],
    A_H: Float[Tensor, "H"],
    B_SGN: Float[Tensor, "S G N"],
    C_SGN: Float[Tensor, "S G N"],
    D_H: Float[Tensor, "H"] | None = None,
    state: Float[Tensor, "S H P N"] | None = None,
) -> tuple[Tensor, Tensor]:
    """Advances each of S documents by one token; equations 1 and 2 of `ssd_reference`.

    Returns:
        y_SHP in x's dtype and the new state_SHPN, in float32 or wider.
    """
    wide = wide_dtype(x_SHP, dt_SH)
    S, H, P = x_SHP.shape
    G, N = B_SGN.shape[1:]
    if state is None:
        state = _initial(x_SHP, B_SGN, dt_SH, S)
    dt = dt_SH.to(wide)
    decay_SH11 = torch.exp(dt * A_H.to(wide))[:, :, None, None]
    xdt_SGRP1 = (x_SHP.to(wide) * dt[:, :, None]).view(S, G, H // G, P, 1)
    update_SHPN = (xdt_SGRP1 * B_SGN.to(wide)[:, :, None, None, :]).view(S, H, P, N)
    state = torch.addcmul(update_SHPN, state, decay_SH11)
    y_SHP = torch.matmul(state.view(S, G, -1, N), C_SGN.to(wide)[..., None]).view(S, H, P)
    if D_H is not None:
        y_SHP = y_SHP + D_H.to(wide)[:, None] * x_SHP
    return y_SHP.to(x_SHP.dtype), state


def ssd_chunked(
    x_THP: Float[Tensor, "T H P"],
    dt_TH: Float[Tensor, "T H"],
    A_H: Float[Tensor, "H"],
    B_TGN: Float[Tensor, "T G N"],
    C_TGN: Float[Tensor, "T G N"],
    layout: SequenceLayout,
    D_H: Float[Tensor, "H"] | None = None,
    state: Float[Tensor, "S H P N"] | None = None,
) -> tuple[Tensor, Tensor]:
    """The same result as `ssd_reference`, as matrix products on chunks of `layout.chunk` tokens.

    Matrix products run in x's dtype (on a CPU, by a C++ kernel, in float32; on a CUDA GPU by Triton kernels, whose chunks
    have a length of their own); decays, chunk states and their recurrence in float32 or wider.
    Arguments, returned values and errors are those of `ssd_reference`.
    """
    _check(x_THP, dt_TH, B_TGN, layout, state)
    if x_THP.dtype == B_TGN.dtype == C_TGN.dtype:
        if kernels_for(x_THP, dt_TH, A_H, D_H, state):
            return cpu_ssd(x_THP, dt_TH, A_H, B_TGN, C_TGN, layout, D_H, state)
        if triton_for(x_THP, dt_TH, A_H, D_H, state):
            from tandem.ops.triton.scan import scan, scan_is_supported

            if scan_is_supported(x_THP, B_TGN):
                return scan(x_THP, dt_TH, A_H, B_TGN, C_TGN, layout, D_H, state)
    wide = wide_dtype(x_THP, dt_TH)
    H, G, N = x_THP.shape[1], B_TGN.shape[1], B_TGN.shape[2]
    C, Q, R = layout.chunks, layout.chunk, H // G

    x = to_chunks(x_THP, layout)
    dt_CHQ = to_chunks(dt_TH.to(wide), layout).transpose(1, 2)  # padding has dt = 0: it neither decays nor adds
    B, C_ = to_chunks(B_TGN, layout), to_chunks(C_TGN, layout)
    segment_CHQQ = _segment_sums(dt_CHQ * A_H.to(wide)[:, None])

    # 1. Inside each chunk: y_i = Σ_{j≤i} (C_i·B_j) exp(Σ_{j<k≤i} dt_k A) dt_j x_j.
    scores_CGQQ = torch.matmul(C_.transpose(1, 2), B.permute(0, 2, 3, 1))
    mixing_CHQQ = _mixing(scores_CGQQ, segment_CHQQ, dt_CHQ, x.dtype)
    y_CHQP = torch.matmul(mixing_CHQQ, x.transpose(1, 2))

    # 2. What each chunk adds to the state at its own end; decays summed backwards from the end.
    local_CHPN = chunk_states(x, segment_CHQQ[:, :, -1].exp() * dt_CHQ, B)

    # 3. The recurrence over chunks: S_c = exp(Σ dt A) S_{c-1} + local_c.
    from_start_CHQ = (segment_CHQQ[..., 0] + (dt_CHQ * A_H.to(wide)[:, None])[..., :1]).exp()
    initial = _initial(x_THP, B_TGN, dt_TH, layout.documents) if state is None else state.to(wide)
    entering_CHPN, final_SHPN = ChunkRecurrence.apply(local_CHPN, from_start_CHQ[..., -1], initial, layout)

    # 4. What the state that enters a chunk contributes to each of its tokens.
    entering = entering_CHPN.to(x.dtype).view(C, G, -1, N)
    y_CGQRP = torch.matmul(C_.transpose(1, 2), entering.transpose(2, 3)).view(C, G, Q, R, -1)
    y_state = y_CGQRP.transpose(2, 3).reshape(C, H, Q, -1) * from_start_CHQ[..., None]

    y_THP = from_chunks((y_CHQP + y_state).transpose(1, 2), layout)
    if D_H is not None:
        y_THP = y_THP + D_H.to(wide)[:, None] * x_THP
    return y_THP.to(x_THP.dtype), final_SHPN


def chunk_states(x_CQHP: Tensor, to_end_CHQ: Tensor, B_CQGN: Tensor) -> Tensor:
    """Σ_j to_end_j x_j B_jᵀ, what each chunk adds to the state at its own end: local_CHPN, in x's dtype.

    x may have fewer heads than `to_end`; each then is several heads' own.
    """
    C, Q, shared, P = x_CQHP.shape
    H, (G, N) = to_end_CHQ.shape[1], B_CQGN.shape[2:]
    weight = to_end_CHQ.transpose(1, 2).to(x_CQHP.dtype).view(C, Q, shared, -1, 1)
    x_end = (x_CQHP[:, :, :, None] * weight).view(C, Q, G, -1)
    return torch.matmul(x_end.permute(0, 2, 3, 1), B_CQGN.transpose(1, 2)).view(C, H, P, N)


def _segment_sums(a_CHQ: Tensor) -> Tensor:
    """segment[i, j] = Σ_{j<k≤i} a_k for j ≤ i, 0 above the diagonal.

    A product with a triangle of ones and not a difference of prefix sums: those cancel when one token in the chunk
    forgets almost everything (dt A of -10⁴ leaves three digits in float32).
    """
    Q = a_CHQ.shape[-1]
    ones_QQ = torch.ones(Q, Q, dtype=a_CHQ.dtype, device=a_CHQ.device)
    after_CHQQ = a_CHQ[..., None] * ones_QQ.tril(-1)  # [k, j] = a_k where k > j
    return torch.matmul(ones_QQ.tril(), after_CHQQ)


def _mixing(scores_CGQQ: Tensor, segment_CHQQ: Tensor, dt_CHQ: Tensor, dtype: torch.dtype) -> Tensor:
    C, H, Q, _ = segment_CHQQ.shape
    decay_CHQQ = (segment_CHQQ.exp() * dt_CHQ[:, :, None, :]).tril()
    return (
        (decay_CHQQ.view(C, -1, H // scores_CGQQ.shape[1], Q, Q) * scores_CGQQ[:, :, None]).view(C, H, Q, Q).to(dtype)
    )


class ChunkRecurrence(torch.autograd.Function):
    """S_c = decay_c S_{c-1} + local_c along each document's chunks; returns the state entering each chunk and the last.

    A loop over chunk numbers with all documents side by side, written with its own backward (the same loop reversed)
    because autograd would copy every state at every step.
    """

    @staticmethod
    def forward(ctx, local_CHPN: Tensor, decay_CH: Tensor, initial_SHPN: Tensor, layout: SequenceLayout):  # noqa: ANN001, ANN205
        entering_CHPN = torch.empty_like(local_CHPN, dtype=initial_SHPN.dtype)
        current = initial_SHPN[layout.by_length_S]
        for chunk_n, n in layout.chunk_steps:
            entering_CHPN[chunk_n] = current[:n]
            current[:n].mul_(decay_CH[chunk_n, :, None, None]).add_(local_CHPN[chunk_n])
        final_SHPN = torch.empty_like(current)
        final_SHPN[layout.by_length_S] = current
        ctx.save_for_backward(entering_CHPN, decay_CH)
        ctx.layout, ctx.local_dtype = layout, local_CHPN.dtype
        return entering_CHPN, final_SHPN

    @staticmethod
    def backward(ctx, grad_entering_CHPN: Tensor, grad_final_SHPN: Tensor):  # noqa: ANN001, ANN205
        entering_CHPN, decay_CH = ctx.saved_tensors
        layout = ctx.layout
        grad_local_CHPN = torch.empty_like(entering_CHPN)
        current = grad_final_SHPN[layout.by_length_S]
        for chunk_n, n in reversed(layout.chunk_steps):
            grad_local_CHPN[chunk_n] = current[:n]
            current[:n].mul_(decay_CH[chunk_n, :, None, None]).add_(grad_entering_CHPN[chunk_n])
        grad_decay_CH = (grad_local_CHPN * entering_CHPN).sum((-2, -1))
        grad_initial_SHPN = torch.empty_like(current)
        grad_initial_SHPN[layout.by_length_S] = current
        return grad_local_CHPN.to(ctx.local_dtype), grad_decay_CH, grad_initial_SHPN, None


def to_chunks(rows_T: Tensor, layout: SequenceLayout) -> Tensor:
    """Lays packed rows (T, …) on the chunk grid (C, Q, …); short chunks end in zeros."""
    rest = rows_T.shape[1:]
    if not layout.is_even:
        rows_T = move_rows(rows_T, layout.token_CQ, layout.grid_T)
    return rows_T.reshape(layout.chunks, layout.chunk, *rest)


def from_chunks(rows_CQ: Tensor, layout: SequenceLayout) -> Tensor:
    """The inverse of `to_chunks`: (C, Q, …) back to packed rows (T, …)."""
    flat = rows_CQ.reshape(layout.chunks * layout.chunk, *rows_CQ.shape[2:])
    return flat if layout.is_even else move_rows(flat, layout.grid_T, layout.token_CQ)


def wide_dtype(*tensors: Tensor) -> torch.dtype:
    """float32, or float64 if one of the inputs is: states and decays are never narrower."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _initial(x_THP: Tensor, B_TGN: Tensor, dt_TH: Tensor, documents: int) -> Tensor:
    _, H, P = x_THP.shape
    return torch.zeros(documents, H, P, B_TGN.shape[-1], dtype=wide_dtype(x_THP, dt_TH), device=x_THP.device)


def _check(x_THP: Tensor, dt_TH: Tensor, B_TGN: Tensor, layout: SequenceLayout, state: Tensor | None) -> None:
    T, H, _ = x_THP.shape
    if layout.tokens != T or dt_TH.shape[0] != T:
        raise ValueError(f"layout.lengths add up to {layout.tokens} tokens but x has {T} and dt {dt_TH.shape[0]}")
    if H % B_TGN.shape[1]:
        raise ValueError(f"x has {H} heads, not a multiple of the {B_TGN.shape[1]} groups of B and C")
    if state is not None and state.shape[0] != layout.documents:
        raise ValueError(f"state has {state.shape[0]} slots but layout has {layout.documents} documents")
