"""Attention of one token of each document to its cache as Triton kernels, by lengths that are on the device.

A program takes one key/value head of one document, with all query heads that share it, and one stretch of the cache;
stretches are of fixed length and added in their order, so that neither the room in the cache nor the rest of the batch
changes a bit of the result.

Shapes: S documents, H query heads, G key/value heads, P head width, L slots of a cache.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from tandem.ops.triton.support import ceil_div, opaque, power_of_two

_STRETCH = 256  # slots of the cache that one program reads
_KEYS = 64  # of them at a time
_STRETCHES = 16  # that are added at a time


@opaque(lambda q, *_: q.new_empty(q.shape))
def attention_step(q_SHP: Tensor, k_SLGP: Tensor, v_SLGP: Tensor, starts_S: Tensor, scale: float) -> Tensor:
    """Attention of document s to the first starts[s] + 1 slots of its cache, in q's format. No gradients."""
    (S, H, P), (_, L, G, _) = q_SHP.shape, k_SLGP.shape
    stretches, rows = ceil_div(L, _STRETCH), max(16, power_of_two(H // G))
    given = (q_SHP.contiguous(), k_SLGP.contiguous(), v_SLGP.contiguous(), starts_S)
    sums = torch.empty(S, H, stretches, P, dtype=torch.float32, device=q_SHP.device)
    marks = torch.empty(S, H, stretches, 2, dtype=torch.float32, device=q_SHP.device)
    tile = {"P": P, "BP": max(16, power_of_two(P))}
    parts = {"BH": rows, "BL": _KEYS, "STRETCH": _STRETCH, "num_stages": 2}
    _attend[S * G, stretches](*given, sums, marks, scale, L, H, G, stretches, **tile, **parts)
    y_SHP = torch.empty_like(given[0])
    _join[S, H](sums, marks, starts_S, y_SHP, H, stretches, **tile, STRETCH=_STRETCH, BS=_STRETCHES)
    return y_SHP


@no_type_check
@triton.jit
def _attend(
    q,
    k,
    v,
    starts,
    sums,
    marks,
    scale,
    L,
    H,
    G,
    stretches,
    P: tl.constexpr,
    BP: tl.constexpr,
    BH: tl.constexpr,
    BL: tl.constexpr,
    STRETCH: tl.constexpr,
):
    s, g = (tl.program_id(0) // G).to(tl.int64), tl.program_id(0) % G
    part = tl.program_id(1)
    length = tl.load(starts + s) + 1
    if part * STRETCH < length:
        head, p = tl.arange(0, BH), tl.arange(0, BP)
        h = g * (H // G) + head
        heads = (head < H // G)[:, None] & (p < P)[None, :]
        query = tl.load(q + (s * H + h)[:, None] * P + p[None, :], mask=heads, other=0.0)
        top = tl.full((BH,), float("-inf"), tl.float32)
        mass, total = tl.zeros((BH,), tl.float32), tl.zeros((BH, BP), tl.float32)
        end = tl.minimum((part + 1) * STRETCH, length).to(tl.int32)
        for block in range(STRETCH // BL):
            at = part * STRETCH + block * BL + tl.arange(0, BL)
            where = ((s * L + at) * G + g)[:, None] * P + p[None, :]
            mask = (at < end)[:, None] & (p < P)[None, :]
            keys = tl.load(k + where, mask=mask, other=0.0).to(query.dtype)
            scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale
            scores = tl.where((at < end)[None, :], scores, float("-inf"))
            higher = tl.maximum(top, tl.max(scores, 1))
            shares, fade = tl.exp(scores - higher[:, None]), tl.exp(top - higher)
            values = tl.load(v + where, mask=mask, other=0.0).to(query.dtype)
            mass = mass * fade + tl.sum(shares, 1)
            total = tl.dot(shares.to(query.dtype), values, total * fade[:, None], input_precision="ieee")
            top = higher
        into = (s * H + h) * stretches + part
        tl.store(sums + into[:, None] * P + p[None, :], total, mask=heads)
        tl.store(marks + into * 2, top, mask=head < H // G)
        tl.store(marks + into * 2 + 1, mass, mask=head < H // G)


@no_type_check
@triton.jit
def _join(
    sums, marks, starts, y, H, stretches, P: tl.constexpr, BP: tl.constexpr, STRETCH: tl.constexpr, BS: tl.constexpr
):
    row, p = tl.program_id(0).to(tl.int64) * H + tl.program_id(1), tl.arange(0, BP)
    count = (tl.load(starts + tl.program_id(0)) // STRETCH + 1).to(tl.int32)
    top = tl.full((), float("-inf"), tl.float32)
    mass, total = tl.full((), 0.0, tl.float32), tl.zeros((BP,), tl.float32)
    first = 0
    while first < count:
        part = first + tl.arange(0, BS)
        first += BS
        at = row * stretches + part
        tops = tl.load(marks + at * 2, mask=part < count, other=float("-inf"))
        masses = tl.load(marks + at * 2 + 1, mask=part < count, other=0.0)
        rows = tl.load(sums + at[:, None] * P + p[None, :], mask=(part < count)[:, None] & (p < P)[None, :], other=0.0)
        higher = tl.maximum(top, tl.max(tops, 0))
        factor, fade = tl.exp(tops - higher), tl.exp(top - higher)
        mass = mass * fade + tl.sum(masses * factor, 0)
        total = total * fade + tl.sum(rows * factor[:, None], 0)
        top = higher
    tl.store(y + row * P + p, total / mass, mask=p < P)
