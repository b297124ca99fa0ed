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

from tandem.ops.triton.support import interpreted, opaque, power_of_two


class Tile(NamedTuple):
    """How a product is cut: rows, columns and the step along the sum; warps of a program, and steps in flight.

    `flat`: the loops over tiles and along the sum are one, so that the next tile's reads begin while one is written.
    """

    rows: int
    columns: int
    step: int
    warps: int
    stages: int
    flat: bool = False


def grouped_is_supported(x_RD: Tensor, w_EDF: Tensor) -> bool:
    """Whether rows are long enough for descriptors, and the GPU has them."""
    if min(w_EDF.shape[1:]) < 64 or w_EDF.shape[1] % 8 or w_EDF.shape[2] % 16:
        return False
    return interpreted() or torch.cuda.get_device_capability(x_RD.device)[0] == 9


# The fastest of nine and of seven on an H100, for 32 experts of about 1,024 rows and 2,048 → 2 × 1,024 → 2,048 as for half of
# each width. A flat loop makes the plain product a tenth faster, but the gated one, with two sums in registers, slower.
PRODUCT = Tile(rows=128, columns=256, step=64, warps=8, stages=4, flat=True)
GATED = Tile(rows=128, columns=128, step=64, warps=8, stages=4)


@opaque(lambda x, w, ends: x.new_empty(x.shape[0], w.shape[2]))
def product(x_RD: Tensor, w_EDF: Tensor, ends_E: Tensor) -> Tensor:
    """y_RF: each row times its expert's matrix."""
    y_RF = x_RD.new_empty(len(x_RD), w_EDF.shape[2])
    E, D, F = w_EDF.shape
    tile = _fitting(PRODUCT, F)
    given = (_described(x_RD, tile.rows, tile.step), _described(w_EDF.view(E * D, F), tile.step, tile.columns))
    _start(_product, tile, x_RD, *given, y_RF, ends_E, E, D, F, BE=power_of_two(E), TURNED=False)
    return y_RF


@opaque(lambda dy, w, ends: dy.new_empty(dy.shape[0], w.shape[1]))
def product_turned(dy_RF: Tensor, w_EDF: Tensor, ends_E: Tensor) -> Tensor:
    """dx_RD: each row times the transpose of its expert's matrix."""
    dx_RD = dy_RF.new_empty(len(dy_RF), w_EDF.shape[1])
    E, D, F = w_EDF.shape
    tile = _fitting(PRODUCT, D)
    given = (_described(dy_RF, tile.rows, tile.step), _described(w_EDF.view(E * D, F), tile.columns, tile.step))
    _start(_product, tile, dy_RF, *given, dx_RD, ends_E, E, F, D, BE=power_of_two(E), TURNED=True)
    return dx_RD


def _both_and_hidden(x_RD: Tensor, w_EDF: Tensor, ends_E: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """Room for gate and up, and for what comes of them; an operator has no optional results."""
    R, F2 = x_RD.shape[0], w_EDF.shape[2]
    return x_RD.new_empty(R if keep else 0, F2), x_RD.new_empty(R, F2 // 2)


@opaque(_both_and_hidden)
def gated_product(x_RD: Tensor, w_EDF: Tensor, ends_E: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """Gate and up side by side, (R, 2F), if they are to be kept, and silu(gate) · up, (R, F)."""
    E, D, F2 = w_EDF.shape
    both, hidden = _both_and_hidden(x_RD, w_EDF, ends_E, keep)
    tile = _fitting(GATED, F2 // 2)
    given = (_described(x_RD, tile.rows, tile.step), _described(w_EDF.view(E * D, F2), tile.step, tile.columns))
    _start(_gated_product, tile, x_RD, *given, both, hidden, ends_E, E, D, F2 // 2, BE=power_of_two(E), KEEP=keep)
    return both, hidden


def _fitting(tile: Tile, width: int) -> Tile:
    """No wider than the result: a descriptor reads no more columns than there are."""
    return tile._replace(columns=min(tile.columns, power_of_two(width)))


def _described(t: Tensor, rows: int, columns: int) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(t, [rows, min(columns, power_of_two(t.shape[1]))])


def _start(kernel: Any, tile: Tile, like: Tensor, *given: Any, **form: Any) -> None:
    processors = 2 if interpreted() else torch.cuda.get_device_properties(like.device).multi_processor_count
    sizes = {"BM": tile.rows, "BN": tile.columns, "BK": tile.step}
    kernel[processors,](*given, **sizes, **form, FLAT=tile.flat, num_warps=tile.warps, num_stages=tile.stages)


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
            if TURNED:  # noqa: SIM108 # Triton compiles one branch of this, and both of an expression
                w_KN = w.load([expert * F + n * BN, k]).T
            else:
                w_KN = w.load([expert * D + k, n * BN])
            total = tl.dot(x_MK, w_KN, total)
        _store(y, total, row, end, n * BN, F, BM, BN)


@no_type_check
@triton.jit
def _gated_product(
    x, w, both, hidden, ends, E, D, F,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BE: tl.constexpr, FLAT: tl.constexpr, KEEP: tl.constexpr,
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
        gate, up = gate.to(both.dtype.element_ty), up.to(both.dtype.element_ty)  # as SwiGLU's backward pass reads them
        if KEEP:
            tl.store(both_at, gate, mask=mask)
            tl.store(both_at + F, up, mask=mask)
        gate = gate.to(tl.float32)
        tl.store(hidden + at, (gate * tl.sigmoid(gate) * up.to(tl.float32)).to(both.dtype.element_ty), mask=mask)
