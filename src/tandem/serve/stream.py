"""Token ids into text while they arrive: whole characters only, stop strings cut, thinking told from the answer."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tandem.data import TextTokenizer
from tandem.serve.stops import StopMatcher


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What a model wrote after a prompt.

    Attributes:
        text: everything as it was streamed, a think block with its `<think>` and `</think>` included.
        thinking: text inside think blocks, stripped.
        answer: text outside think blocks, stripped.
        tokens: ids the model generated, its thinking and the closing `<eos>` included, the prompt not.
        thinking_tokens: those of them that belong to think blocks.
        mode: "long" when the model thought, "short" when it answered at once.
    """

    text: str
    thinking: str
    answer: str
    tokens: int
    thinking_tokens: int
    mode: Literal["short", "long"]


class TextStream(Iterator[str]):
    """Iterates over pieces of text; `completion` is what was written so far, also after an interruption.

    Stop strings are looked for in the answer alone: a stop such as a blank line must not end the thinking before it.

    Args:
        tokens: generated ids, for example of `generate_tokens`; read no further than the first stop string.
        stop: strings; the text ends before the first of them.
        thinking: the prompt ended with an open `<think>`.
    Raises:
        ValueError: an empty stop string.
    """

    def __init__(
        self, tokens: Iterable[int], tokenizer: TextTokenizer, *, stop: Sequence[str] = (), thinking: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._decoder = tokenizer.stream_decoder()
        self._stops = StopMatcher(stop)
        self._thinking = False
        self._parts: list[tuple[str, bool | None]] = []  # text, and whether it is thinking; None for a tag
        self._tokens = self._thinking_tokens = 0
        self._pieces = self._run(tokens, thinking)

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def completion(self) -> Completion:
        """What was written so far, as a `Completion`."""
        thinking = "".join(text for text, inside in self._parts if inside is True).strip()
        return Completion(
            text="".join(text for text, _ in self._parts),
            thinking=thinking,
            answer="".join(text for text, inside in self._parts if inside is False).strip(),
            tokens=self._tokens,
            thinking_tokens=self._thinking_tokens,
            mode="long" if thinking else "short",
        )

    def _run(self, tokens: Iterable[int], thinking: bool) -> Iterator[str]:
        if thinking:
            yield from self._switch(True)
        for token in tokens:
            self._tokens += 1
            self._thinking_tokens += self._thinking or token == self._tokenizer.think_id
            yield from self._take(token)
            if self._stops.stopped:
                return
        yield from self._close()

    def _take(self, token: int) -> Iterator[str]:
        if token in (self._tokenizer.think_id, self._tokenizer.end_think_id):
            opens = token == self._tokenizer.think_id
            if opens != self._thinking:
                yield from self._switch(opens)
            return
        yield from self._emit(self._decoder.push(token))

    def _switch(self, thinking: bool) -> Iterator[str]:
        yield from self._close()
        if not self._stops.stopped:
            self._thinking = thinking
            tag = "<think>" if thinking else "</think>"
            self._parts.append((tag, None))
            yield tag

    def _emit(self, text: str) -> Iterator[str]:
        shown = text if self._thinking else self._stops.push(text)
        if shown:
            self._parts.append((shown, self._thinking))
            yield shown

    def _close(self) -> Iterator[str]:
        """Ends a segment: an unfinished character becomes U+FFFD, a half-matched stop string is text after all."""
        yield from self._emit(self._decoder.flush())
        if tail := self._stops.finish():
            self._parts.append((tail, self._thinking))
            yield tail
