"""RMSNorm with an optional gate, and of a residual sum, as Triton kernels; `tandem.ops.rms_norm` and `add_rms_norm` call them.

A program takes one of the `groups` parts of some rows. In the backward pass it walks over many rows and leaves the sum of
its gradients of the weight; the sums of programs are added in their order, so that results repeat bit for bit.

Shapes: T rows, D width.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from tandem.ops.triton.sums import sum_over
from tandem.ops.triton.support import ceil_div, opaque, power_of_two

_CELLS = 2048  # of a tile
_PROGRAMS = 512  # that share the rows of a group in the backward pass
_STAGES = 3  # tiles of a program that are under way in the backward pass, as far as they fit into
_SHARED = 65_536  # bytes of shared memory, which every GPU since 2020 has


def norm(x: Tensor, weight_D: Tensor, eps: float, groups: int, gate: Tensor | None, dtype: torch.dtype) -> Tensor:
    """`rms_norm` for float32 or narrower; rows of x and gate may lie apart, as in a slice of a projection."""
    run = _Norm.apply if torch.is_grad_enabled() else _norm  # `apply` takes the CPU as long as a launch
    y_TD = run(_as_rows(x), weight_D, None if gate is None else _as_rows(gate), eps, groups, dtype)
    return y_TD if x.ndim == 2 else y_TD.view(x.shape)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_TD, weight_D, gate_TD, eps, groups, dtype):  # noqa: ANN205
        ctx.save_for_backward(x_TD, weight_D, gate_TD)
        ctx.form = (eps, groups)
        return _norm(x_TD, weight_D, gate_TD, eps, groups, dtype)

    @staticmethod
    def backward(ctx, dy_TD: Tensor):  # noqa: ANN205
        dx_TD, d_weight_D, d_gate_TD = _norm_gradient(dy_TD, *ctx.saved_tensors, *ctx.form)
        return dx_TD, d_weight_D, d_gate_TD if d_gate_TD.numel() else None, None, None, None


def _result(x_TD: Tensor, weight_D: Tensor, gate: Tensor | None, eps: float, groups: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(x_TD.shape, dtype=dtype, device=x_TD.device)


@opaque(_result)
def _norm(
    x_TD: Tensor, weight_D: Tensor, gate_TD: Tensor | None, eps: float, groups: int, dtype: torch.dtype
) -> Tensor:
    y_TD = _result(x_TD, weight_D, gate_TD, eps, groups, dtype)
    if x_TD.numel():
        sizes, tile = _sizes(x_TD, gate_TD, eps, groups)
        grid = (ceil_div(len(x_TD), tile["BT"]), groups)
        _forward[grid](x_TD, gate_TD, weight_D.contiguous(), y_TD, *sizes, **tile)
    return y_TD


def _gradients(
    dy_TD: Tensor, x_TD: Tensor, weight_D: Tensor, gate_TD: Tensor | None, eps: float, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes of those of x, weight and gate; an operator has no optional results, so without a gate the last is empty."""
    return _like(x_TD), weight_D.new_empty(weight_D.shape), x_TD.new_empty(0) if gate_TD is None else _like(gate_TD)


def _like(t: Tensor) -> Tensor:
    return torch.empty(t.shape, dtype=t.dtype, device=t.device)  # rows side by side, however those of t lie


