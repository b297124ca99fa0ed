"""The memory of a generation: keys and values that grow with the text, and SSM states that do not, kept apart.

Shapes: S slots (one a document), L tokens of capacity, G key/value heads, P head width, H heads, N state width, W taps,
C convolution channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tandem.nn.config import AttentionConfig, MambaConfig, ModelConfig
from tandem.ops import SequenceLayout

if TYPE_CHECKING:
    from tandem.nn.step import RecordedStep


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


@dataclass(slots=True)
class DecodeState:
    """What a model remembers of S documents; layers update it in place.

    Attributes:
        lengths: tokens that each slot holds.
        layers: one entry a layer: KVSlots, SSMSlots, or None where nothing is kept.
        chunk: chunk length of the layouts it makes.
        device: where it lies.
        step: the recording of a decode step over it, if one was made; see step.py.
    """

    lengths: list[int]
    layers: list[KVSlots | SSMSlots | None]
    chunk: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    step: "RecordedStep | None" = field(default=None, compare=False, repr=False)

    @classmethod
    def empty(cls, config: ModelConfig, slots: int, dtype: torch.dtype, device: torch.device) -> "DecodeState":
        """The state before any text."""
        layers: list[KVSlots | SSMSlots | None] = []
        for symbol in config.layers:
            if symbol == "A" and config.attention:
                layers.append(KVSlots.empty(config.attention, slots, dtype, device))
            elif symbol == "M" and config.mamba:
                layers.append(SSMSlots.empty(config.mamba, slots, dtype, device))
            else:
                layers.append(None)
        return cls([0] * slots, layers, config.chunk, device)

    def layout(self, new_lengths: Sequence[int]) -> SequenceLayout:
        """The layout of the next tokens: `new_lengths[s]` of them for slot s, behind what it holds."""
        return SequenceLayout.from_lengths(new_lengths, chunk=self.chunk, starts=self.lengths, device=self.device)

    def advance(self, new_lengths: Sequence[int]) -> None:
        """Counts tokens as read."""
        self.lengths = [held + new for held, new in zip(self.lengths, new_lengths, strict=True)]

    def select(self, slots: Sequence[int]) -> "DecodeState":
        """A copy of some slots, in the given order; repeats are allowed."""
        index = torch.tensor(list(slots), device=self.device)
        layers = [layer.select(index) if layer else None for layer in self.layers]
        return DecodeState([self.lengths[s] for s in slots], layers, self.chunk, self.device)

    def clone(self) -> "DecodeState":
        """An independent copy."""
        return self.select(range(len(self.lengths)))

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values in use, capacity in reserve not counted."""
        per_token = [
            2 * kv.k_SLGP[0, 0:1].nelement() * kv.k_SLGP.element_size() if kv.k_SLGP.shape[1] else 0
            for kv in self.layers
            if isinstance(kv, KVSlots)
        ]
        return sum(per_token) * sum(self.lengths)

    @property
    def ssm_bytes(self) -> int:
        """Bytes of SSM states, convolution halos included."""
        slots = [layer for layer in self.layers if isinstance(layer, SSMSlots)]
        return sum(s.state_SHPN.nbytes + s.halo_SWC.nbytes for s in slots)


def _grow(cache_SLGP: Tensor, capacity: int) -> Tensor:
    S, L, G, P = cache_SLGP.shape
    grown = cache_SLGP.new_zeros(S, capacity, G, P)
    grown[:, :L] = cache_SLGP
    return grown
