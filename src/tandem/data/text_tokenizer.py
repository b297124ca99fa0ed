"""What generation asks of a tokenizer: `Tokenizer` of this project and `PretrainedTokenizer` of a released model have it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class TextDecoder(Protocol):
    """Decodes ids one by one; the pieces and the final `flush()` together are the text of all ids."""

    def push(self, token: int) -> str:
        """Text that became complete with this id."""
        ...

    def flush(self) -> str:
        """What was held back; the next id starts anew."""
        ...


@runtime_checkable
class TextTokenizer(Protocol):
    """Text to ids and back, prompts and chats laid out as the model knows them, and the ids that end a text.

    Attributes:
        vocab_size: number of ids.
        bos_id, eos_id: begin and end of a text; None where a model knows none.
        think_id, end_think_id: marks around thinking; None for a model that does not think in the open.
        stop_ids: every id that ends an answer.
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_id(self) -> int | None: ...
    @property
    def think_id(self) -> int | None: ...
    @property
    def end_think_id(self) -> int | None: ...
    @property
    def stop_ids(self) -> frozenset[int]: ...

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone; names of special tokens in it are plain characters."""
        ...

    def start_of_text(self) -> int:
        """The id before the first token of a text whose likelihood is asked."""
        ...

    def text_ids(self, text: str) -> list[int]:
        """Ids of a text to be continued, with what the model expects ahead of it."""
        ...

    def conversation_ids(self, messages: Sequence[Mapping[str, str]], thinking: str = "auto") -> list[int]:
        """Ids of {"role", "content"} messages, ready for the assistant's answer; `thinking` as in `chat_ids`."""
        ...

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of the ids."""
        ...

    def token_bytes(self, token: int, *, skip_special: bool = True) -> bytes:
        """Bytes that one id writes."""
        ...

    def stream_decoder(self, skip_special: bool = True) -> TextDecoder:
        """A decoder to be fed one id at a time."""
        ...

    def save(self, path: Path | str) -> Path:
        """Writes what loading needs into a directory; returns tokenizer.json."""
        ...


def is_thinking(ids: Sequence[int], tokenizer: TextTokenizer) -> bool:
    """Whether a think block is open at the end of the ids."""
    opens, closes = tokenizer.think_id, tokenizer.end_think_id
    if opens is None:
        return False
    return next((token == opens for token in reversed(ids) if token in (opens, closes)), False)
