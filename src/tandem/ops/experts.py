"""Routed experts: tokens sorted by expert, so that each expert is one matrix product.

Shapes: T tokens, K experts a token, R rows (one a token and chosen expert, and some padding), E experts, D width, F expert
width.
"""

from collections.abc import Callable
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from tandem.ops.cpu.compiled import kernels_for
from tandem.ops.cpu.decode import ROWS, mixture_is_supported, mixture_step
from tandem.ops.cpu.experts import gather_sum as cpu_gather_sum
from tandem.ops.cpu.experts import scatter_gradient as cpu_scatter_gradient
from tandem.ops.cpu.pointwise import swiglu as cpu_swiglu
from tandem.ops.linear import linear
from tandem.ops.routing import route
from tandem.ops.triton.support import triton_for

GroupedProduct = Callable[[Tensor, Tensor, list[int] | Tensor], Tensor]  # as `grouped_matmul`

_ROW_BLOCK = 32
_ROUTED_BY_A_GPU = 4096  # tokens: fewer do not keep it busy for as long as the launches of `route` take the CPU
_SOME_OF_A_GPU = 128  # tokens: with more of them grouped products keep its tensor cores busier


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up, the two stored side by side in the last dimension."""
    if kernels_for(gate_up):
        return cpu_swiglu(gate_up)
    if triton_for(gate_up):
        from tandem.ops.triton.pointwise import swiglu as triton_swiglu

        return triton_swiglu(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def experts_reference(
    x_TD: Tensor,
    expert_TK: Tensor,
    weight_TK: Tensor,
    gate_up_EDF: Tensor,
    down_EFD: Tensor,
    activation: Callable[[Tensor], Tensor] = swiglu,
) -> Tensor:
    """Each token by itself through each of its experts; `routed_experts` is tested against it."""
    rows = []
    for x_D, experts, weights in zip(x_TD, expert_TK.tolist(), weight_TK, strict=True):
        outputs = [activation(x_D @ gate_up_EDF[e]) @ down_EFD[e] * w for e, w in zip(experts, weights, strict=True)]
        rows.append(torch.stack(outputs).sum(0))
    return torch.stack(rows)


def mixture(
    x_TD: Tensor,
    router: tuple[Tensor, Tensor | None, int],
    experts: tuple[Tensor, Tensor],
    shared: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """shared(x) + Σ_{e in top-k} p_e expert_e(x): routing, routed experts and the shared one.

    Args:
        router: weight (E, D), selection bias (E) or None, and how many experts a token gets; see `route`.
        experts: matrices of the routed experts, (E, D, 2F) and (E, F, D); see `routed_experts`.
        shared: matrices of the expert that is always on, (2F, D) and (D, F), or None.
    Returns:
        y_TD in x's dtype, then what `route` returns.
    """
    if len(x_TD) <= ROWS and mixture_is_supported(x_TD, router[0], *experts, *(shared or ())):
        return mixture_step(x_TD, router, experts, shared)
    if len(x_TD) <= _SOME_OF_A_GPU and not torch.is_grad_enabled() and triton_for(x_TD, *experts):
        from tandem.ops.triton.mixture import mixture_step as triton_step

        return triton_step(x_TD, router, experts, shared)
    shared_TD = linear(swiglu(linear(x_TD, shared[0])), shared[1]) if shared else None
    expert_TK, weight_TK, scores_TE = _choose(x_TD, *router)
    y_TD = routed_experts(x_TD, expert_TK, weight_TK, *experts, plus_TD=shared_TD)
    return y_TD, expert_TK, weight_TK, scores_TE


def _choose(x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor | None, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    if len(x_TD) <= _ROUTED_BY_A_GPU and not torch.is_grad_enabled() and triton_for(x_TD, weight_ED):
        from tandem.ops.triton.mixture import choose

        return choose(x_TD, weight_ED, bias_E, top_k)
    return route(x_TD, weight_ED, bias_E, top_k)


def routed_experts(
    x_TD: Tensor,
    expert_TK: Tensor,
    weight_TK: Tensor,
    gate_up_EDF: Tensor,
    down_EFD: Tensor,
    activation: Callable[[Tensor], Tensor] = swiglu,
    plus_TD: Tensor | None = None,
    product: GroupedProduct | None = None,
) -> Tensor:
    """Σ_k weight_k · expert_k(x) for each token.

    Args:
        plus_TD: added to it, as what an expert gives that is always on.
        product: in place of `grouped_matmul`. Rows that no choice takes are zeros in what it gets.
        gate_up_EDF: both input matrices of each expert side by side, (E, D, 2F), or one, (E, D, F), for an activation
            without a gate; down_EFD: (E, F, D).
    Returns:
        y_TD, in x's dtype.
    """
    ends, token_R, place_TK = _sort_by_expert(expert_TK, gate_up_EDF.shape[0], triton_for(x_TD, weight_TK))
    rows_RD = _Dispatch.apply(x_TD, token_R, place_TK)
    if product is not None:
        hidden_RF = activation(product(_without_padding(rows_RD, place_TK), gate_up_EDF, ends))
        return _Combine.apply(product(hidden_RF, down_EFD, ends), place_TK, weight_TK, plus_TD)
    if activation is swiglu and isinstance(ends, Tensor) and _has_gated_product(x_TD, gate_up_EDF, down_EFD):
        rows_RD = _GatedExperts.apply(rows_RD, gate_up_EDF.to(x_TD.dtype), down_EFD.to(x_TD.dtype), ends)
        return _Combine.apply(rows_RD, place_TK, weight_TK, plus_TD)
    hidden_RF = activation(grouped_matmul(rows_RD, gate_up_EDF, ends))
    return _Combine.apply(grouped_matmul(hidden_RF, down_EFD, ends), place_TK, weight_TK, plus_TD)


def _sort_by_expert(expert_TK: Tensor, experts: int, triton: bool) -> tuple[list[int] | Tensor, Tensor | None, Tensor]:
    """Where each expert's rows end, the token of each row, and the row of each choice.

    On a CPU an expert with many rows gets a multiple of 32; the rows that no choice takes repeat token 0. Otherwise every
    batch brings matrix shapes never seen, and its library takes longer to generate code for one than to multiply. A GPU
    takes any shape and keeps the ends to itself; the kernels find tokens by their rows.
    """
    if triton:
        from tandem.ops.triton.experts import sort_by_expert

        ends_E, place_TK = sort_by_expert(expert_TK, experts)
        return ends_E, None, place_TK
    chosen_R = expert_TK.flatten()
    order_R = chosen_R.argsort(stable=True)
    counts = torch.bincount(chosen_R, minlength=experts).tolist()
    padded = [-(-n // _ROW_BLOCK) * _ROW_BLOCK if n > _ROW_BLOCK else n for n in counts]
    shifts = [sum(padded[:e]) - sum(counts[:e]) for e in range(experts)]
    rank_R = torch.arange(len(order_R), device=chosen_R.device)
    row_R = rank_R + torch.tensor(shifts, device=chosen_R.device)[chosen_R[order_R]]
    place_R = torch.empty_like(order_R).scatter_(0, order_R, row_R)
    token_R = order_R.new_zeros(sum(padded)).index_copy_(0, row_R, order_R // expert_TK.shape[1])
    return list(accumulate(padded)), token_R, place_R.view_as(expert_TK)


def _without_padding(rows_RD: Tensor, place_TK: Tensor) -> Tensor:
    """Zeros where no choice has its row, so that no scale that looks at all rows of an expert sees them."""
    spare_R = torch.ones(len(rows_RD), dtype=torch.bool, device=rows_RD.device).index_fill_(0, place_TK.flatten(), 0)
    return rows_RD.masked_fill(spare_R[:, None], 0)


class _Dispatch(torch.autograd.Function):
    """Rows sorted by expert; the gradient of a token is gathered from its rows, where autograd would scatter."""

    @staticmethod
    def forward(ctx, x_TD: Tensor, token_R: Tensor | None, place_TK: Tensor):  # noqa: ANN001, ANN205
        ctx.save_for_backward(place_TK)
        if token_R is None:
            from tandem.ops.triton.experts import scatter_rows

            return scatter_rows(x_TD, place_TK)
        return x_TD.index_select(0, token_R)

    @staticmethod
    def backward(ctx, grad_RD: Tensor):  # noqa: ANN001, ANN205
        (place_TK,) = ctx.saved_tensors
        return _gather_sum(grad_RD, place_TK, None), None, None


class _Combine(torch.autograd.Function):
    """y_t = plus_t + Σ_k weight[t, k] · rows[place[t, k]], summed in the weights' dtype."""

    @staticmethod
    def forward(ctx, rows_RD: Tensor, place_TK: Tensor, weight_TK: Tensor, plus_TD: Tensor | None):  # noqa: ANN001, ANN205
        ctx.save_for_backward(rows_RD, place_TK, weight_TK)
        ctx.has_plus = plus_TD is not None
        return _gather_sum(rows_RD, place_TK, weight_TK, plus_TD)

    @staticmethod
    def backward(ctx, grad_TD: Tensor):  # noqa: ANN001, ANN205
        d_rows_RD, d_weight_TK = _scatter_gradient(grad_TD, *ctx.saved_tensors)
        return d_rows_RD, None, d_weight_TK, grad_TD if ctx.has_plus else None


