"""The memory of a generation: what all layers remember (slots.py), and how many tokens of each document that is.

Shapes: S slots (one a document), L tokens of capacity, G key/value heads, P head width.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tandem.nn.config import ModelConfig
from tandem.nn.slots import KVSlots, Slots, SSMSlots, TransSlots
from tandem.ops import SequenceLayout

if TYPE_CHECKING:
    from tandem.nn.step import RecordedStep


@dataclass(slots=True)
class DecodeState:
    """What a model remembers of S documents; layers update it in place.

    Attributes:
        lengths: tokens that each slot holds.
        layers: one entry a layer: KVSlots, SSMSlots, TransSlots, or None where nothing is kept.
        chunk: chunk length of the layouts it makes.
        device: where it lies.
        step: the recording of a decode step over it, if one was made; see step.py.
    """

    lengths: list[int]
    layers: list[Slots | None]
    chunk: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    step: "RecordedStep | None" = field(default=None, compare=False, repr=False)

    @classmethod
    def empty(cls, config: ModelConfig, slots: int, dtype: torch.dtype, device: torch.device) -> "DecodeState":
        """The state before any text."""
        points, layers = iter(config.transpoints), list[Slots | None]()
        for symbol in config.layers:
            if symbol == "A" and config.attention:
                layers.append(KVSlots.empty(config.attention, slots, dtype, device))
            elif symbol == "M" and config.mamba:
                layers.append(SSMSlots.empty(config.mamba, slots, dtype, device))
            elif symbol == "T" and config.transmamba:
                layers.append(TransSlots.before(config.transmamba, next(points), slots, dtype, device))
            else:
                layers.append(None)
        return cls([0] * slots, layers, config.chunk, device)

    def check(self, layout: SequenceLayout) -> None:
        """Raises a ValueError unless the layout goes on where this state ends."""
        if layout.starts != tuple(self.lengths) or layout.device_starts_S is not None:
            raise ValueError(f"layout.starts={list(layout.starts)[:8]} differ from state.lengths={self.lengths[:8]}")

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

    def save(self, path: Path) -> None:
        """Writes the state to a file, under a temporary name first: a text that was read need not be read again."""
        tensors = {
            f"{n}.{name}": t.clone() for n, slots in enumerate(self.layers) for name, t in _tensors(slots).items()
        }
        points = [slots.transpoint for slots in self.layers if isinstance(slots, TransSlots)]
        about = {"lengths": self.lengths, "transpoints": points}
        unfinished = path.with_name(path.name + ".unfinished")
        save_file(tensors, unfinished, {"tandem": json.dumps(about)})
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path, config: ModelConfig, device: torch.device | str | None = None) -> "DecodeState":
        """Reads what `save` wrote.

        Args:
            config: of the model that read the text; its TransPoints must be those of then.
        Raises:
            ValueError: no such file, not a decode state, or that of another model.
        """
        if not path.is_file():
            raise ValueError(f"state={path} is not a file; write one with DecodeState.save")
        try:
            with safe_open(path, "pt", str(device or "cpu")) as file:
                about = json.loads((file.metadata() or {})["tandem"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # not a dict
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(
                f"state={path} is not a decode state ({error}); write one with DecodeState.save"
            ) from error
        if about["transpoints"] != list(config.transpoints):
            raise ValueError(
                f"state={path} was made for the TransPoints {about['transpoints']}, not {list(config.transpoints)}; "
                "use the schedule of then, or read the text again"
            )
        state = cls.empty(config, len(about["lengths"]), torch.float32, torch.device(device or "cpu"))
        state.lengths = about["lengths"]
        expected = {f"{n}.{name}": t for n, slots in enumerate(state.layers) for name, t in _tensors(slots).items()}
        if expected.keys() != tensors.keys() or any(
            len(t) != len(tensors[name]) or t.shape[2:] != tensors[name].shape[2:] for name, t in expected.items()
        ):
            raise ValueError(f"state={path} is of a model of another shape; use the model that it was made with")
        for name, tensor in tensors.items():
            layer, _, field_name = name.partition(".")
            setattr(state.layers[int(layer)], field_name, tensor)
        for slots in state.layers:
            if isinstance(slots, TransSlots):
                slots.arrive(state.lengths)
        return state

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values in use, capacity in reserve not counted."""
        per_token = [
            2 * kv.k_SLGP[0, 0:1].nelement() * kv.k_SLGP.element_size() if kv.k_SLGP.shape[1] else 0
            for kv in self.layers
            if isinstance(kv, KVSlots)
        ]
        switching = sum(slots.kv_bytes(self.lengths) for slots in self.layers if isinstance(slots, TransSlots))
        return sum(per_token) * sum(self.lengths) + switching

    @property
    def ssm_bytes(self) -> int:
        """Bytes of SSM states, convolution halos included."""
        slots = [layer for layer in self.layers if isinstance(layer, SSMSlots)]
        return sum(s.state_SHPN.nbytes + s.halo_SWC.nbytes for s in slots)


