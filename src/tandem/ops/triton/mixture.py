"""A mixture of experts for a few tokens as Triton kernels: each chosen expert's weights are read once.

A program of the experts takes all tokens and keeps the results of those that chose its expert: reading weights is what
takes time, and the tensor cores have room. Programs of experts that nobody chose end at once. The expert that is always on
comes last in the same launch. Results of a token do not depend, bit for bit, on what else is in the batch.

Shapes: T tokens, D width, E experts, K choices a token, F and FS widths of the routed and the shared expert.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from tandem.ops.triton.routing import best_of, scores_and_ranks
from tandem.ops.triton.support import ceil_div, opaque, power_of_two

_CELLS = 8192  # of a tile of the router
_DEPTH = 64  # of the products, at a time
_WIDTH = 256  # of a program that adds up


def mixture_step(
    x_TD: Tensor,
    router: tuple[Tensor, Tensor | None, int],
    experts: tuple[Tensor, Tensor],
    shared: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`tandem.ops.mixture` for a few tokens. No gradients."""
    weight_ED, bias_E, top_k = router
    x_TD = x_TD.contiguous()
    expert_TK, weight_TK, scores_TE = choose(x_TD, weight_ED, bias_E, top_k)
    return _experts(x_TD, expert_TK, weight_TK, *experts, *(shared or (None, None))), expert_TK, weight_TK, scores_TE


