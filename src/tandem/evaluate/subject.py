"""The model under test: prompts laid out for it, greedy answers without their thinking, and scores of given answers."""

import copy
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from tandem import hub
from tandem.data import TextTokenizer, is_thinking
from tandem.nn import HybridLM
from tandem.serve import (
    Completion,
    Sampling,
    TextStream,
    Thinking,
    TokenScores,
    chat_ids,
    generate_batch,
    score_batch,
    score_continuations,
)

GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A model with its tokenizer and the way it is asked.

    A chat model gets a prompt as a message from the user, a base model as text to continue.

    Attributes:
        chat: the model was tuned on conversations.
        thinking: what a chat model is told about thinking before it answers, see `tandem.serve.chat_ids`.
        answer_tokens: most tokens of an answer, its thinking included.

    >>> m = tandem.load("nano")                                             # doctest: +SKIP
    >>> Subject(model=m.model, tokenizer=m.tokenizer, chat=m.chat)          # doctest: +SKIP
    """

    model: HybridLM
    tokenizer: TextTokenizer
    chat: bool = False
    thinking: Thinking = "short"
    answer_tokens: int = 16

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        *,
        dtype: str | None = None,
        device: str | torch.device | None = None,
        thinking: Thinking = "short",
        answer_tokens: int = 16,
    ) -> Self:
        """Loads what `tandem.load` loads.

        Raises:
            ValueError: see `tandem.hub.load`.
        """
        model, tokenizer, saved = hub.load(
            Path(source) if not isinstance(source, str) else source, dtype=dtype, device=device
        )
        return cls(model=model, tokenizer=tokenizer, chat=saved.chat, thinking=thinking, answer_tokens=answer_tokens)

    @property
    def context(self) -> int:
        """Longest text the model reads in one pass, in tokens."""
        return self.model.config.context

    def reading_up_to(self, context: int) -> "Subject":
        """The same weights under a config of at least this context, to ask beyond what the model was made for.

        Nothing else changes: positions go on counting, so rotary angles are ones that training never showed.
        """
        if context <= self.context:
            return self
        longer = copy.copy(self.model)
        longer.config = self.model.config.replace(context=context)
        return dataclasses.replace(self, model=longer)

    def prompt_ids(self, prompt: str) -> list[int]:
        """The ids a prompt becomes: the user's message of a chat, or a text to continue."""
        if self.chat:
            return chat_ids(self.tokenizer, [{"role": "user", "content": prompt}], thinking=self.thinking)
        return self.tokenizer.text_ids(prompt)

    def with_answer(self, prompt: str, answer: str) -> tuple[list[int], int]:
        """The ids of a prompt with an answer behind it, and the place where the answer begins."""
        if not self.chat:
            return self.continued(prompt, answer)
        asked = self.prompt_ids(prompt)
        return asked + self.tokenizer.encode(answer), len(asked)

    def continued(self, text: str, more: str) -> tuple[list[int], int]:
        """The ids of two texts read as one, and where the second begins; a token across the border counts to it.

        What is scored always has something before it, if only the start of a text.
        """
        before, both = self.tokenizer.text_ids(text), self.tokenizer.text_ids(text + more)
        same = next((k for k, pair in enumerate(zip(before, both, strict=False)) if pair[0] != pair[1]), len(before))
        return (both, same) if same else ([self.tokenizer.start_of_text(), *both], 1)

    def answers(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        sampling: Sampling = GREEDY,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        """What the model writes behind each prompt, side by side; `.answer` is without its thinking.

        Args:
            max_tokens: `answer_tokens` when None.
            stop: strings; an answer ends before the first of them.
        """
        limit = self.answer_tokens if max_tokens is None else max_tokens
        stop_ids = self.tokenizer.stop_ids
        rows = generate_batch(self.model, prompts, sampling=sampling, max_tokens=limit, stop_ids=stop_ids)
        streams = [
            TextStream(row, self.tokenizer, stop=stop, thinking=is_thinking(prompt, self.tokenizer))
            for prompt, row in zip(prompts, rows, strict=True)
        ]
        for stream in streams:
            for _ in stream:
                pass
        return [stream.completion for stream in streams]

    def compare(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[TokenScores]]:
        """Scores several answers to each prompt, see `tandem.serve.score_continuations`."""
        return score_continuations(self.model, prompts, answers)

    def scores(self, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> list[TokenScores]:
        """Scores the end of each row, see `tandem.serve.score_batch`."""
        return score_batch(self.model, rows, starts)
