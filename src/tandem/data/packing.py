"""An endless, deterministic stream of batches that can stop after any batch and go on as if it had not.

Shapes: T tokens of a batch. A document of n ids has n − 1 tokens here, each an input with its target.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from tandem.data.batches import Batch, make_batch
from tandem.data.shards import ShardSet


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """Documents of one origin and how much of the mixture they make up.

    Attributes:
        shards: the documents.
        weight: share of the tokens, relative to the other sources.
        min_length: documents with fewer tokens are left out.
        max_length: documents with more tokens are left out; None for no bound.
    """

    shards: ShardSet
    weight: float = 1.0
    min_length: int = 1
    max_length: int | None = None

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"data.weight={self.weight} of a source must be above 0; leave the source out instead")

    def eligible(self, longest: int | None) -> npt.NDArray[np.int64]:
        """Indices of the documents within the bounds and of at most `longest` tokens."""
        tokens = self.shards.lengths - 1
        upper = min(bound for bound in (self.max_length, longest, np.inf) if bound is not None)
        return np.flatnonzero((tokens >= max(self.min_length, 1)) & (tokens <= upper))


class _Row(NamedTuple):
    """A document that was drawn: its source, its index there, its tokens already used and those left."""

    source: int
    document: int
    used: int
    left: int


class _Reader:
    """Walks through the documents of one source, in a new order each epoch.

    The order is drawn from (seed, number of the source, epoch), so epoch and position are the whole state.
    """

    def __init__(self, source: Source, number: int, seed: int, longest: int | None) -> None:
        self.documents = source.eligible(longest)
        self.weight = source.weight
        self._key = (seed, number)
        self.tokens = 0
        self.seek(0, 0)

    def seek(self, epoch: int, position: int) -> None:
        self.epoch, self.position = epoch, position
        generator = np.random.default_rng((*self._key, epoch))
        self._order = generator.permutation(self.documents)

    def next(self) -> int:
        if self.position == len(self._order):
            self.seek(self.epoch + 1, 0)
        self.position += 1
        return int(self._order[self.position - 1])


class Packer:
    """Batches of exactly `batch_tokens` tokens from shuffled documents, for ever.

    `cut=True` (pretraining): documents are cut into pieces of at most `context` tokens, and at the end of a batch;
    the rest goes on as a new document at the start of the next batch. No token is padding, and every token of the
    corpus is seen exactly once an epoch.

    `cut=False` (annealing): no document is ever cut. Those longer than `context` are set aside for a packer with a
    longer one, and counted in `deferred`. The oldest of `look_ahead` waiting documents opens a batch, the longest that
    still fit follow, and one document of padding with weight 0 fills the rest.

    With several sources the next document comes from the one that is furthest behind its weight, counted in tokens, so
    the mixture is exact to within a document at any time. Each source has its own epochs.

    >>> packer = Packer(shards, batch_tokens=2048, context=512, chunk=64, seed=0)      # doctest: +SKIP
    >>> batch = next(packer); state = packer.state_dict()                              # doctest: +SKIP

    Args:
        sources: shards, or several with weights.
        batch_tokens: T.
        context: longest document in a batch, in tokens.
        chunk: handed to the layout.
        seed: of the order of documents.
        look_ahead: documents to choose from when none may be cut.

    Raises:
        ValueError: a size below 1, no document within the bounds of a source, context above batch_tokens when nothing
            may be cut, or sources of different tokenizers.
    """

    def __init__(
        self,
        sources: ShardSet | Sequence[Source],
        *,
        batch_tokens: int,
        context: int,
        chunk: int = 128,
        seed: int = 0,
        cut: bool = True,
        look_ahead: int = 64,
    ) -> None:
        self.sources = (Source(shards=sources),) if isinstance(sources, ShardSet) else tuple(sources)
        self.batch_tokens, self.context, self.chunk = batch_tokens, context, chunk
        self.seed, self.cut, self.look_ahead = seed, cut, look_ahead
        self._check_sizes()
        longest = None if cut else context
        self._readers = [_Reader(source, k, seed, longest) for k, source in enumerate(self.sources)]
        for number, reader in enumerate(self._readers):
            if not len(reader.documents):
                raise ValueError(
                    f"data.sources[{number}]={self.sources[number].shards.directory} has no document within its bounds "
                    f"(context {context}); widen min_length and max_length, or raise the context"
                )
        self._waiting: list[_Row] = []

    def _check_sizes(self) -> None:
        for name in ("batch_tokens", "context", "chunk", "look_ahead"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}={getattr(self, name)} is below 1; use a positive number")
        if self.seed < 0:
            raise ValueError(f"data.seed={self.seed} is negative; use 0 or a positive number")
        if not self.cut and self.context > self.batch_tokens:
            raise ValueError(
                f"data.context={self.context} is above data.batch_tokens={self.batch_tokens}, and documents are not "
                f"cut; raise batch_tokens to {self.context} or more"
            )
        if not self.sources:
            raise ValueError("data.sources=() is empty; give at least one directory of shards")
        if len({source.shards.meta["tokenizer"] for source in self.sources}) > 1:
            raise ValueError(
                "data.sources were written with different tokenizers; tokenize all of them with one tokenizer.json"
            )

    @property
    def deferred(self) -> int:
        """Documents that this packer never shows because they are longer than `context`; 0 when it cuts."""
        return sum(
            len(source.eligible(None)) - len(reader.documents)
            for source, reader in zip(self.sources, self._readers, strict=True)
        )

    @property
    def epoch(self) -> float:
        """How often the first source was read, e.g. 1.25."""
        reader = self._readers[0]
        return reader.epoch + reader.position / len(reader.documents)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        """The next batch; never stops."""
        pieces = self._cut_pieces() if self.cut else self._whole_documents()
        return make_batch(pieces, batch_tokens=self.batch_tokens, chunk=self.chunk)

    def _draw(self) -> _Row:
        number = min(range(len(self._readers)), key=lambda k: self._readers[k].tokens / self._readers[k].weight)
        reader = self._readers[number]
        document = reader.next()
        tokens = int(self.sources[number].shards.lengths[document]) - 1
        reader.tokens += tokens
        return _Row(number, document, 0, tokens)

    def _cut_pieces(self) -> list[npt.NDArray[np.integer]]:
        pieces: list[npt.NDArray[np.integer]] = []
        room = self.batch_tokens
        while room:
            row = self._waiting.pop() if self._waiting else self._draw()
            size = min(room, self.context, row.left)
            pieces.append(self.sources[row.source].shards.document(row.document)[row.used : row.used + size + 1])
            room -= size
            if size < row.left:
                self._waiting.append(row._replace(used=row.used + size, left=row.left - size))
        return pieces

    def _whole_documents(self) -> list[npt.NDArray[np.integer]]:
        pieces: list[npt.NDArray[np.integer]] = []
        room = self.batch_tokens
        while True:
            while len(self._waiting) < self.look_ahead:
                self._waiting.append(self._draw())
            # The first document is the oldest, else a long one that never fits a leftover would wait for ever.
            fitting = [k for k, row in enumerate(self._waiting) if row.left <= room]
            if not fitting:
                return pieces
            chosen = max(fitting, key=lambda k: self._waiting[k].left) if pieces else 0
            row = self._waiting.pop(chosen)
            pieces.append(self.sources[row.source].shards.document(row.document))
            room -= row.left

    def _settings(self) -> dict[str, Any]:
        """What must be equal for a state to mean the same."""
        return {
            "batch_tokens": self.batch_tokens,
            "context": self.context,
            "seed": self.seed,
            "cut": self.cut,
            "look_ahead": self.look_ahead,
            "sources": [
                [source.shards.fingerprint, str(source.weight), source.min_length, str(source.max_length)]
                for source in self.sources
            ],
        }

    def state_dict(self) -> dict[str, Any]:
        """Position of every source, and the documents drawn but not used up: numbers, strings and lists of them."""
        return {
            "settings": self._settings(),
            "readers": [[reader.epoch, reader.position, reader.tokens] for reader in self._readers],
            "waiting": [list(row) for row in self._waiting],
        }

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Moves to the position of `state_dict`; the following batches are bit-identical.

        Raises:
            ValueError: the state is of other data or other settings (names the first that differs).
        """
        mine = self._settings()
        for name, value in mine.items():
            if state["settings"].get(name) != value:
                shown = (
                    "" if name == "sources" else f"={value} but the saved position has {state['settings'].get(name)}"
                )
                raise ValueError(
                    f"data.{name}{shown or ' are not those of the saved position'}; "
                    "resume with the same data and settings, or start a new run directory"
                )
        for reader, (epoch, position, tokens) in zip(self._readers, state["readers"], strict=True):
            reader.seek(epoch, position)
            reader.tokens = tokens
        self._waiting = [_Row(*row) for row in state["waiting"]]