def _scatter_gradient(grad_TD: Tensor, rows_RD: Tensor, place_TK: Tensor, weight_TK: Tensor) -> tuple[Tensor, Tensor]:
    given = (grad_TD, rows_RD, place_TK, weight_TK)
    if kernels_for(rows_RD) and weight_TK.dtype == torch.float32:
        return cpu_scatter_gradient(*given)
    if triton_for(rows_RD, weight_TK):
        from tandem.ops.triton.experts import scatter_gradient

        return scatter_gradient(*given)
    d_weight_TK = (rows_RD[place_TK] * grad_TD[:, None]).sum(-1, dtype=weight_TK.dtype)
    d_TKD = (grad_TD[:, None] * weight_TK[..., None]).to(rows_RD.dtype)
    return torch.zeros_like(rows_RD).index_copy_(0, place_TK.flatten(), d_TKD.flatten(0, 1)), d_weight_TK


def _gather_sum(rows_RD: Tensor, place_TK: Tensor, weight_TK: Tensor | None, plus_TD: Tensor | None = None) -> Tensor:
    if triton_for(rows_RD, weight_TK, plus_TD):
        from tandem.ops.triton.experts import gather_sum

        return gather_sum(rows_RD, place_TK, weight_TK, plus_TD)
    y_TD = _plain_gather_sum(rows_RD, place_TK, weight_TK)
    return y_TD if plus_TD is None else y_TD + plus_TD