@dataclass(slots=True)
class DecodePool:
    """Slots whose addresses stay and whose lengths only the device knows: what a step in a CUDA graph reads and writes.

    A slot is in use or idle; an idle one computes what nobody reads, and its length stays.

    Attributes:
        layers: as in `DecodeState`.
        lengths_S: tokens that each slot holds; steps_S: what a step adds to them, 0 for an idle slot. Both int64.
        chunk: chunk length of the layouts it makes.
    """

    layers: list[Slots | None]
    lengths_S: Tensor
    steps_S: Tensor
    chunk: int

    @classmethod
    def empty(
        cls, config: ModelConfig, slots: int, tokens: int, dtype: torch.dtype, device: torch.device
    ) -> "DecodePool":
        """Idle slots with room for `tokens` tokens each.

        Raises:
            ValueError: a model with `T` layers, whose steps differ before and behind the TransPoint.
        """
        if config.transpoints:
            raise ValueError(
                f"model.pattern={config.pattern!r} has T layers, for which there is no pool; use a DecodeState"
            )
        lengths_S, steps_S = torch.zeros(2, slots, dtype=torch.int64, device=device)
        pool = cls(DecodeState.empty(config, slots, dtype, device).layers, lengths_S, steps_S, config.chunk)
        pool.reserve(tokens)
        return pool

    @property
    def capacity(self) -> int:
        """Tokens that a slot has room for."""
        return min((kv.k_SLGP.shape[1] for kv in self.layers if isinstance(kv, KVSlots)), default=sys.maxsize)

    def reserve(self, tokens: int) -> None:
        """Makes room for `tokens` tokens in each slot; keys and values then lie elsewhere."""
        for layer in self.layers:
            if isinstance(layer, KVSlots):
                layer.reserve(tokens)

    def first(self, slots: int) -> "DecodePool":
        """The first slots: the same memory, not a copy."""
        layers = [layer.first(slots) if layer else None for layer in self.layers]
        return DecodePool(layers, self.lengths_S[:slots], self.steps_S[:slots], self.chunk)

    def load(self, state: DecodeState) -> None:
        """Puts each document of a state into the slot of its number; the other slots are idle."""
        self.reserve(max(state.lengths))
        for mine, theirs in zip(self.layers, state.layers, strict=True):
            if mine is not None and theirs is not None:
                mine.load(theirs)  # pyright: ignore[reportArgumentType] # both of one model
        self.use(state.lengths)

    def gather(self, slots: Sequence[int]) -> None:
        """Moves some slots to the front, in the given order; what was there is lost."""
        index = torch.tensor(list(slots), device=self.lengths_S.device)
        for layer in self.layers:
            if layer is not None:
                layer.load(layer.select(index))  # pyright: ignore[reportArgumentType] # its own kind

    def use(self, lengths: Sequence[int]) -> None:
        """Sets how many tokens the first slots hold, and which of all are in use: those that hold any."""
        counts = torch.zeros(len(self.lengths_S), dtype=torch.int64)
        counts[: len(lengths)] = torch.tensor(list(lengths))
        self.lengths_S.copy_(counts)
        self.steps_S.copy_(counts.clamp(max=1))

    def layout(self) -> SequenceLayout:
        """The layout of a step of all slots."""
        return SequenceLayout.step(self.lengths_S, self.capacity - 1, self.chunk)

    def check(self, layout: SequenceLayout) -> None:
        """Raises a ValueError unless the layout is one of this pool."""
        if layout.device_starts_S is not self.lengths_S:
            raise ValueError("layout is not a step of this pool; use pool.layout()")

    def advance(self, new_lengths: Sequence[int]) -> None:
        """Counts a step."""
        self.lengths_S += self.steps_S


def _tensors(slots: Slots | None) -> dict[str, Tensor]:
    """By name of the field."""
    values = {} if slots is None else {each.name: getattr(slots, each.name) for each in fields(slots)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}
