"""One training batch of packed documents, and how pieces of documents become one.

Shapes: T tokens, S documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tandem.data.tokenizer import Tokenizer
from tandem.ops import SequenceLayout


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """Packed documents with the token that follows each.

    Attributes:
        tokens_T: int64 ids that the model reads.
        targets_T: int64 ids that it should predict.
        weights_T: float32, 0 where nothing is to be learned or scored.
        layout: document boundaries; padding, when there is any, is the last document.
    """

    tokens_T: Tensor
    targets_T: Tensor
    weights_T: Tensor
    layout: SequenceLayout

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        layout = SequenceLayout.from_lengths(self.layout.lengths, self.layout.chunk, self.layout.starts, device)
        return Batch(
            tokens_T=_sent(self.tokens_T, device),
            targets_T=_sent(self.targets_T, device),
            weights_T=_sent(self.weights_T, device),
            layout=layout,
        )


def _sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """To a GPU from page-locked memory: otherwise the CPU would wait until the GPU has done all that was asked before."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def make_batch(pieces: Sequence[npt.NDArray[np.integer]], *, batch_tokens: int, chunk: int) -> Batch:
    """Packs pieces of n + 1 ids each (n inputs with their n targets) and pads to `batch_tokens`.

    The padding is one more document of `<pad>` with weight 0, so that every batch has the same shape.
    """
    lengths = [len(piece) - 1 for piece in pieces]
    padding = batch_tokens - sum(lengths)
    assert padding >= 0, "pieces exceed the batch"
    tail = [np.full(padding, Tokenizer.pad_id, dtype=np.int64)] if padding else []
    tokens = np.concatenate([*(piece[:-1] for piece in pieces), *tail]).astype(np.int64)
    targets = np.concatenate([*(piece[1:] for piece in pieces), *tail]).astype(np.int64)
    weights_T = torch.ones(batch_tokens)
    weights_T[batch_tokens - padding :] = 0
    layout = SequenceLayout.from_lengths([*lengths, padding] if padding else lengths, chunk=chunk)
    return Batch(
        tokens_T=torch.from_numpy(tokens), targets_T=torch.from_numpy(targets), weights_T=weights_T, layout=layout
    )