def _plain_gather_sum(rows_RD: Tensor, place_TK: Tensor, weight_TK: Tensor | None) -> Tensor:
    if kernels_for(rows_RD) and (weight_TK is None or weight_TK.dtype == torch.float32):
        return cpu_gather_sum(rows_RD, place_TK, weight_TK)
    rows_TKD = rows_RD[place_TK]
    return (rows_TKD if weight_TK is None else rows_TKD * weight_TK[..., None]).sum(1).to(rows_RD.dtype)


def grouped_matmul(x_RD: Tensor, w_EDF: Tensor, ends: list[int] | Tensor) -> Tensor:
    """Rows sorted by expert times that expert's matrix: the one seam for a GPU's grouped matrix product.

    Args:
        ends: where each expert's rows end, in order; the last is R. A list, or an int32 tensor, which a GPU's grouped
            product reads where it lies.
    """
    return _GroupedMatmul.apply(x_RD, w_EDF.to(x_RD.dtype), ends)


class _GroupedMatmul(torch.autograd.Function):
    """One grouped product, or a loop of products into one buffer; autograd over slices would add E full-size gradients."""

    @staticmethod
    def forward(ctx, x_RD: Tensor, w_EDF: Tensor, ends: list[int] | Tensor):  # noqa: ANN001, ANN205
        if isinstance(ends, Tensor) and not _has_grouped_product(x_RD, w_EDF):
            ends = ends.tolist()
        ctx.on_device = isinstance(ends, Tensor)
        ctx.save_for_backward(x_RD, w_EDF, ends if ctx.on_device else None)
        ctx.ends = None if ctx.on_device else ends
        return _grouped(x_RD, w_EDF, ends)

    @staticmethod
    def backward(ctx, grad_RF: Tensor):  # noqa: ANN001, ANN205
        x_RD, w_EDF, ends = ctx.saved_tensors
        if ctx.on_device:
            grad_RF = grad_RF.contiguous()
            return _grouped(grad_RF, w_EDF.mT, ends), F.grouped_mm(x_RD.t(), grad_RF, offs=ends), None
        grad_w_EDF = torch.zeros_like(w_EDF)
        for expert, rows in expert_rows(ctx.ends):
            torch.mm(x_RD[rows].t(), grad_RF[rows], out=grad_w_EDF[expert])
        return _grouped(grad_RF, w_EDF.mT, ctx.ends), grad_w_EDF, None