@opaque(_gradients)
def _norm_gradient(
    dy_TD: Tensor, x_TD: Tensor, weight_D: Tensor, gate_TD: Tensor | None, eps: float, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    dx_TD, d_gate_TD = _like(x_TD), x_TD.new_empty(0) if gate_TD is None else _like(gate_TD)
    sizes, tile = _sizes(x_TD, gate_TD, eps, groups)
    programs = min(_PROGRAMS, ceil_div(len(x_TD), tile["BT"]))
    partial = torch.empty(programs, len(weight_D), dtype=torch.float32, device=x_TD.device)
    given = (x_TD, gate_TD, weight_D.contiguous(), dy_TD.contiguous())
    if x_TD.numel():
        stages = _stages(tile, x_TD, dy_TD, *(() if gate_TD is None else (gate_TD,)))
        _backward[programs, groups](*given, dx_TD, d_gate_TD, partial, *sizes, **tile, STAGES=stages)
    return dx_TD, sum_over(partial, 0, weight_D.dtype), d_gate_TD


def add_norm(
    x_TD: Tensor, y_TD: Tensor, scale: float, weight_D: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`add_rms_norm` for float32 or narrower."""
    run = _AddNorm.apply if torch.is_grad_enabled() else _add_norm
    return run(x_TD.contiguous(), y_TD.contiguous(), scale, weight_D, eps, dtype)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_TD, y_TD, scale, weight_D, eps, dtype):  # noqa: ANN205
        sum_TD, normed_TD = _add_norm(x_TD, y_TD, scale, weight_D, eps, dtype)
        ctx.save_for_backward(sum_TD, weight_D)
        ctx.form = (y_TD.dtype, scale, eps)
        ctx.set_materialize_grads(False)
        return sum_TD, normed_TD

    @staticmethod
    def backward(ctx, d_sum_TD: Tensor | None, d_normed_TD: Tensor | None):  # noqa: ANN205
        sum_TD, weight_D = ctx.saved_tensors
        d_normed_TD = torch.zeros_like(sum_TD) if d_normed_TD is None else d_normed_TD
        dx_TD, dy_TD, d_weight_D = _add_norm_gradient(d_normed_TD, d_sum_TD, sum_TD, weight_D, *ctx.form)
        return dx_TD, dy_TD, None, d_weight_D, None, None


def _sum_and_norm(
    x_TD: Tensor, y_TD: Tensor, scale: float, weight_D: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Room for the sum and for its norm."""
    return _like(x_TD), torch.empty(x_TD.shape, dtype=dtype, device=x_TD.device)


@opaque(_sum_and_norm)
def _add_norm(
    x_TD: Tensor, y_TD: Tensor, scale: float, weight_D: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    sum_TD, normed_TD = _sum_and_norm(x_TD, y_TD, scale, weight_D, eps, dtype)
    if x_TD.numel():
        (T, D), form = _add_sizes(x_TD)
        given = (x_TD, y_TD, weight_D.contiguous(), sum_TD, normed_TD, T, D, scale, eps)
        _add_forward[ceil_div(T, form["BT"]),](*given, **form)
    return sum_TD, normed_TD


@opaque(
    lambda d_normed, d_sum, sum_, weight, dtype, *_: (
        _like(sum_),
        torch.empty(sum_.shape, dtype=dtype, device=sum_.device),
        weight.new_empty(weight.shape),
    )
)
def _add_norm_gradient(
    d_normed_TD: Tensor,
    d_sum_TD: Tensor | None,
    sum_TD: Tensor,
    weight_D: Tensor,
    dtype: torch.dtype,
    scale: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of y in `dtype`, and of the weight."""
    dx_TD, dy_TD = _like(sum_TD), torch.empty(sum_TD.shape, dtype=dtype, device=sum_TD.device)
    (T, D), form = _add_sizes(sum_TD)
    programs = min(_PROGRAMS, ceil_div(T, form["BT"]))
    partial = torch.empty(programs, D, dtype=torch.float32, device=sum_TD.device)
    d_sum = None if d_sum_TD is None else d_sum_TD.contiguous()
    given = (sum_TD, weight_D.contiguous(), d_normed_TD.contiguous(), d_sum, dx_TD, dy_TD, partial, T, D, scale, eps)
    if sum_TD.numel():
        stages = _stages(form, sum_TD, d_normed_TD, *(() if d_sum is None else (d_sum,)))
        _add_backward[programs,](*given, ADDED=d_sum is not None, **form, STAGES=stages)
    return dx_TD, dy_TD, sum_over(partial, 0, weight_D.dtype)


def _stages(tile: dict[str, Any], *read: Tensor) -> int:
    """Tiles under way: the next ones are copied to shared memory while one is worked on."""
    one = tile["BT"] * tile["BD"] * sum(t.element_size() for t in read)
    return min(_STAGES, 1 + _SHARED // one)


def _as_rows(t: Tensor) -> Tensor:
    rows = t if t.ndim == 2 else t.reshape(-1, t.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _add_sizes(x_TD: Tensor) -> tuple[torch.Size, dict[str, Any]]:
    _, tile = _sizes(x_TD, None, 0.0, 1)
    return x_TD.shape, {name: tile[name] for name in ("BT", "BD", "num_warps")}


def _sizes(x_TD: Tensor, gate_TD: Tensor | None, eps: float, groups: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    T, D = x_TD.shape
    width = D // groups
    columns = power_of_two(width)
    rows = max(1, _CELLS // columns)
    tile = {"WIDTH": width, "GATED": gate_TD is not None, "BT": rows, "BD": columns}
    warps = min(16, max(4, rows * columns // (512 if rows > 1 else 256)))
    strides = (x_TD.stride(0), 0 if gate_TD is None else gate_TD.stride(0))
    return (T, D, *strides, eps), {**tile, "num_warps": warps}


@no_type_check
@triton.jit
def _read(x, gate, t, column, mask, x_stride, gate_stride, GATED: tl.constexpr):
    """Rows of x, and of the gate with its sigmoid where there is one."""
    row = tl.load(x + t[:, None] * x_stride + column[None, :], mask=mask, other=0.0).to(tl.float32)
    if GATED:
        z = tl.load(gate + t[:, None] * gate_stride + column[None, :], mask=mask, other=0.0).to(tl.float32)
        open_ = tl.sigmoid(z)
    else:
        z, open_ = tl.full(row.shape, 1.0, tl.float32), tl.full(row.shape, 1.0, tl.float32)
    return row, z, open_


@no_type_check
@triton.jit
def _forward(
    x,
    gate,
    weight,
    y,
    T,
    D,
    x_stride,
    gate_stride,
    eps,
    WIDTH: tl.constexpr,
    GATED: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
):
    t = (tl.program_id(0) * BT + tl.arange(0, BT)).to(tl.int64)
    part = tl.arange(0, BD)
    column = tl.program_id(1) * WIDTH + part
    mask = (t < T)[:, None] & (part < WIDTH)[None, :]
    row, z, open_ = _read(x, gate, t, column, mask, x_stride, gate_stride, GATED)
    u = row * z * open_
    scale = 1 / tl.sqrt(tl.sum(u * u, 1) / WIDTH + eps)
    factor = tl.load(weight + column, mask=part < WIDTH, other=0.0).to(tl.float32)
    tl.store(y + t[:, None] * D + column[None, :], u * scale[:, None] * factor[None, :], mask=mask)


@no_type_check
@triton.jit
def _backward(
    x,
    gate,
    weight,
    dy,
    dx,
    d_gate,
    partial,
    T,
    D,
    x_stride,
    gate_stride,
    eps,
    WIDTH: tl.constexpr,
    GATED: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    STAGES: tl.constexpr,
):
    part = tl.arange(0, BD)
    column = tl.program_id(1) * WIDTH + part
    factor = tl.load(weight + column, mask=part < WIDTH, other=0.0).to(tl.float32)
    d_weight = tl.zeros((BT, BD), tl.float32)
    for first in tl.range(tl.program_id(0) * BT, T, tl.num_programs(0) * BT, num_stages=STAGES):
        t = (first + tl.arange(0, BT)).to(tl.int64)
        mask = (t < T)[:, None] & (part < WIDTH)[None, :]
        out = t[:, None] * D + column[None, :]
        row, z, open_ = _read(x, gate, t, column, mask, x_stride, gate_stride, GATED)
        given = tl.load(dy + out, mask=mask, other=0.0).to(tl.float32)
        u = row * z * open_
        scale = 1 / tl.sqrt(tl.sum(u * u, 1) / WIDTH + eps)
        normed = u * scale[:, None]
        d_weight += given * normed
        pull = given * factor[None, :]
        along = tl.sum(pull * normed, 1) / WIDTH
        d_u = (pull - normed * along[:, None]) * scale[:, None]
        tl.store(dx + out, d_u * z * open_, mask=mask)
        if GATED:
            tl.store(d_gate + out, d_u * row * open_ * (1 + z * (1 - open_)), mask=mask)
    into = partial + tl.program_id(0).to(tl.int64) * D + column
    tl.store(into, tl.sum(d_weight, 0), mask=part < WIDTH)


@no_type_check
@triton.jit
def _add_forward(x, y, weight, sums, normed, T, D, scale, eps, BT: tl.constexpr, BD: tl.constexpr):
    t = (tl.program_id(0) * BT + tl.arange(0, BT)).to(tl.int64)
    column = tl.arange(0, BD)
    mask = (t < T)[:, None] & (column < D)[None, :]
    place = t[:, None] * D + column[None, :]
    added = tl.load(y + place, mask=mask, other=0.0).to(tl.float32)
    total = (tl.load(x + place, mask=mask, other=0.0).to(tl.float32) + scale * added).to(x.dtype.element_ty)
    tl.store(sums + place, total, mask=mask)
    u = total.to(tl.float32)
    root = 1 / tl.sqrt(tl.sum(u * u, 1) / D + eps)
    factor = tl.load(weight + column, mask=column < D, other=0.0).to(tl.float32)
    tl.store(normed + place, u * root[:, None] * factor[None, :], mask=mask)


@no_type_check
@triton.jit
def _add_backward(
    sums,
    weight,
    d_normed,
    d_sum,
    dx,
    dy,
    partial,
    T,
    D,
    scale,
    eps,
    ADDED: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    STAGES: tl.constexpr,
):
    column = tl.arange(0, BD)
    factor = tl.load(weight + column, mask=column < D, other=0.0).to(tl.float32)
    d_weight = tl.zeros((BT, BD), tl.float32)
    for first in tl.range(tl.program_id(0) * BT, T, tl.num_programs(0) * BT, num_stages=STAGES):
        t = (first + tl.arange(0, BT)).to(tl.int64)
        mask = (t < T)[:, None] & (column < D)[None, :]
        place = t[:, None] * D + column[None, :]
        u = tl.load(sums + place, mask=mask, other=0.0).to(tl.float32)
        given = tl.load(d_normed + place, mask=mask, other=0.0).to(tl.float32)
        root = 1 / tl.sqrt(tl.sum(u * u, 1) / D + eps)
        along = u * root[:, None]
        d_weight += given * along
        pull = given * factor[None, :]
        d_u = (pull - along * (tl.sum(pull * along, 1) / D)[:, None]) * root[:, None]
        if ADDED:
            d_u += tl.load(d_sum + place, mask=mask, other=0.0).to(tl.float32)
        tl.store(dx + place, d_u, mask=mask)
        tl.store(dy + place, scale * d_u, mask=mask)
    tl.store(partial + tl.program_id(0).to(tl.int64) * D + column, tl.sum(d_weight, 0), mask=column < D)
