"""A decode state in the place where `transformers` keeps its cache."""

from torch import Tensor
from transformers import Cache

from tandem.nn.slots import SSMSlots
from tandem.nn.state import DecodeState


class TandemCache(Cache):
    """Keys, values and SSM states of a batch; `generate` makes one, `past_key_values` gives it back.

    SSM states cannot be cut back to an earlier token, so assisted decoding, which crops, is refused.

    Attributes:
        state: what the model remembers, a slot a row; each knows its own length, padding not counted.
    """

    is_compileable = False  # pyright: ignore[reportAssignmentType] - a property of the base class

    def __init__(self, state: DecodeState) -> None:
        super().__init__(layers=[])
        self.state = state
        self._columns = 0

    def read(self, columns: int) -> None:
        """Counts columns of the batch, padding included, as read."""
        self._columns += columns

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of the batch read so far, padding included."""
        return self._columns

    def get_max_length(self, layer_idx: int = 0) -> int:
        """-1: no limit."""
        return -1

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i goes on from row beam_idx[i], as beam search asks."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps some rows, in the given order."""
        self.state = self.state.select(indices.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats each row."""
        self.state = self.state.select([row for row in range(self.batch_size) for _ in range(repeats)])

    def crop(self, tokens_to_remove: int) -> None:
        """Refused.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "past_key_values of a Tandem model cannot be cropped: SSM states do not go back; read the text anew"
        )

    def reset(self) -> None:
        """Forgets everything."""
        self.state.lengths, self._columns = [0] * self.batch_size, 0
        for layer in self.state.layers:
            if isinstance(layer, SSMSlots):
                layer.restart()

    @property
    def batch_size(self) -> int:
        """Rows of the batch."""
        return len(self.state.lengths)
