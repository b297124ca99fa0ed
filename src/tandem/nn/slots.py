"""What one layer remembers of a text: keys and values that grow with it, an SSM state that does not, or first one, then the other.

Shapes: S slots (one a document), L tokens of capacity, G key/value heads, P head width, H heads, N state width, M taps, C
convolution channels; TransMamba: G attention heads, W = max(state, value width) channels of keys and values (the narrower
ones end in zeros).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.nn.config import AttentionConfig, MambaConfig, TransMambaConfig
from tandem.ops import SequenceLayout

Rounding = Callable[[Tensor], Tensor]
"""From numbers to what is kept of them, of the same shape and dtype."""


@dataclass(frozen=True, slots=True)
class CacheRounding:
    """What becomes of numbers on their way into a decode state; None keeps them as they are.

    Attributes:
        kv: of the keys (T, G, P) of new tokens, and of their values, before any token attends to them.
        state: of the SSM states (S, H, P, N) that a call leaves, after all its tokens have read them.
    """

    kv: Rounding | None = None
    state: Rounding | None = None


@dataclass(slots=True)
class KVSlots:
    """Keys and values of one attention layer; capacity doubles when a document outgrows it."""

    k_SLGP: Tensor
    v_SLGP: Tensor

    @classmethod
    def empty(cls, config: AttentionConfig, slots: int, dtype: torch.dtype, device: torch.device) -> "KVSlots":
        """No tokens, no capacity."""
        shape = (slots, 0, config.kv_heads, config.head_width)
        return cls(torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=dtype, device=device))

    def append(self, k_TGP: Tensor, v_TGP: Tensor, layout: SequenceLayout) -> None:
        """Writes each document's new keys and values behind what its slot holds."""
        self.reserve(max(start + length for start, length in zip(layout.starts, layout.lengths, strict=True)))
        self.k_SLGP[layout.document_T, layout.position_T] = k_TGP.to(self.k_SLGP.dtype)
        self.v_SLGP[layout.document_T, layout.position_T] = v_TGP.to(self.v_SLGP.dtype)

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Keys, then values."""
        return self.k_SLGP, self.v_SLGP

    def reserve(self, tokens: int) -> None:
        """Grows the capacity to at least `tokens` of each document."""
        capacity = self.k_SLGP.shape[1]
        if tokens > capacity:
            grown = max(tokens, 2 * capacity, 64)
            self.k_SLGP, self.v_SLGP = _grow(self.k_SLGP, grown), _grow(self.v_SLGP, grown)

    def select(self, slots: Tensor) -> "KVSlots":
        """A copy of some slots."""
        return KVSlots(self.k_SLGP[slots], self.v_SLGP[slots])

    def first(self, slots: int) -> "KVSlots":
        """The first slots: the same memory, not a copy."""
        return KVSlots(self.k_SLGP[:slots], self.v_SLGP[:slots])

    def load(self, other: "KVSlots") -> None:
        """Copies other slots over the first of these, as far as there is room."""
        slots, tokens = len(other.k_SLGP), min(self.k_SLGP.shape[1], other.k_SLGP.shape[1])
        self.k_SLGP[:slots, :tokens] = other.k_SLGP[:, :tokens]
        self.v_SLGP[:slots, :tokens] = other.v_SLGP[:, :tokens]


@dataclass(slots=True)
class SSMSlots:
    """State and convolution halo of one Mamba-2 layer; the state is float32 or wider."""

    state_SHPN: Tensor
    halo_SWC: Tensor

    @classmethod
    def empty(cls, config: MambaConfig, slots: int, dtype: torch.dtype, device: torch.device) -> "SSMSlots":
        """Zeros: no text read yet."""
        wide = torch.promote_types(torch.float32, dtype)
        state = torch.zeros(slots, config.heads, config.head_width, config.state, dtype=wide, device=device)
        return cls(state, torch.zeros(slots, config.conv - 1, config.conv_width, dtype=dtype, device=device))

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Halo, then state."""
        return self.halo_SWC, self.state_SHPN

    def select(self, slots: Tensor) -> "SSMSlots":
        """A copy of some slots."""
        return SSMSlots(self.state_SHPN[slots], self.halo_SWC[slots])

    def first(self, slots: int) -> "SSMSlots":
        """The first slots: the same memory, not a copy."""
        return SSMSlots(self.state_SHPN[:slots], self.halo_SWC[:slots])

    def restart(self) -> None:
        """Forgets everything."""
        self.state_SHPN.zero_()
        self.halo_SWC.zero_()

    def load(self, other: "SSMSlots") -> None:
        """Copies other slots over the first of these."""
        self.state_SHPN[: len(other.state_SHPN)] = other.state_SHPN
        self.halo_SWC[: len(other.halo_SWC)] = other.halo_SWC


