"""The Memory Converter of TransMamba (arXiv 2503.24067, §2.3): keys and values of a prefix as the state of an SSM.

For each head i with keys of group g(i), after P tokens:

    S_i = Σ_{j<P} exp(A_i Σ_{j<k<P} dt_k) dt_j V_j K_jᵀ  +  exp(A_i Σ_{k<P} dt_k) S_before

which is the state that the recurrence of Mamba-2 has after the same tokens (x = V, B = K), without any parameter of its own.
The paper's equation 9 leaves dt out of its sum, which is right only for values multiplied by it already (equation 8).
`convert_memory` works on chunks, `convert_memory_direct` on whole documents. Both add decays up backwards from the end, in
float32 or wider: differences of long prefix sums lose three digits at 16,384 tokens. On a CUDA GPU Triton kernels do the same.

Shapes: T tokens, S documents, H heads, P head width, G groups of heads sharing K, N state width, C chunks, Q tokens in a
chunk.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tandem.ops.cpu.compiled import kernels_for
from tandem.ops.cpu.ssd import convert as cpu_convert
from tandem.ops.layout import SequenceLayout
from tandem.ops.ssd import ChunkRecurrence, chunk_states, to_chunks, wide_dtype
from tandem.ops.triton.support import triton_for


def convert_memory(
    K_TGN: Float[Tensor, "T G N"],
    V_THP: Float[Tensor, "T shared P"],
    dt_TH: Float[Tensor, "T H"],
    A_H: Float[Tensor, "H"],
    state: Float[Tensor, "... H P N"] | None = None,
    layout: SequenceLayout | None = None,
    transpoints: Sequence[int] | None = None,
) -> Tensor:
    """The state after the tokens of each document.

    Heads are those of dt. G = H is multi-head attention, G < H the groups of Mamba-2; values may have fewer heads than dt,
    each shared by H / that many (grouped-query attention with a decay for each query head), or as many (a decay for each
    key/value head).

    >>> K, V, dt = torch.ones(3, 1, 2), torch.ones(3, 1, 1), torch.ones(3, 1)
    >>> convert_memory(K, V, dt, torch.tensor([-1e9])).tolist()  # forgets all but the last token
    [[[1.0, 1.0]]]

    Args:
        dt_TH: positive step sizes, after softplus; a token with 0 (padding) neither decays nor adds.
        A_H: negative decay rates.
        state: the state before these tokens, (H, P, N), or state_SHPN with a layout; zeros when None.
        layout: documents; all tokens are one when None.
        transpoints: only the first so many of each document's tokens here are converted, all when None.
    Returns:
        (H, P, N), or state_SHPN with a layout, in float32 or wider.
    Raises:
        ValueError: heads that do not divide, tensors that disagree in T or S, or a TransPoint that is negative or missing.
    """
    documents = SequenceLayout.from_lengths([len(dt_TH)], device=dt_TH.device) if layout is None else layout
    start = state[None] if state is not None and layout is None else state
    check_memory(K_TGN, V_THP, dt_TH, documents, start)
    if transpoints is not None:
        dt_TH = _up_to(dt_TH, documents, transpoints)
    end_SHPN = _convert(K_TGN, V_THP, dt_TH, A_H, documents, start)
    return end_SHPN[0] if layout is None else end_SHPN


def _convert(
    K_TGN: Tensor, V_THP: Tensor, dt_TH: Tensor, A_H: Tensor, layout: SequenceLayout, state: Tensor | None
) -> Tensor:
    fits = K_TGN.dtype == V_THP.dtype and V_THP.shape[1] == dt_TH.shape[1] and not layout.is_step
    if fits and kernels_for(K_TGN, V_THP, dt_TH, A_H, state):
        return cpu_convert(K_TGN, V_THP, dt_TH, A_H, layout, state)
    if fits and triton_for(K_TGN, V_THP, dt_TH, A_H, state):
        from tandem.ops.triton.memory import convert, convert_is_supported

        if convert_is_supported(K_TGN, V_THP, dt_TH, layout):
            return convert(K_TGN, V_THP, dt_TH, A_H, layout, state)
    wide = wide_dtype(V_THP, dt_TH)
    (_, H), P, N = dt_TH.shape, V_THP.shape[2], K_TGN.shape[2]
    state_SHPN = V_THP.new_zeros(layout.documents, H, P, N, dtype=wide) if state is None else state.to(wide)
    if layout.is_step:
        return _one_token(K_TGN.to(wide), V_THP.to(wide), dt_TH.to(wide), A_H.to(wide), state_SHPN)
    dt_CHQ = to_chunks(dt_TH.to(wide), layout).transpose(1, 2)
    a_CHQ = dt_CHQ * A_H.to(wide)[:, None]
    after_CHQ = _sums_behind(a_CHQ)
    local_CHPN = chunk_states(to_chunks(V_THP, layout), after_CHQ.exp() * dt_CHQ, to_chunks(K_TGN, layout))
    decay_CH = (after_CHQ[..., 0] + a_CHQ[..., 0]).exp()
    return ChunkRecurrence.apply(local_CHPN, decay_CH, state_SHPN, layout)[1]


def _one_token(K_SGN: Tensor, V_SHP: Tensor, dt_SH: Tensor, A_H: Tensor, state_SHPN: Tensor) -> Tensor:
    S, H, P, N = state_SHPN.shape
    Vdt_SGRP1 = (V_SHP[:, :, None] * dt_SH.view(S, V_SHP.shape[1], -1, 1)).view(S, K_SGN.shape[1], -1, P, 1)
    added_SHPN = (Vdt_SGRP1 * K_SGN[:, :, None, None]).view(S, H, P, N)
    return torch.addcmul(added_SHPN, state_SHPN, (dt_SH * A_H).exp()[:, :, None, None])


def convert_memory_direct(
    K_TGN: Float[Tensor, "T G N"],
    V_THP: Float[Tensor, "T shared P"],
    dt_TH: Float[Tensor, "T H"],
    A_H: Float[Tensor, "H"],
    state: Float[Tensor, "S H P N"] | None,
    layout: SequenceLayout,
) -> Tensor:
    """The same by the sum itself, one document after the other; arguments, result and errors are those of `convert_memory`."""
    check_memory(K_TGN, V_THP, dt_TH, layout, state)
    wide = wide_dtype(V_THP, dt_TH)
    H, lengths = dt_TH.shape[1], list(layout.lengths)
    states = []
    for document, (K, V, dt) in enumerate(
        zip(K_TGN.split(lengths), V_THP.split(lengths), dt_TH.to(wide).split(lengths), strict=True)
    ):
        a_HT = (dt * A_H.to(wide)).t()
        after_HT = _sums_behind(a_HT)
        K_THN, V_THP_ = (t.to(wide).repeat_interleave(H // t.shape[1], dim=1) for t in (K, V))
        S_HPN = torch.einsum("ht,thp,thn->hpn", after_HT.exp() * dt.t(), V_THP_, K_THN)
        if state is not None:
            S_HPN = S_HPN + (after_HT[:, 0] + a_HT[:, 0]).exp()[:, None, None] * state[document].to(wide)
        states.append(S_HPN)
    return torch.stack(states)


def check_memory(K_TGN: Tensor, V_THP: Tensor, dt_TH: Tensor, layout: SequenceLayout, state: Tensor | None) -> None:
    """Raises a ValueError unless the tensors fit one another and the layout."""
    T, H = dt_TH.shape
    if not T == len(K_TGN) == len(V_THP) == layout.tokens:
        raise ValueError(
            f"layout has {layout.tokens} tokens, K {len(K_TGN)}, V {len(V_THP)} and dt {T}; give one number"
        )
    for name, heads in (("K", K_TGN.shape[1]), ("V", V_THP.shape[1])):
        if H % heads:
            raise ValueError(f"dt has {H} heads, not a multiple of the {heads} of {name}")
    if state is not None and len(state) != layout.documents:
        raise ValueError(f"state has {len(state)} slots but layout has {layout.documents} documents")


def _up_to(dt_TH: Tensor, layout: SequenceLayout, transpoints: Sequence[int]) -> Tensor:
    """Steps of 0 from each document's TransPoint on."""
    if len(transpoints) != layout.documents or min(transpoints) < 0:
        raise ValueError(
            f"transpoints={list(transpoints)[:8]} must be one count ≥ 0 for each of the {layout.documents} documents"
        )
    point_S = torch.tensor(list(transpoints), device=dt_TH.device)
    return dt_TH.masked_fill((layout.index_T >= point_S[layout.document_T])[:, None], 0)


def _sums_behind(a: Tensor) -> Tensor:
    """Σ of all later elements of the last dimension, added up from the end."""
    later = torch.cat([a[..., 1:], torch.zeros_like(a[..., :1])], dim=-1)
    return later.flip(-1).cumsum(-1).flip(-1)
