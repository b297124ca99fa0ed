"""How many bits a model needs for a text of any length; start at `measure_text`.

Bits per byte compare models of different tokenizers: the total is over the same bytes, however they are cut.

Shapes: T tokens.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from tandem.data import TextTokenizer
from tandem.evaluate.estimate import Estimate, ratio
from tandem.evaluate.subject import Subject
from tandem.serve import score_long

Mode = Literal["windows", "state"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How a text that may be longer than the context is read; each of its tokens is scored exactly once.

    Attributes:
        mode: "windows" reads at most `window` tokens at a time, as the model was trained to; "state" reads the whole text
            through one decode state, so that every token is given all before it. Attention then looks at positions that
            training never showed, and keeps keys and values of the whole text.
        window: tokens a window reads; the model's context when None.
        overlap: tokens at the head of a window that the window before has scored already, so that every token behind the
            first window is given at least overlap + 1 tokens; half a window when None. More is more exact and slower.
        batch: windows read side by side.
    """

    mode: Mode = "windows"
    window: int | None = None
    overlap: int | None = None
    batch: int = 4

    def resolved(self, context: int) -> tuple[int, int]:
        """Window and overlap for a model.

        Raises:
            ValueError: a window outside 1..context, or an overlap that leaves nothing to score.
        """
        window = context if self.window is None else self.window
        if not 1 <= window <= context:
            raise ValueError(f"window={window} must lie in 1..{context} (config.context); or use reading=state")
        overlap = window // 2 if self.overlap is None else self.overlap
        if not 0 <= overlap < window:
            raise ValueError(f"overlap={overlap} must lie in 0..{window - 1} (window={window} - 1)")
        return window, overlap


class TextScore(NamedTuple):
    """What a text costs.

    Attributes:
        bits_per_byte: total bits over UTF-8 bytes.
        perplexity: e to the nats a token; depends on the tokenizer.
        tokens: tokens scored, all of the text; its end is not.
        bytes: UTF-8 bytes of the text.
    """

    bits_per_byte: Estimate
    perplexity: Estimate
    tokens: int
    bytes: int


class Window(NamedTuple):
    """One row to score: ids[begin:end] are read, ids[first:end] scored."""

    begin: int
    first: int
    end: int


def windows(ids: int, window: int, overlap: int) -> Iterator[Window]:
    """Cuts a text of `ids` ids, the start of text counted, into rows of at most `window` inputs.

    ids[1:] are scored, each exactly once. The last row reaches back to be a full one, as in lm-eval's rolling windows.
    """
    end = min(ids, window + 1)
    yield Window(0, 1, end)
    while end < ids:
        first, end = end, min(end + window - overlap, ids)
        yield Window(end - window - 1, first, end)


def measure_text(
    subject: Subject,
    texts: Sequence[str],
    reading: Reading | None = None,
    advance: Callable[[int], None] = lambda tokens: None,
) -> TextScore:
    """Scores all tokens of each text; the standard errors take parts of about a thousand tokens as independent.

    Args:
        advance: told how many more tokens have been scored.
    Raises:
        ValueError: no text, or a reading that the model cannot do.
    """
    reading = reading or Reading()
    nats, tokens, sizes = [], [], []
    for text in texts:
        ids = [subject.tokenizer.start_of_text(), *subject.tokenizer.encode(text)]
        if len(ids) > 1:
            logp_T = torch.cat([part.double() for part in _scores(subject, ids, reading, advance)])
            parts = logp_T.split(_PART)
            nats += [-float(part.sum()) for part in parts]
            tokens += [len(part) for part in parts]
            sizes += _bytes(subject.tokenizer, text, ids[1:])
    if not nats:
        raise ValueError("text has no token to score; give a file with text")
    mean_nats = ratio(nats, tokens)
    bits = ratio([nat / math.log(2) for nat in nats], sizes)
    return TextScore(bits, _exponential(mean_nats), sum(tokens), round(math.fsum(sizes)))


_PART = 1024


def _scores(
    subject: Subject, ids: list[int], reading: Reading, advance: Callable[[int], None]
) -> Iterator[torch.Tensor]:
    if reading.mode == "state":
        for scores in score_long(subject.model, ids):
            advance(len(scores.logp_T))
            yield scores.logp_T
        return
    cut = list(windows(len(ids), *reading.resolved(subject.context)))
    for at in range(0, len(cut), reading.batch):
        some = cut[at : at + reading.batch]
        rows, starts = [ids[w.begin : w.end] for w in some], [w.first - w.begin for w in some]
        for scores in subject.scores(rows, starts):
            advance(len(scores.logp_T))
            yield scores.logp_T


def _bytes(tokenizer: TextTokenizer, text: str, ids: Sequence[int]) -> list[float]:
    """Bytes of each part; they add up to those of the text, also where a tokenizer changes some of it."""
    raw = [len(tokenizer.token_bytes(k, skip_special=False)) for k in ids]
    scale = len(text.encode()) / max(1, sum(raw))
    return [scale * sum(raw[at : at + _PART]) for at in range(0, len(raw), _PART)]


def _exponential(nats: Estimate) -> Estimate:
    value = math.exp(nats.value)
    if nats.error is None or nats.low is None or nats.high is None:
        return Estimate(value, nats.n)
    return Estimate(value, nats.n, value * nats.error, math.exp(nats.low), math.exp(nats.high))
