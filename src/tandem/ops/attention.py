"""Causal grouped-query attention over packed documents, and rotary positions.

Scaled dot products come from PyTorch; this file decides who may see whom. Keys and values are shared by groups of query
heads inside the kernel, never repeated.

Shapes: T tokens, S documents, H query heads, G key/value heads, P head width, L slots of a cache, K pairs of
channels that turn.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tandem.ops.cpu.compiled import kernels_for
from tandem.ops.cpu.decode import attention_step, step_is_supported
from tandem.ops.cpu.rotary import rotary as cpu_rotary
from tandem.ops.layout import FixedLayout, NotKeptError, SequenceLayout
from tandem.ops.triton.support import triton_for


def causal_attention(
    q_THP: Tensor, k_TGP: Tensor, v_TGP: Tensor, layout: SequenceLayout, scale: float | None = None
) -> Tensor:
    """Attention of each token to itself and the earlier tokens of its own document.

    Args:
        scale: factor of the scores before the softmax; P^-0.5 when None.
    Returns:
        y_THP, in q's dtype.
    Raises:
        ValueError: lengths in layout do not add up to T, or heads are not a multiple of key/value heads.
    """
    if layout.tokens != q_THP.shape[0]:
        raise ValueError(f"layout.lengths add up to {layout.tokens} tokens but q has {q_THP.shape[0]}")
    if q_THP.shape[1] % k_TGP.shape[1]:
        raise ValueError(f"q has {q_THP.shape[1]} heads, not a multiple of the {k_TGP.shape[1]} of k and v")
    if isinstance(layout, FixedLayout) and q_THP.is_cuda:
        if not _flash_takes(q_THP):
            raise NotKeptError(f"FlashAttention takes no heads of width {q_THP.shape[2]} in {q_THP.dtype}")
        return _attend_within(q_THP, k_TGP, v_TGP, layout.bounds_S, len(q_THP), scale)
    if len(set(layout.lengths)) == 1:  # equal documents are one batch
        return _attend(q_THP, k_TGP, v_TGP, layout.documents, scale)
    if q_THP.is_cuda and _flash_takes(q_THP):
        return _attend_within(q_THP, k_TGP, v_TGP, layout.bounds_S, max(layout.lengths), scale)
    lengths = [length for length in layout.lengths if length]
    documents = zip(q_THP.split(lengths), k_TGP.split(lengths), v_TGP.split(lengths), strict=True)
    return torch.cat([_attend(q, k, v, 1, scale) for q, k, v in documents])


def _attend(q_THP: Tensor, k_TGP: Tensor, v_TGP: Tensor, documents: int, scale: float | None) -> Tensor:
    q, k, v = (t.view(documents, -1, *t.shape[1:]).transpose(1, 2) for t in (q_THP, k_TGP, v_TGP))
    gqa = q_THP.shape[1] != k_TGP.shape[1]
    y_SHTP = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa, scale=scale)
    return y_SHTP.transpose(1, 2).reshape(q_THP.shape)


def _attend_within(
    q_THP: Tensor, k_TGP: Tensor, v_TGP: Tensor, bounds_S: Tensor, longest: int, scale: float | None
) -> Tensor:
    """The same by FlashAttention's form for packed documents, which reads where they begin on the device.

    The operator below PyTorch's `varlen_attn`, which in its release 2.11 takes neither shared keys nor a scale.

    Args:
        longest: no document has more tokens.
    """
    attend = torch.ops.aten._flash_attention_forward
    return attend(q_THP, k_TGP, v_TGP, bounds_S, bounds_S, longest, longest, 0.0, True, False, scale=scale)[0]


def _flash_takes(q_THP: Tensor) -> bool:
    P = q_THP.shape[2]
    return q_THP.dtype in (torch.bfloat16, torch.float16) and P % 8 == 0 and P <= 256


def cached_attention(
    q_THP: Tensor, k_SLGP: Tensor, v_SLGP: Tensor, layout: SequenceLayout, scale: float | None = None
) -> Tensor:
    """Attention of new tokens to a cache that already holds them: slot s of the cache belongs to document s.

    Args:
        scale: as in `causal_attention`.
    Returns:
        y_THP, in q's dtype.
    """
    gqa = q_THP.shape[1] != k_SLGP.shape[2]
    if layout.is_step:
        on_host = layout.device_starts_S is None
        if on_host and q_THP.dtype == k_SLGP.dtype and step_is_supported(q_THP, k_SLGP, v_SLGP):
            return attention_step(q_THP, k_SLGP, v_SLGP, [start + 1 for start in layout.starts], scale)
        if not torch.is_grad_enabled() and triton_for(q_THP, k_SLGP, v_SLGP):
            from tandem.ops.triton.attention import attention_step as triton_step

            return triton_step(
                q_THP, k_SLGP, v_SLGP, layout.starts_S, q_THP.shape[-1] ** -0.5 if scale is None else scale
            )
        longest = max(layout.starts) + 1
        k, v = (t[:, :longest].transpose(1, 2) for t in (k_SLGP, v_SLGP))
        seen = None
        if not on_host or min(layout.starts) + 1 < longest:
            seen = (torch.arange(longest, device=q_THP.device) <= layout.starts_S[:, None])[:, None, None]
        q = q_THP[:, :, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=gqa, scale=scale)[:, :, 0]
    outputs = []
    for slot, (q, start) in enumerate(zip(q_THP.split(list(layout.lengths)), layout.starts, strict=True)):
        end = start + q.shape[0]
        k, v = (t[slot : slot + 1, :end].transpose(1, 2) for t in (k_SLGP, v_SLGP))
        seen = torch.ones(q.shape[0], end, dtype=torch.bool, device=q.device).tril(start) if start else None
        y = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None], k, v, attn_mask=seen, is_causal=start == 0, enable_gqa=gqa, scale=scale
        )
        outputs.append(y[0].transpose(0, 1))
    return torch.cat(outputs)


def rotary(x_THP: Tensor, position_T: Tensor, frequency_K: Tensor, amplitude: float = 1.0) -> Tensor:
    """Rotary positions: channels k and k + K turn by position · frequency_k; angles in float32 or wider.

    Args:
        frequency_K: radians a token for K pairs; the channels behind the first 2K pass through.
        amplitude: factor of the channels that turn (YaRN).
    """
    if kernels_for(x_THP) and not frequency_K.requires_grad and len(x_THP):
        return cpu_rotary(x_THP, position_T, frequency_K, amplitude)
    half = len(frequency_K)
    wide = torch.promote_types(torch.float32, x_THP.dtype)
    angle_T1K = (position_T.to(wide)[:, None] * frequency_K.to(wide))[:, None]
    cos, sin = angle_T1K.cos(), angle_T1K.sin()
    if amplitude != 1:
        cos, sin = cos * amplitude, sin * amplitude
    first, second, rest = x_THP[..., :half], x_THP[..., half : 2 * half], x_THP[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1).to(x_THP.dtype)
