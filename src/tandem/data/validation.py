"""The held-out text once through, with the byte counts that turn nats into bits per byte."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tandem.data.batches import Batch, make_batch
from tandem.data.shards import ShardSet
from tandem.data.text_tokenizer import TextTokenizer


class ValidationBatches:
    """Every document of a split once, in stored order; can be iterated again and again.

    A document longer than `context` is cut into pieces of at most `context` tokens. A piece begins with the last token
    of the piece before it and no new bos, so each token of the text and each eos is scored exactly once; the first
    token of a piece is predicted from that one token alone, which makes the figure slightly pessimistic. Pieces are
    never cut at the end of a batch; padding has weight 0.

        bits per byte = Σ nll (nats) / ln 2 / `bytes`

    Attributes:
        documents: documents scored.
        tokens: targets scored, one a token of the text and one eos a document.
        bytes: UTF-8 bytes of their text.
    """

    def __init__(
        self, shards: ShardSet, *, batch_tokens: int, context: int, chunk: int, max_bytes: int | None = None
    ) -> None:
        if not 1 <= context <= batch_tokens:
            raise ValueError(
                f"validation.context={context} must lie in 1..{batch_tokens} (validation.batch_tokens); "
                f"use batch_tokens={max(context, 1)} or more"
            )
        self.shards = shards
        self.batch_tokens, self.context, self.chunk = batch_tokens, context, chunk
        ends = np.cumsum(shards.document_bytes)
        self.documents = len(shards) if max_bytes is None else min(int(np.searchsorted(ends, max_bytes)) + 1, len(ends))
        self.bytes = int(ends[self.documents - 1])
        self.tokens = int(shards.lengths[: self.documents].sum()) - self.documents

    def __iter__(self) -> Iterator[Batch]:
        """Batches of `batch_tokens` tokens each."""
        pieces: list[npt.NDArray[np.integer]] = []
        room = self.batch_tokens
        for piece in self._pieces():
            if len(piece) - 1 > room:
                yield make_batch(pieces, batch_tokens=self.batch_tokens, chunk=self.chunk)
                pieces, room = [], self.batch_tokens
            pieces.append(piece)
            room -= len(piece) - 1
        yield make_batch(pieces, batch_tokens=self.batch_tokens, chunk=self.chunk)

    def _pieces(self) -> Iterator[npt.NDArray[np.integer]]:
        for index in range(self.documents):
            ids = self.shards.document(index)
            for start in range(0, len(ids) - 1, self.context):
                yield ids[start : start + self.context + 1]

    def text(self, tokenizer: TextTokenizer) -> bytes:
        """The scored text itself, documents joined without separator: `bytes` bytes, for `compression_baselines`."""
        return b"".join(
            tokenizer.decode(self.shards.document(index).tolist()).encode() for index in range(self.documents)
        )


def validation_batches(
    shards: ShardSet, *, batch_tokens: int, context: int, chunk: int = 128, max_bytes: int | None = None
) -> ValidationBatches:
    """The whole validation split once, or its first documents with at least `max_bytes` of text.

    Raises:
        ValueError: context below 1 or above batch_tokens.
    """
    return ValidationBatches(shards, batch_tokens=batch_tokens, context=context, chunk=chunk, max_bytes=max_bytes)