@dataclass(slots=True)
class TransSlots(SSMSlots):
    """State and halo of a TransMamba layer, and keys and values of documents before the TransPoint, until none is.

    Attributes:
        k_SLGW: keys as attention reads them, turned by RoPE where it is used; no capacity any more once all are behind.
        dt_SLH: step sizes beside them, where they are converted at the TransPoint; None where the state runs along.
        transpoint: the capacity never grows beyond it.
        has_crossed: some document has reached it; is_released: all have, and nothing is kept for attention any more.
    """

    k_SLGW: Tensor
    v_SLGW: Tensor
    dt_SLH: Tensor | None
    transpoint: int
    has_crossed: bool = False
    is_released: bool = False

    @classmethod
    def before(
        cls, config: TransMambaConfig, transpoint: int, slots: int, dtype: torch.dtype, device: torch.device
    ) -> "TransSlots":
        """No tokens, no capacity, a state of zeros."""
        ssm = SSMSlots.empty(config, slots, dtype, device)
        k_SLGW, v_SLGW = torch.empty(2, slots, 0, config.groups, config.attention_width, dtype=dtype, device=device)
        dt_SLH = ssm.state_SHPN.new_empty(slots, 0, config.heads) if config.keeps_steps else None
        return cls(ssm.state_SHPN, ssm.halo_SWC, k_SLGW, v_SLGW, dt_SLH, transpoint, transpoint == 0, transpoint == 0)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Halo, then state; then, before the release, what is kept for attention."""
        kept = () if self.is_released else (self.k_SLGW, self.v_SLGW)
        return (self.halo_SWC, self.state_SHPN, *kept)

    def append(
        self, k_TGW: Tensor, v_TGW: Tensor, dt_TH: Tensor, layout: SequenceLayout, documents: Sequence[int]
    ) -> None:
        """Writes new tokens before the TransPoint behind what their slots hold.

        Args:
            layout: of these tokens; documents: the slot of each of its documents.
        """
        self.reserve(max(layout.ends))
        slot_T = torch.tensor(documents, device=k_TGW.device)[layout.document_T]
        self.k_SLGW[slot_T, layout.position_T] = k_TGW.to(self.k_SLGW.dtype)
        self.v_SLGW[slot_T, layout.position_T] = v_TGW.to(self.v_SLGW.dtype)
        if self.dt_SLH is not None:
            self.dt_SLH[slot_T, layout.position_T] = dt_TH.to(self.dt_SLH.dtype)

    def reserve(self, tokens: int) -> None:
        """Grows the capacity to at least `tokens` of each document, or to the TransPoint."""
        capacity = self.k_SLGW.shape[1]
        if capacity < min(tokens, self.transpoint):
            grown = min(max(tokens, 2 * capacity, 64), self.transpoint)
            self.k_SLGW, self.v_SLGW = _grow(self.k_SLGW, grown), _grow(self.v_SLGW, grown)
            self.dt_SLH = None if self.dt_SLH is None else _grow(self.dt_SLH, grown)

    def arrive(self, lengths: Sequence[int]) -> None:
        """Says how many tokens the slots hold now; once all are behind the TransPoint, keys and values are given back."""
        self.has_crossed = max(lengths) >= self.transpoint
        if self.is_released or min(lengths) < self.transpoint:
            return
        self.is_released = True
        self.k_SLGW, self.v_SLGW = self.k_SLGW[:, :0].clone(), self.v_SLGW[:, :0].clone()
        if self.dt_SLH is not None:
            self.dt_SLH = self.dt_SLH[:, :0].clone()

    def restart(self) -> None:
        """Forgets everything."""
        SSMSlots.restart(self)  # super() does not find its way in a class with slots
        self.has_crossed = self.is_released = self.transpoint == 0

    def select(self, slots: Tensor) -> "TransSlots":
        """A copy of some slots."""
        kept = self.k_SLGW[slots], self.v_SLGW[slots], None if self.dt_SLH is None else self.dt_SLH[slots]
        return TransSlots(
            self.state_SHPN[slots], self.halo_SWC[slots], *kept, self.transpoint, self.has_crossed, self.is_released
        )

    def kv_bytes(self, lengths: Sequence[int]) -> int:
        """Bytes in use of what is kept for attention, for slots that hold so many tokens."""
        if self.is_released:
            return 0
        per_token = 2 * self.k_SLGW[0].shape[1:].numel() * self.k_SLGW.element_size()
        per_token += 0 if self.dt_SLH is None else self.dt_SLH.shape[2] * self.dt_SLH.element_size()
        return per_token * sum(length for length in lengths if length < self.transpoint)


Slots = KVSlots | SSMSlots | TransSlots


def _grow(cache_SL: Tensor, capacity: int) -> Tensor:
    """A copy with room for `capacity` tokens; what is new is zero."""
    grown = cache_SL.new_zeros(len(cache_SL), capacity, *cache_SL.shape[2:])
    grown[:, : cache_SL.shape[1]] = cache_SL
    return grown
