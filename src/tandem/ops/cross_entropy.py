"""Cross-entropy of a large vocabulary in blocks of tokens: the T × V logits never exist at once.

Shapes: T tokens, D width, V vocabulary, Q tokens of a block.
"""

import torch
from torch import Tensor

from tandem.ops.cpu.compiled import kernels_for
from tandem.ops.cpu.pointwise import softmax_gradient as cpu_softmax_gradient
from tandem.ops.triton.support import triton_for

_BLOCK_LOGITS = 1 << 22  # logits of a block: 8 MB in bf16, inside the cache that cores share
_CUDA_BLOCK_LOGITS = 1 << 29  # 1 GB in bf16: few blocks, as each reads and writes the head's gradient in float32


def blockwise_cross_entropy(x_TD: Tensor, head_VD: Tensor, targets_T: Tensor, weights_T: Tensor) -> Tensor:
    """Σ_t weight_t · (-log softmax(head x_t)[target_t]), in float32 or wider.

    Gradients of x and head are made in the forward pass, block by block, while the logits are at hand.

    Returns:
        the sum, a scalar.
    """
    return _BlockwiseCrossEntropy.apply(x_TD, head_VD, targets_T, weights_T, torch.is_grad_enabled())


class _BlockwiseCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, weights_T: Tensor, grads: bool):  # noqa: ANN001, ANN205
        head_VD = weight_VD.to(x_TD.dtype)
        wide = torch.promote_types(torch.float32, x_TD.dtype)
        logits = _CUDA_BLOCK_LOGITS if x_TD.is_cuda else _BLOCK_LOGITS
        blocks = -(-x_TD.shape[0] // max(1, logits // head_VD.shape[0]))
        block = -(-x_TD.shape[0] // max(1, blocks))  # equal ones: a short last block would be slow
        needs = grads and any(ctx.needs_input_grad)  # parameters say that they need one even under no_grad
        total = torch.zeros((), dtype=wide, device=x_TD.device)
        grad_x_TD = torch.empty_like(x_TD) if needs else None
        grad_head_VD = None
        for first in range(0, x_TD.shape[0], block):
            rows = slice(first, first + block)
            x_QD, weights_Q, targets_Q = x_TD[rows], weights_T[rows].to(wide), targets_T[rows]
            logits_QV = torch.mm(x_QD, head_VD.t())
            nll_Q, grad_QV = _softmax_gradient(logits_QV, targets_Q, weights_Q)
            total += (nll_Q * weights_Q).sum()
            if grad_x_TD is not None:
                torch.mm(grad_QV, head_VD, out=grad_x_TD[rows])
                grad_head_VD = _plus_product(grad_head_VD, grad_QV.t(), x_QD, wide)
        if needs:
            ctx.save_for_backward(grad_x_TD, grad_head_VD)
            ctx.head_dtype = weight_VD.dtype
        return total

    @staticmethod
    def backward(ctx, grad: Tensor):  # noqa: ANN001, ANN205
        grad_x_TD, grad_head_VD = ctx.saved_tensors
        return grad_x_TD * grad.to(grad_x_TD.dtype), (grad_head_VD * grad).to(ctx.head_dtype), None, None, None


def _plus_product(total_VD: Tensor | None, grad_VQ: Tensor, x_QD: Tensor, dtype: torch.dtype) -> Tensor:
    """Total + grad x, which may use up the total; CUDA's library adds in `dtype` whatever it multiplies."""
    if x_QD.is_cuda and x_QD.dtype != dtype:
        if total_VD is None:
            return torch.mm(grad_VQ, x_QD, out_dtype=dtype)
        return torch.addmm(total_VD, grad_VQ, x_QD, out_dtype=dtype, out=total_VD)
    product_VD = torch.mm(grad_VQ, x_QD)
    return product_VD.to(dtype) if total_VD is None else total_VD.add_(product_VD)


def _softmax_gradient(logits_QV: Tensor, targets_Q: Tensor, weights_Q: Tensor) -> tuple[Tensor, Tensor]:
    """-log softmax(logits)[target] in float32 or wider, and weight · (softmax - one hot) in the logits' dtype.

    The logits' memory is used up.
    """
    if kernels_for(logits_QV, weights_Q):
        return cpu_softmax_gradient(logits_QV, targets_Q, weights_Q), logits_QV
    if triton_for(logits_QV, weights_Q):
        from tandem.ops.triton.pointwise import softmax_gradient as triton_softmax_gradient

        return triton_softmax_gradient(logits_QV, targets_Q, weights_Q), logits_QV
    wide_QV = logits_QV.to(weights_Q.dtype)
    norm_Q = wide_QV.logsumexp(-1)
    nll_Q = norm_Q - wide_QV.gather(1, targets_Q[:, None])[:, 0]
    grad_QV = wide_QV.sub_(norm_Q[:, None]).exp_().mul_(weights_Q[:, None])
    grad_QV.scatter_add_(1, targets_Q[:, None], -weights_Q[:, None])
    return nll_Q, grad_QV.to(logits_QV.dtype)