class _GatedExperts(torch.autograd.Function):
    """down(swiglu(gate_up(rows))) of rows sorted by expert, by kernels of our own; PyTorch's are faster for the weights' gradients."""

    @staticmethod
    def forward(ctx, x_RD: Tensor, gate_up_EDF: Tensor, down_EFD: Tensor, ends_E: Tensor):  # noqa: ANN001, ANN205
        from tandem.ops.triton.grouped import gated_product, product

        keep = any(ctx.needs_input_grad)
        both_RF, hidden_RF = gated_product(x_RD, gate_up_EDF, ends_E, keep)
        ctx.save_for_backward(x_RD, gate_up_EDF, down_EFD, ends_E, both_RF, hidden_RF)
        return product(hidden_RF, down_EFD, ends_E)

    @staticmethod
    def backward(ctx, grad_RD: Tensor):  # noqa: ANN001, ANN205
        from tandem.ops.triton.grouped import product_turned
        from tandem.ops.triton.pointwise import swiglu_gradient

        x_RD, gate_up_EDF, down_EFD, ends_E, both_RF, hidden_RF = ctx.saved_tensors
        grad_RD = grad_RD.contiguous()
        d_both_RF = swiglu_gradient(product_turned(grad_RD, down_EFD, ends_E), both_RF)
        d_gate_up_EDF = F.grouped_mm(x_RD.t(), d_both_RF, offs=ends_E)
        d_down_EFD = F.grouped_mm(hidden_RF.t(), grad_RD, offs=ends_E)
        return product_turned(d_both_RF, gate_up_EDF, ends_E), d_gate_up_EDF, d_down_EFD, None


def _has_gated_product(x_TD: Tensor, *matrices: Tensor) -> bool:
    """Whether our kernels take these, and PyTorch's their gradients."""
    from tandem.ops.triton.grouped import grouped_is_supported

    return all(_has_grouped_product(x_TD, w_EDF) and grouped_is_supported(x_TD, w_EDF) for w_EDF in matrices)


def _has_grouped_product(x_RD: Tensor, w_EDF: Tensor) -> bool:
    """Whether PyTorch has one: of bfloat16, rows of all matrices multiples of 16 bytes."""
    return x_RD.dtype == torch.bfloat16 and w_EDF.shape[1] % 8 == w_EDF.shape[2] % 8 == 0


def _grouped(x_RD: Tensor, w_EDF: Tensor, ends: list[int] | Tensor) -> Tensor:
    if isinstance(ends, Tensor):
        return F.grouped_mm(x_RD, w_EDF, offs=ends)
    y_RF = x_RD.new_empty(x_RD.shape[0], w_EDF.shape[2])
    for expert, rows in expert_rows(ends):
        torch.mm(x_RD[rows], w_EDF[expert], out=y_RF[rows])
    return y_RF


def expert_rows(ends: list[int]) -> list[tuple[int, slice]]:
    """Each expert that has rows, and where they lie."""
    pairs = enumerate(pairwise([0, *ends]))
    return [(expert, slice(first, end)) for expert, (first, end) in pairs if end > first]
