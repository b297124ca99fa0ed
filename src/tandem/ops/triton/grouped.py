"""Matrix products of rows sorted by expert, with SwiGLU in the epilogue, as Triton kernels.

A program takes one tile of the result after another: of all experts' tiles in order those whose number is its own modulo the
number of programs, so that experts of unequal size leave no processor idle. Tiles are read by descriptors (Hopper's tensor
copies); a tile that reaches into the next expert's rows is not written there.

Shapes: R rows, E experts, D width in, F width out.
"""

from typing import Any, NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from tandem.ops.triton.support import ceil_div, interpreted, opaque, power_of_two


class Tile(NamedTuple):
    """How a product is cut: rows, columns and the step along the sum; warps, steps in flight, programs a processor.

    `flat`: the loops over tiles and along the sum are one, so that the next tile's reads begin while one is written.
    """

    rows: int
    columns: int
    step: int
    warps: int
    stages: int
    programs: int = 1
    flat: bool = False


def grouped_is_supported(x_RD: Tensor, w_EDF: Tensor) -> bool:
    """Whether rows are long enough for descriptors, and the GPU has them."""
    if min(w_EDF.shape[1:]) < 64 or w_EDF.shape[1] % 8 or w_EDF.shape[2] % 16:
        return False
    return interpreted() or torch.cuda.get_device_capability(x_RD.device)[0] == 9


PRODUCT = Tile(128, 256, 64, 8, 3)
GATED = Tile(128, 128, 64, 8, 3)
BACK = Tile(128, 128, 64, 8, 3)
WEIGHTS = Tile(128, 256, 64, 8, 3)


@opaque(lambda x, w, ends: x.new_empty(x.shape[0], w.shape[2]))
def product(x_RD: Tensor, w_EDF: Tensor, ends_E: Tensor) -> Tensor:
    """y_RF: each row times its expert's matrix."""
    y_RF = x_RD.new_empty(len(x_RD), w_EDF.shape[2])
    E, D, F = w_EDF.shape
    tile = PRODUCT
    given = (_described(x_RD, tile.rows, tile.step), _described(w_EDF.view(E * D, F), tile.step, tile.columns))
    _start(_product, tile, x_RD, *given, y_RF, ends_E, E, D, F, BE=power_of_two(E), TURNED=False)
    return y_RF


@opaque(lambda dy, w, ends: dy.new_empty(dy.shape[0], w.shape[1]))
def product_turned(dy_RF: Tensor, w_EDF: Tensor, ends_E: Tensor) -> Tensor:
    """dx_RD: each row times the transpose of its expert's matrix."""
    dx_RD = dy_RF.new_empty(len(dy_RF), w_EDF.shape[1])
    E, D, F = w_EDF.shape
    tile = PRODUCT
    given = (_described(dy_RF, tile.rows, tile.step), _described(w_EDF.view(E * D, F), tile.columns, tile.step))
    _start(_product, tile, dy_RF, *given, dx_RD, ends_E, E, F, D, BE=power_of_two(E), TURNED=True)
    return dx_RD