def _choices(x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor | None, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    T, wide = len(x_TD), weight_ED.dtype
    expert_TK = torch.empty(T, top_k, dtype=torch.int64, device=x_TD.device)
    return expert_TK, x_TD.new_empty(T, top_k, dtype=wide), x_TD.new_empty(T, len(weight_ED), dtype=wide)


@opaque(_choices)
def choose(x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor | None, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """`tandem.ops.route` by the default rule; of equal scores the first expert's wins."""
    x_TD, results = x_TD.contiguous(), _choices(x_TD, weight_ED, bias_E, top_k)
    (E, D), width = weight_ED.shape, power_of_two(len(weight_ED))
    tile = {"K": top_k, "BE": width, "BD": min(power_of_two(D), max(1, _CELLS // width)), "BK": power_of_two(top_k)}
    form = {"BIASED": bias_E is not None, **tile, "num_warps": 8}
    _route[len(x_TD),](x_TD, weight_ED.contiguous(), bias_E, *results, E, D=D, **form)
    return results


def _like(x_TD: Tensor, *_: object) -> Tensor:
    return x_TD.new_empty(x_TD.shape)


@opaque(_like)
def _experts(
    x_TD: Tensor,
    expert_TK: Tensor,
    weight_TK: Tensor,
    gate_up_EDF: Tensor,
    down_EFD: Tensor,
    shared_in: Tensor | None,
    shared_out: Tensor | None,
) -> Tensor:
    (T, D), (E, F, _), K = x_TD.shape, down_EFD.shape, expert_TK.shape[1]
    FS = 0 if shared_out is None else shared_out.shape[1]
    into, shared_into, out, shared_from = (_packed(t) for t in (gate_up_EDF, shared_in, down_EFD, shared_out))
    hidden = x_TD.new_empty(T * (K * F + FS))  # of routed experts by choice, then of the shared one
    parts = torch.empty(T, K + 1, D, dtype=torch.float32, device=x_TD.device)
    rows, shape = _tile(T)
    units = min(E, T * K)  # that have routed programs: experts, or choices if there are fewer
    form = {"D": D, "F": F, "FS": FS, "K": K, "BY_CHOICE": units < E, "BU": power_of_two(units)}
    columns, tile = shape["BF"], {**form, **shape, "BT": rows, "BD": _DEPTH}
    blocks = ceil_div(F, columns)
    grid = (units * blocks + ceil_div(FS, columns), ceil_div(T, rows))
    _up[grid](x_TD, expert_TK, into, shared_into, hidden, T, E, units, blocks, **tile)
    blocks = ceil_div(D, columns)
    grid = ((units + (FS > 0)) * blocks, ceil_div(T, rows))
    _down[grid](hidden, expert_TK, out, shared_from, parts, T, E, units, blocks, **tile)
    y_TD = _like(x_TD)
    _add[T, ceil_div(D, _WIDTH)](parts, weight_TK, y_TD, D, K=K, SHARED=FS > 0, BD=_WIDTH)
    return y_TD


def _tile(T: int) -> tuple[int, dict[str, int]]:
    """Tokens of a program, and the rest of its shape, as measured on an H100.

    Few tokens do not choose enough experts to give all processors work unless programs are small. From 64 rows on the
    compiler takes other instructions, which round differently, so the batches of decoding have fewer.
    """
    if T <= 4:
        return 16, {"BF": 32, "num_stages": 5, "num_warps": 4}
    if T <= 64:
        return min(32, max(16, power_of_two(T))), {"BF": 64, "num_stages": 3, "num_warps": 4}
    return 128, {"BF": 64, "num_stages": 3, "num_warps": 4}


def _packed(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.contiguous()


@no_type_check
@triton.jit
def _route(
    x,
    weight,
    bias,
    experts,
    weights,
    scores,
    E,
    D: tl.constexpr,
    BIASED: tl.constexpr,
    K: tl.constexpr,
    BE: tl.constexpr,
    BD: tl.constexpr,
    BK: tl.constexpr,
):
    t, e, k = tl.program_id(0).to(tl.int64), tl.arange(0, BE), tl.arange(0, BK)
    along = tl.zeros((BE, BD), tl.float32)
    for first in tl.range(0, D, BD, loop_unroll_factor=4):  # all loads of a program under way at once
        d = first + tl.arange(0, BD)
        w = tl.load(weight + e[:, None] * D + d[None, :], mask=(e < E)[:, None] & (d < D)[None, :], other=0.0)
        along += w * tl.load(x + t * D + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
    score, ranked = scores_and_ranks(tl.sum(along, 1), bias, e, E, BIASED)
    tl.store(scores + t * E + e, score, mask=e < E)
    chosen, share = best_of(score, ranked, e, k, E, K, BE, BK)
    tl.store(experts + t * K + k, chosen, mask=k < K)
    tl.store(weights + t * K + k, share / (tl.sum(share, 0) + 1e-20), mask=k < K)


@no_type_check
@triton.jit
def _expert(expert, unit, E, units, BY_CHOICE: tl.constexpr, BU: tl.constexpr):
    """The expert of a program, E for the shared one; -2 if an earlier choice is the same expert."""
    if BY_CHOICE:
        e = tl.load(expert + unit, mask=unit < units, other=E).to(tl.int32)
        u = tl.arange(0, BU)
        earlier = tl.load(expert + u, mask=(u < unit) & (u < units), other=-1).to(tl.int32)
        e = tl.where(tl.max((earlier == e).to(tl.int32), 0) > 0, -2, e)
    else:
        e = unit
    return e


@no_type_check
@triton.jit
def _slots(expert, e, T, K: tl.constexpr, BT: tl.constexpr):
    """Tokens of the program, and which choice of each is this expert; -1 where none is."""
    t = tl.program_id(1) * BT + tl.arange(0, BT)
    slot = tl.full((BT,), -1, tl.int32)
    for k in tl.static_range(K):
        slot = tl.where(tl.load(expert + t * K + k, mask=t < T, other=-1) == e, k, slot)
    return t, slot


@no_type_check
@triton.jit
def _up(
    x,
    expert,
    routed,
    shared,
    hidden,
    T,
    E,
    units,
    blocks,
    D: tl.constexpr,
    F: tl.constexpr,
    FS: tl.constexpr,
    K: tl.constexpr,
    BY_CHOICE: tl.constexpr,
    BU: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BF: tl.constexpr,
):
    """silu(x W_gate) · x W_up of some columns of one expert."""
    program = tl.program_id(0)
    e = _expert(expert, program // blocks, E, units, BY_CHOICE, BU)
    gate, up = tl.zeros((BT, BF), tl.float32), tl.zeros((BT, BF), tl.float32)
    if e < E:
        t, slot = _slots(expert, e, T, K, BT)
        f = program % blocks * BF + tl.arange(0, BF)
        if tl.max(slot, 0) >= 0:
            matrix = routed + e.to(tl.int64) * D * 2 * F
            for first in range(0, D, BD):
                d = first + tl.arange(0, BD)
                rows = tl.load(x + t[:, None] * D + d[None, :], mask=(t < T)[:, None] & (d < D)[None, :], other=0.0)
                at, mask = matrix + d[:, None] * 2 * F + f[None, :], (d < D)[:, None] & (f < F)[None, :]
                gate = tl.dot(rows, tl.load(at, mask=mask, other=0.0).to(rows.dtype), gate, input_precision="ieee")
                up = tl.dot(rows, tl.load(at + F, mask=mask, other=0.0).to(rows.dtype), up, input_precision="ieee")
            into = hidden + (t * K + slot)[:, None] * F + f[None, :]
            tl.store(into, gate * tl.sigmoid(gate) * up, mask=(slot >= 0)[:, None] & (f < F)[None, :])
    elif FS > 0:
        t = tl.program_id(1) * BT + tl.arange(0, BT)
        f = (program - units * blocks) * BF + tl.arange(0, BF)
        for first in range(0, D, BD):
            d = first + tl.arange(0, BD)
            rows = tl.load(x + t[:, None] * D + d[None, :], mask=(t < T)[:, None] & (d < D)[None, :], other=0.0)
            at, mask = shared + f[None, :] * D + d[:, None], (d < D)[:, None] & (f < FS)[None, :]
            gate = tl.dot(rows, tl.load(at, mask=mask, other=0.0).to(rows.dtype), gate, input_precision="ieee")
            up = tl.dot(rows, tl.load(at + FS * D, mask=mask, other=0.0).to(rows.dtype), up, input_precision="ieee")
        into = hidden + T * K * F + t[:, None] * FS + f[None, :]
        tl.store(into, gate * tl.sigmoid(gate) * up, mask=(t < T)[:, None] & (f < FS)[None, :])


@no_type_check
@triton.jit
def _down(
    hidden,
    expert,
    routed,
    shared,
    parts,
    T,
    E,
    units,
    blocks,
    D: tl.constexpr,
    F: tl.constexpr,
    FS: tl.constexpr,
    K: tl.constexpr,
    BY_CHOICE: tl.constexpr,
    BU: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BF: tl.constexpr,
):
    """Some columns of what one expert gives, for each choice; those of the shared one behind the K routed ones."""
    program = tl.program_id(0)
    e = _expert(expert, program // blocks, E, units, BY_CHOICE, BU)
    column = program % blocks * BF + tl.arange(0, BF)
    total = tl.zeros((BT, BF), tl.float32)
    if e < E:
        t, slot = _slots(expert, e, T, K, BT)
        if tl.max(slot, 0) >= 0:
            matrix = routed + e.to(tl.int64) * F * D
            for first in range(0, F, BD):
                f = first + tl.arange(0, BD)
                given = (slot >= 0)[:, None] & (f < F)[None, :]
                rows = tl.load(hidden + (t * K + slot)[:, None] * F + f[None, :], mask=given, other=0.0)
                at, mask = matrix + f[:, None] * D + column[None, :], (f < F)[:, None] & (column < D)[None, :]
                total = tl.dot(rows, tl.load(at, mask=mask, other=0.0).to(rows.dtype), total, input_precision="ieee")
            into = parts + (t * (K + 1) + slot)[:, None] * D + column[None, :]
            tl.store(into, total, mask=(slot >= 0)[:, None] & (column < D)[None, :])
    elif FS > 0:
        t = tl.program_id(1) * BT + tl.arange(0, BT)
        for first in range(0, FS, BD):
            f = first + tl.arange(0, BD)
            given = (t < T)[:, None] & (f < FS)[None, :]
            rows = tl.load(hidden + T * K * F + t[:, None] * FS + f[None, :], mask=given, other=0.0)
            at, mask = shared + column[None, :] * FS + f[:, None], (f < FS)[:, None] & (column < D)[None, :]
            total = tl.dot(rows, tl.load(at, mask=mask, other=0.0).to(rows.dtype), total, input_precision="ieee")
        into = parts + (t * (K + 1) + K)[:, None] * D + column[None, :]
        tl.store(into, total, mask=(t < T)[:, None] & (column < D)[None, :])


@no_type_check
@triton.jit
def _add(parts, weight, y, D, K: tl.constexpr, SHARED: tl.constexpr, BD: tl.constexpr):
    t = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    row = parts + t * (K + 1) * D + d
    total = tl.zeros((BD,), tl.float32)
    for k in tl.static_range(K):
        total += tl.load(weight + t * K + k).to(tl.float32) * tl.load(row + k * D, mask=d < D, other=0.0)
    if SHARED:
        total += tl.load(row + K * D, mask=d < D, other=0.0)
    tl.store(y + t * D + d, total, mask=d < D)
