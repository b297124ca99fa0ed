"""The one data layout: packed tokens and where each document begins and ends.

Every mixer reads the same `SequenceLayout`, made once a batch; a batch of equal rows is a layout, not another code
path. Chunks for the SSD scan start at each document's own position 0, so a chunk never straddles two documents and a
document's result cannot depend on its neighbours.

Shapes: T tokens, S documents, C chunks, Q tokens in a chunk.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SequenceLayout:
    """Document boundaries of one packed batch; build it with `SequenceLayout.from_lengths`.

    Attributes:
        lengths: tokens of each document in this batch, in packed order.
        starts: tokens of each document that are already in the decode state (0 when training).
        chunk: length of the chunks of the SSD scan.
        device: where the index tensors live.
        device_starts_S: the starts as the device counts them; `starts` then are the most that they can be.
    """

    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    chunk: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    device_starts_S: Tensor | None = None

    @classmethod
    def from_lengths(
        cls,
        lengths: Sequence[int],
        chunk: int = 128,
        starts: Sequence[int] | None = None,
        device: torch.device | str | None = None,
    ) -> "SequenceLayout":
        """Builds a layout from document lengths.

        Raises:
            ValueError: no document, a length below 1, a negative start, a chunk below 1, or unequal list lengths.
        """
        sizes = tuple(int(n) for n in lengths)
        offsets = (0,) * len(sizes) if starts is None else tuple(int(n) for n in starts)
        if not sizes or min(sizes) < 1:
            raise ValueError(f"layout.lengths={list(sizes)[:8]} needs at least one document, each of one token or more")
        if len(offsets) != len(sizes) or min(offsets) < 0:
            raise ValueError(
                f"layout.starts={list(offsets)[:8]} needs one count ≥ 0 for each of the {len(sizes)} documents"
            )
        if chunk < 1:
            raise ValueError(f"layout.chunk={chunk} is below 1; use 64 or 128")
        return cls(sizes, offsets, int(chunk), torch.device(device or "cpu"))

    @classmethod
    def step(cls, starts_S: Tensor, most: int, chunk: int = 128) -> "SequenceLayout":
        """One token for each document, for steps that a CUDA graph repeats: only the device knows how many came before.

        Args:
            starts_S: int64; read whenever a kernel needs it.
            most: no start ever gets above it.
        """
        documents = len(starts_S)
        return cls((1,) * documents, (most,) * documents, chunk, starts_S.device, starts_S)

    @property
    def tokens(self) -> int:
        """T, the number of packed tokens."""
        return sum(self.lengths)

    @property
    def documents(self) -> int:
        """S, the number of documents."""
        return len(self.lengths)

    @cached_property
    def _arange_S(self) -> Tensor:
        return torch.arange(self.documents, device=self.device)

    @cached_property
    def is_step(self) -> bool:
        """True when every document brings exactly one token: the shape of a decode step."""
        return max(self.lengths) == 1

    @property
    def is_fresh(self) -> bool:
        """True when no document has earlier tokens in a decode state."""
        return not any(self.starts)

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens of each document up to the end of its part here."""
        return tuple(start + length for start, length in zip(self.starts, self.lengths, strict=True))

    @property
    def pairs(self) -> int:
        """How many pairs of a token and one that causal attention sees from it, itself included."""
        return sum(n * start + n * (n + 1) // 2 for n, start in zip(self.lengths, self.starts, strict=True))

    @cached_property
    def lengths_S(self) -> Tensor:
        """Document lengths as an int64 tensor."""
        return self._table(self.lengths)

    @cached_property
    def starts_S(self) -> Tensor:
        """Tokens already in the state, as an int64 tensor."""
        return self._table(self.starts) if self.device_starts_S is None else self.device_starts_S

    @cached_property
    def offsets_S(self) -> Tensor:
        """Index of each document's first token in the packed order."""
        if self.is_step:
            return self._arange_S
        return self.lengths_S.cumsum(0) - self.lengths_S

    @property
    def bounds_S(self) -> Tensor:
        """Where each document begins, and where the last one ends: S + 1 numbers, int32."""
        return self._bounds_S

    @cached_property
    def _bounds_S(self) -> Tensor:
        return self._table(_bounds(self.lengths).tolist()).int()

    @cached_property
    def last_S(self) -> Tensor:
        """Index of each document's last token in the packed order."""
        if self.is_step:
            return self._arange_S
        return self.lengths_S.cumsum(0) - 1

    @cached_property
    def document_T(self) -> Tensor:
        """Which document each token belongs to."""
        if self.is_step:
            return self._arange_S
        documents = torch.arange(self.documents, device=self.device)
        return torch.repeat_interleave(documents, self.lengths_S, output_size=self.tokens)

    @cached_property
    def index_T(self) -> Tensor:
        """Place of each token inside this batch's part of its document, from 0."""
        return torch.arange(self.tokens, device=self.device) - self.offsets_S[self.document_T]

    @cached_property
    def position_T(self) -> Tensor:
        """Absolute position of each token in its document, counting what the state already holds."""
        if self.is_step:
            return self.starts_S
        return self.index_T + self.starts_S[self.document_T]

    @cached_property
    def chunk_counts(self) -> tuple[int, ...]:
        """Chunks of each document; the last one may be short."""
        return tuple(-(-n // self.chunk) for n in self.lengths)

    @property
    def chunks(self) -> int:
        """C, the number of chunks in the batch."""
        return sum(self.chunk_counts)

    @property
    def is_even(self) -> bool:
        """True when chunks tile the packed tokens exactly, so that moving to the chunk grid is a view."""
        return all(n % self.chunk == 0 for n in self.lengths)

    @cached_property
    def grid_T(self) -> Tensor:
        """Place of each token on the flattened chunk grid, an index into C * Q."""
        counts_S = self._table(self.chunk_counts)
        first_S = (counts_S.cumsum(0) - counts_S) * self.chunk
        return first_S[self.document_T] + self.index_T

    @cached_property
    def token_CQ(self) -> Tensor:
        """The inverse of `grid_T`: which token stands in each place of the grid, flattened; T marks padding."""
        token = torch.full((self.chunks * self.chunk,), self.tokens, device=self.device)
        return token.index_copy_(0, self.grid_T, torch.arange(self.tokens, device=self.device))

    @cached_property
    def chunk_steps(self) -> tuple[tuple[Tensor, int], ...]:
        """The k-th chunk of every document that has one, with documents in order of falling length, and their number.

        The recurrence over chunks walks these steps; at step k the first n documents of `by_length_S` are alive.
        """
        firsts = [sum(self.chunk_counts[:s]) for s in range(self.documents)]
        order = self._by_length
        steps = []
        for k in range(max(self.chunk_counts)):
            alive = [firsts[s] + k for s in order if self.chunk_counts[s] > k]
            steps.append((self._table(alive), len(alive)))
        return tuple(steps)

    @cached_property
    def by_length_S(self) -> Tensor:
        """Documents in order of falling chunk count."""
        return self._table(self._by_length)

    @cached_property
    def _by_length(self) -> list[int]:
        return sorted(range(self.documents), key=lambda s: -self.chunk_counts[s])

    def split(self, point: int) -> "Split":
        """The tokens before and behind position `point` of their documents; remembered, since many layers ask."""
        if point not in self._splits:
            self._splits[point] = self._split(point)
        return self._splits[point]

    @cached_property
    def _splits(self) -> "dict[int, Split]":
        return {}

    def _split(self, point: int) -> "Split":
        every = tuple(range(self.documents))
        if point <= min(self.starts):
            return Split(None, (), 0, self, every, None)
        if point >= max(self.ends):
            return Split(self, every, 0, None, (), None)
        first = [min(max(point - start, 0), n) for start, n in zip(self.starts, self.lengths, strict=True)]
        crossing = [s for s in every if 0 < first[s] < self.lengths[s]]
        before = [s for s in every if first[s] == self.lengths[s]] + crossing
        behind = crossing + [s for s in every if not first[s]]
        return Split(
            self._part(before, first, self.starts) if before else None,
            tuple(before),
            len(crossing),
            self._part(
                behind,
                [n - f for n, f in zip(self.lengths, first, strict=True)],
                [start + f for start, f in zip(self.starts, first, strict=True)],
            ),
            tuple(behind),
            None if self.documents == 1 else self._order(first),
        )

    def _order(self, first: Sequence[int]) -> tuple[Tensor, Tensor]:
        order_T = torch.argsort(self._side(first), stable=True)
        return order_T, torch.empty_like(order_T).index_copy_(0, order_T, torch.arange(self.tokens, device=self.device))

    def _part(self, documents: Sequence[int], lengths: Sequence[int], starts: Sequence[int]) -> "SequenceLayout":
        return SequenceLayout.from_lengths(
            [lengths[s] for s in documents], self.chunk, [starts[s] for s in documents], self.device
        )

    def _side(self, first: Sequence[int]) -> Tensor:
        """Before the point 0, or 1 in documents that cross it; behind it 2 in those, else 3."""
        crosses = [0 < f < n for f, n in zip(first, self.lengths, strict=True)]
        before_S, behind_S = self._table([int(c) for c in crosses]), self._table([3 - c for c in crosses])
        is_behind_T = self.index_T >= self._table(first)[self.document_T]
        return torch.where(is_behind_T, behind_S[self.document_T], before_S[self.document_T])

    def _table(self, values: Sequence[int]) -> Tensor:
        """An int64 tensor; to a GPU it travels from page-locked memory, so that the CPU goes on meanwhile."""
        if self.device.type != "cuda":
            return torch.tensor(values, device=self.device)
        return torch.tensor(values, pin_memory=True).to(self.device, non_blocking=True)


@dataclass(frozen=True, eq=False)
class Split:
    """A layout's tokens in two parts, those before a point of their documents and those from it on.

    Documents that cross the point come last in `before` and first in `behind`, in the same order, so that their tokens
    before the point are the last ones there.

    Attributes:
        before, behind: layouts of the parts, None where empty; before_documents, behind_documents: whose tokens they are.
        crossing: how many documents are in both.
        order: (order_T, place_T), tokens in the order of the parts, and where each went; None where they are in it already.
    """

    before: SequenceLayout | None
    before_documents: tuple[int, ...]
    crossing: int
    behind: SequenceLayout | None
    behind_documents: tuple[int, ...]
    order: tuple[Tensor, Tensor] | None

    @property
    def first(self) -> int:
        """Tokens before the point."""
        return self.before.tokens if self.before else 0

    @cached_property
    def order_behind(self) -> tuple[Tensor, Tensor]:
        """`order` of the tokens behind the point alone: which they are, and where each token went, one past the end for others."""
        assert self.order is not None
        order_T, place_T = self.order
        behind = len(order_T) - self.first
        place_T = place_T - self.first
        return order_T[self.first :], place_T.masked_fill(place_T < 0, behind)

    @cached_property
    def crossed(self) -> SequenceLayout | None:
        """Layout of the tokens before the point in documents that cross it."""
        if self.before is None or not self.crossing:
            return None
        lengths, starts = (values[-self.crossing :] for values in (self.before.lengths, self.before.starts))
        return SequenceLayout.from_lengths(lengths, self.before.chunk, starts, self.before.device)


class NotKeptError(RuntimeError):
    """An op asked a fixed layout for what would not change with its documents."""


class FixedLayout(SequenceLayout):
    """A layout of training whose tensors keep their sizes and their places in memory while its documents change.

    A CUDA graph captured with it so serves every batch of as many tokens. Behind the documents lie empty ones, up to
    `documents`. What the batch's indices are made of is kept, and made again by `refill`; any other index is an error.

    >>> layout = FixedLayout.of(SequenceLayout.from_lengths([5, 1]), documents=4)
    >>> layout.refill((2, 2, 2))
    >>> layout.lengths, layout.index_T.tolist()
    ((2, 2, 2, 0), [0, 1, 0, 1, 0, 1])
    """

    @classmethod
    def of(cls, layout: SequenceLayout, documents: int, device: torch.device | str | None = None) -> "FixedLayout":
        """A layout of the same documents with room for `documents`.

        Raises:
            ValueError: there are more of them than that, or text was read before.
        """
        if not layout.is_fresh:
            raise ValueError(f"layout.starts={list(layout.starts)[:8]} say text was read before; a graph starts anew")
        lengths = _with_empty(layout.lengths, documents)
        return cls(lengths, (0,) * documents, layout.chunk, torch.device(device or layout.device))

    def refill(self, lengths: Sequence[int]) -> None:
        """Puts other documents of as many tokens in place of these; tensors are written to, in order, on the device.

        Raises:
            ValueError: there are more documents than there is room for, or they have another number of tokens.
        """
        if sum(lengths) != self.tokens:
            raise ValueError(f"layout.lengths add up to {sum(lengths)} tokens but the layout holds {self.tokens}")
        padded = _with_empty(lengths, self.documents)
        if padded == self.lengths:
            return
        object.__setattr__(self, "lengths", padded)
        for make, tensor in self._kept.values():
            tensor.copy_(self._sent(make(self.lengths)), non_blocking=True)

    def kept(self, key: Hashable, make: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        """`make` of the lengths, on the device; it must give one size for all lengths, and is remembered under `key`."""
        if key not in self._kept:
            self._kept[key] = make, self._sent(make(self.lengths)).to(self.device, non_blocking=True)
        return self._kept[key][1]

    @cached_property
    def index_T(self) -> Tensor:
        """Place of each token inside its document, from 0."""
        return self.kept("index", _index)

    @cached_property
    def position_T(self) -> Tensor:
        """The same: no document was read before."""
        return self.index_T

    @property
    def bounds_S(self) -> Tensor:
        """Where each document begins, and where the last one ends: S + 1 numbers, int32."""
        return self.kept("bounds", _bounds)

    @cached_property
    def is_step(self) -> bool:
        """False: this is no layout of decoding."""
        return False

    def split(self, point: int) -> Split:
        """Only where all tokens are on one side for any documents of as many tokens."""
        if 0 < point < self.tokens:
            raise NotKeptError(f"documents cross the point {point} in other places with each batch")
        return super().split(point)

    @cached_property
    def _kept(self) -> dict[Hashable, tuple[Callable[[tuple[int, ...]], Tensor], Tensor]]:
        return {}

    @cached_property
    def chunk_counts(self) -> tuple[int, ...]:
        """Not kept, and so an error."""
        raise NotKeptError("an op that has no kernel for these shapes reads more of the layout than a graph may keep")

    def _table(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(self.chunk_counts)

    def _sent(self, table: Tensor) -> Tensor:
        return table.pin_memory() if self.device.type == "cuda" else table


def _with_empty(lengths: Sequence[int], documents: int) -> tuple[int, ...]:
    if len(lengths) > documents:
        raise ValueError(f"layout.lengths has {len(lengths)} documents but there is room for documents={documents}")
    return (*lengths, *(0,) * (documents - len(lengths)))


def _bounds(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor((0, *lengths)).cumsum(0, dtype=torch.int32)


def _index(lengths: tuple[int, ...]) -> Tensor:
    sizes = torch.tensor(lengths)
    return torch.arange(sum(lengths)) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