@opaque(lambda x, w, ends: (x.new_empty(x.shape[0], w.shape[2]), x.new_empty(x.shape[0], w.shape[2] // 2)))
def gated_product(x_RD: Tensor, w_EDF: Tensor, ends_E: Tensor) -> tuple[Tensor, Tensor]:
    """Gate and up side by side, (R, 2F), and silu(gate) · up, (R, F)."""
    E, D, F2 = w_EDF.shape
    both, hidden = x_RD.new_empty(len(x_RD), F2), x_RD.new_empty(len(x_RD), F2 // 2)
    tile = GATED
    given = (_described(x_RD, tile.rows, tile.step), _described(w_EDF.view(E * D, F2), tile.step, tile.columns))
    _start(_gated_product, tile, x_RD, *given, both, hidden, ends_E, E, D, F2 // 2, BE=power_of_two(E))
    return both, hidden


@opaque(lambda dy, w, both, ends: torch.empty_like(both))
def gated_gradient(dy_RD: Tensor, down_EFD: Tensor, both: Tensor, ends_E: Tensor) -> Tensor:
    """Gradient of gate and up (R, 2F) from that of what leaves the experts: (dy downᵀ) through SwiGLU."""
    E, F, D = down_EFD.shape
    d_both, tile = torch.empty_like(both), BACK
    given = (_described(dy_RD, tile.rows, tile.step), _described(down_EFD.view(E * F, D), tile.columns, tile.step))
    _start(_gated_gradient, tile, dy_RD, *given, both, d_both, ends_E, E, D, F, BE=power_of_two(E))
    return d_both


@opaque(lambda x, dy, ends: x.new_empty(len(ends), x.shape[1], dy.shape[1]))
def weight_gradient(x_RD: Tensor, dy_RF: Tensor, ends_E: Tensor) -> Tensor:
    """dw_EDF: xᵀ dy over each expert's rows; zeros where it has none."""
    (R, D), F, E = x_RD.shape, dy_RF.shape[1], len(ends_E)
    dw_EDF, tile = x_RD.new_empty(E, D, F), WEIGHTS
    given = (_described(x_RD, tile.step, tile.rows), _described(dy_RF, tile.step, tile.columns))
    _start(_weight_gradient, tile, x_RD, *given, dw_EDF, ends_E, E, D, F)
    return dw_EDF


def _described(t: Tensor, rows: int, columns: int) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(t, [rows, min(columns, power_of_two(t.shape[1]))])


def _start(kernel: Any, tile: Tile, like: Tensor, *given: Any, **form: Any) -> None:
    processors = 2 if interpreted() else torch.cuda.get_device_properties(like.device).multi_processor_count
    sizes = {"BM": tile.rows, "BN": tile.columns, "BK": tile.step}
    form |= {"FLAT": tile.flat} if "BE" in form else {}
    kernel[processors * tile.programs,](*given, **sizes, **form, num_warps=tile.warps, num_stages=tile.stages)


@no_type_check
@triton.jit
def _experts_rows(ends, E, across, BM: tl.constexpr, BE: tl.constexpr):
    """Of each expert: its first row, its end, and the number of tiles up to its last; `across` tiles lie in a row."""
    e = tl.arange(0, BE)
    end_E = tl.load(ends + e, mask=e < E, other=0)
    begin_E = tl.load(ends + e - 1, mask=(e > 0) & (e < E), other=0)
    tiles_E = tl.where(e < E, (end_E - begin_E + BM - 1) // BM * across, 0)
    return begin_E, end_E, tiles_E, tl.cumsum(tiles_E, 0)


@no_type_check
@triton.jit
def _place(tile, begin_E, end_E, tiles_E, last_E, across, BM: tl.constexpr, BE: tl.constexpr):
    """Expert, first row, end of the expert's rows and number of the column of tiles."""
    e = tl.arange(0, BE)
    expert = tl.sum((last_E <= tile).to(tl.int32), 0)
    mine_E = e == expert
    within = tile - tl.sum(tl.where(mine_E, last_E - tiles_E, 0), 0)
    begin, end = tl.sum(tl.where(mine_E, begin_E, 0), 0), tl.sum(tl.where(mine_E, end_E, 0), 0)
    rows = (end - begin + BM - 1) // BM
    # Down first: neighbors share the columns of the expert's matrix, which are more than its rows.
    return expert, begin + within % rows * BM, end, within // rows


@no_type_check
@triton.jit
def _store(y, value, row, end, column, WIDTH, BM: tl.constexpr, BN: tl.constexpr):
    r, c = row + tl.arange(0, BM), column + tl.arange(0, BN)
    mask = (r < end)[:, None] & (c < WIDTH)[None, :]
    tl.store(y + r.to(tl.int64)[:, None] * WIDTH + c[None, :], value.to(y.dtype.element_ty), mask=mask)


@no_type_check
@triton.jit
def _product(
    x, w, y, ends, E, D, F,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BE: tl.constexpr, FLAT: tl.constexpr, TURNED: tl.constexpr,
):  # fmt: skip
    """D is what is summed over, F the width of the result."""
    across = tl.cdiv(F, BN)
    begin_E, end_E, tiles_E, last_E = _experts_rows(ends, E, across, BM, BE)
    for tile in tl.range(tl.program_id(0), tl.max(last_E, 0), tl.num_programs(0), flatten=FLAT):
        expert, row, end, n = _place(tile, begin_E, end_E, tiles_E, last_E, across, BM, BE)
        total = tl.zeros((BM, BN), tl.float32)
        for k in range(0, D, BK):
            x_MK = x.load([row, k])
            if TURNED:
                w_KN = w.load([expert * F + n * BN, k]).T
            else:
                w_KN = w.load([expert * D + k, n * BN])
            total = tl.dot(x_MK, w_KN, total)
        _store(y, total, row, end, n * BN, F, BM, BN)


@no_type_check
@triton.jit
def _gated_product(
    x, w, both, hidden, ends, E, D, F,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BE: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(F, BN)
    begin_E, end_E, tiles_E, last_E = _experts_rows(ends, E, across, BM, BE)
    for tile in tl.range(tl.program_id(0), tl.max(last_E, 0), tl.num_programs(0), flatten=FLAT):
        expert, row, end, n = _place(tile, begin_E, end_E, tiles_E, last_E, across, BM, BE)
        gate, up = tl.zeros((BM, BN), tl.float32), tl.zeros((BM, BN), tl.float32)
        for k in range(0, D, BK):
            x_MK = x.load([row, k])
            gate = tl.dot(x_MK, w.load([expert * D + k, n * BN]), gate)
            up = tl.dot(x_MK, w.load([expert * D + k, F + n * BN]), up)
        r, c = row + tl.arange(0, BM), n * BN + tl.arange(0, BN)
        mask = (r < end)[:, None] & (c < F)[None, :]
        at = r.to(tl.int64)[:, None] * F + c[None, :]
        both_at = both + at + r.to(tl.int64)[:, None] * F
        gate, up = gate.to(both.dtype.element_ty), up.to(both.dtype.element_ty)
        tl.store(both_at, gate, mask=mask)
        tl.store(both_at + F, up, mask=mask)
        gate = gate.to(tl.float32)
        tl.store(hidden + at, (gate * tl.sigmoid(gate) * up.to(tl.float32)).to(both.dtype.element_ty), mask=mask)


@no_type_check
@triton.jit
def _gated_gradient(
    dy, w, both, d_both, ends, E, D, F,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BE: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(F, BN)
    begin_E, end_E, tiles_E, last_E = _experts_rows(ends, E, across, BM, BE)
    for tile in tl.range(tl.program_id(0), tl.max(last_E, 0), tl.num_programs(0), flatten=FLAT):
        expert, row, end, n = _place(tile, begin_E, end_E, tiles_E, last_E, across, BM, BE)
        given = tl.zeros((BM, BN), tl.float32)
        for k in range(0, D, BK):
            given = tl.dot(dy.load([row, k]), w.load([expert * F + n * BN, k]).T, given)
        r, c = row + tl.arange(0, BM), n * BN + tl.arange(0, BN)
        mask = (r < end)[:, None] & (c < F)[None, :]
        at = 2 * r.to(tl.int64)[:, None] * F + c[None, :]
        gate = tl.load(both + at, mask=mask, other=0.0).to(tl.float32)
        up = tl.load(both + at + F, mask=mask, other=0.0).to(tl.float32)
        open_ = tl.sigmoid(gate)
        d_gate, d_up = given * up * open_ * (1 + gate * (1 - open_)), given * gate * open_
        tl.store(d_both + at, d_gate.to(both.dtype.element_ty), mask=mask)
        tl.store(d_both + at + F, d_up.to(both.dtype.element_ty), mask=mask)


@no_type_check
@triton.jit
def _weight_gradient(x, dy, dw, ends, E, D, F, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    down, across = tl.cdiv(D, BM), tl.cdiv(F, BN)
    for tile in range(tl.program_id(0), E * down * across, tl.num_programs(0)):
        expert, m, n = tile // (down * across), tile % down, tile // down % across
        begin, end = tl.load(ends + tl.maximum(expert - 1, 0)), tl.load(ends + expert)
        begin = tl.where(expert > 0, begin, 0)
        whole = (end - begin) // BK * BK
        total = tl.zeros((BM, BN), tl.float32)
        for r in range(begin, begin + whole, BK):
            total = tl.dot(x.load([r, m * BM]).T, dy.load([r, n * BN]), total)
        if begin + whole < end:  # rows of the next expert do not count
            r = begin + whole
            inside = (r + tl.arange(0, BK) < end)[:, None]
            x_KM = tl.where(inside, x.load([r, m * BM]), 0.0)
            dy_KN = tl.where(inside, dy.load([r, n * BN]), 0.0)
            total = tl.dot(x_KM.T, dy_KN, total)
        _store(dw + expert.to(tl.int64) * D * F, total, m * BM, D, n * BN, F, BM, BN)
