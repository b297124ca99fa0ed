"""The SSD scan as one C++ kernel (kernels/ssd.cpp), forward and backward; `tandem.ops.ssd_chunked` calls it.

`convert` is the same walk without outputs; `tandem.ops.convert_memory` calls it.

Shapes: T tokens, S documents, H heads, P head width, G groups, N state width, C chunks.
"""

import torch
from torch import Tensor

from tandem.ops.cpu.compiled import call, int64s, is_narrow, rows_of_heads
from tandem.ops.layout import SequenceLayout

_CHUNK = 64  # a chunk's tiles fit the second-level cache; independent of layout.chunk, as results are


def ssd(
    x_THP: Tensor,
    dt_TH: Tensor,
    A_H: Tensor,
    B_TGN: Tensor,
    C_TGN: Tensor,
    layout: SequenceLayout,
    D_H: Tensor | None,
    state_SHPN: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`ssd_reference` for float32 or bfloat16 x, B and C of one dtype; float32 arithmetic whatever they are."""
    state = None if state_SHPN is None else state_SHPN.float()
    skip = None if D_H is None else D_H.float()
    return _Scan.apply(x_THP, dt_TH.float(), A_H.float(), B_TGN, C_TGN, skip, state, layout)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_THP, dt_TH, A_H, B_TGN, C_TGN, D_H, state_SHPN, layout):  # noqa: ANN001, ANN205
        x, B, C = (rows_of_heads(t) for t in (x_THP, B_TGN, C_TGN))
        dt, A, D = dt_TH.contiguous(), A_H.contiguous(), None if D_H is None else D_H.contiguous()
        initial = None if state_SHPN is None else state_SHPN.contiguous()
        problem = _Problem(x, B, dt, C, layout)
        (_, H, P), N = x.shape, B.shape[2]
        y = torch.empty(x.shape, dtype=x.dtype)
        final = torch.empty(layout.documents, H, P, N)
        needs = any(ctx.needs_input_grad)
        entering = torch.empty(problem.chunks, H, _padded(N), _padded(P)) if needs else None
        call("ssd_forward", *problem.tables, x, B, C, dt, A, D, initial, y, final, entering)
        ctx.save_for_backward(x, B, C, dt, A, D, entering)
        ctx.problem, ctx.has_state = problem, initial is not None
        return y, final

    @staticmethod
    def backward(ctx, dy_THP: Tensor, d_final: Tensor):  # noqa: ANN001, ANN205
        x, B, C, dt, A, D, entering = ctx.saved_tensors
        problem: _Problem = ctx.problem
        S, H = d_final.shape[:2]
        dx, d_dt, d_initial = torch.empty(x.shape, dtype=x.dtype), torch.empty_like(dt), torch.empty_like(d_final)
        dB, dC = (torch.empty(problem.blocks, *B.shape) for _ in range(2))
        dA, dD = torch.empty(S, H), torch.empty(S, H)
        given = (x, B, C, dt, A, D, entering, dy_THP.contiguous(), d_final.contiguous())
        call("ssd_backward", *problem.tables, *given, dx, d_dt, dB, dC, dA, dD, d_initial)
        d_B, d_C = (t.sum(0).to(x.dtype) for t in (dB, dC))
        d_D = None if D is None else dD.sum(0)
        return dx, d_dt, dA.sum(0), d_B, d_C, d_D, d_initial if ctx.has_state else None, None


def convert(
    K_TGN: Tensor, V_THP: Tensor, dt_TH: Tensor, A_H: Tensor, layout: SequenceLayout, state_SHPN: Tensor | None
) -> Tensor:
    """`convert_memory` for float32 or bfloat16 K and V of one dtype, with as many heads of V as of dt."""
    state = None if state_SHPN is None else state_SHPN.float()
    return _Convert.apply(K_TGN, V_THP, dt_TH.float(), A_H.float(), layout, state)


class _Convert(torch.autograd.Function):
    @staticmethod
    def forward(ctx, K_TGN, V_THP, dt_TH, A_H, layout, state_SHPN):  # noqa: ANN001, ANN205
        K, V, dt, A = rows_of_heads(K_TGN), rows_of_heads(V_THP), dt_TH.contiguous(), A_H.contiguous()
        initial = None if state_SHPN is None else state_SHPN.contiguous()
        problem = _Problem(V, K, dt, K, layout)
        (_, H, P), N = V.shape, K.shape[2]
        final = torch.empty(layout.documents, H, P, N)
        entering = torch.empty(problem.chunks, H, _padded(N), _padded(P)) if any(ctx.needs_input_grad) else None
        call("ssd_forward", *problem.tables, V, K, None, dt, A, None, initial, None, final, entering)
        ctx.save_for_backward(K, V, dt, A, entering)
        ctx.problem, ctx.has_state = problem, initial is not None
        return final

    @staticmethod
    def backward(ctx, d_final):  # noqa: ANN001, ANN205
        K, V, dt, A, entering = ctx.saved_tensors
        problem: _Problem = ctx.problem
        d_V, d_dt, d_initial = torch.empty(V.shape, dtype=V.dtype), torch.empty_like(dt), torch.empty_like(d_final)
        d_K, d_A = torch.empty(problem.blocks, *K.shape), torch.empty(d_final.shape[:2])
        given = (V, K, None, dt, A, None, entering, None, d_final.contiguous())
        call("ssd_backward", *problem.tables, *given, d_V, d_dt, d_K, None, d_A, None, d_initial)
        d_state = d_initial if ctx.has_state else None
        return d_K.sum(0).to(K.dtype), d_V, d_dt, d_A.sum(0), None, d_state


class _Problem:
    """Sizes, strides and document tables in the form that the kernels take."""

    def __init__(self, x_THP: Tensor, B_TGN: Tensor, dt_TH: Tensor, C_TGN: Tensor, layout: SequenceLayout) -> None:
        _, H, P = x_THP.shape
        _, G, N = B_TGN.shape
        self.blocks = _blocks(layout.documents * G, H // G, torch.get_num_threads())
        offsets, chunks = [0], [0]
        for length in layout.lengths:
            offsets.append(offsets[-1] + length)
            chunks.append(chunks[-1] - (-length // _CHUNK))
        self.chunks = chunks[-1]
        strides = (x_THP.stride(0), B_TGN.stride(0), C_TGN.stride(0), dt_TH.stride(0))
        self.tables = (
            int64s(layout.documents, H, P, G, N, _CHUNK, self.blocks, *strides),
            *(int64s(*offsets), int64s(*chunks), is_narrow(x_THP)),
        )


def _blocks(sets: int, heads: int, threads: int) -> int:
    """In how many blocks to cut the heads of a group so that every thread finds work; a divisor of `heads`.

    As few as possible: each block computes the products of B and C again.
    """
    return next(n for n in range(1, heads + 1) if heads % n == 0 and (n * sets >= threads or n == heads))


def _padded(width: int) -> int:
    return -(-width // 16) * 16
