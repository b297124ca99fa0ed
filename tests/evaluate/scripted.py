"""Readers whose answers are scripted: one knows everything, one guesses."""

import random
import re
from collections.abc import Sequence

import torch

from tandem.evaluate import Subject
from tandem.evaluate.subject import GREEDY
from tandem.serve import Completion, Sampling, TokenScores


def number_asked_for(text: str) -> str:
    """The right answer, read off the whole prompt."""
    if "secret number" in text:
        place = re.findall(r"secret number of (\w+)", text)[-1]
        return re.findall(rf"secret number of {place} is #(\d{{7}})", text)[0]
    name = re.findall(r"(?:number of |\n)([A-Z]\w+ [A-Z]\w+)(?:\?|: \+$)", text)[-1]
    return re.findall(rf"\n{name}: \+(\d{{7}})", text)[0]


def completion(answer: str) -> Completion:
    return Completion(text=answer, thinking="", answer=answer, tokens=1, thinking_tokens=0, mode="short")


class Scripted(Subject):
    """Answers by rule; its model only says how long a context is."""

    def wanted(self, text: str) -> str:
        raise AssertionError

    def answers(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        sampling: Sampling = GREEDY,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        return [completion(f"{self.wanted(self.tokenizer.decode(prompt))}.") for prompt in prompts]


class Oracle(Scripted):
    def wanted(self, text: str) -> str:
        return number_asked_for(text)

    def scores(self, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> list[TokenScores]:
        found = []
        for row, start in zip(rows, starts, strict=True):
            right = self.wanted(self.tokenizer.decode(row[:start])) == self.tokenizer.decode(row[start:])
            size = len(row) - start
            found.append(TokenScores(torch.full((size,), 0.0 if right else -9.0), torch.full((size,), right)))
        return found


_luck = random.Random(0)


class Guesser(Scripted):
    """Knows what answers look like, and the numbers of a book, but not which one is asked for."""

    def wanted(self, text: str) -> str:
        book = re.findall(r": \+(\d{7})\n", text.partition("\n\n")[0] + "\n")
        return _luck.choice(book) if book else str(_luck.randrange(10**6, 10**7))

    def scores(self, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> list[TokenScores]:
        """Each token of an answer has the probability that a guess gives it, and is the most likely one as often."""
        found = []
        for row, start in zip(rows, starts, strict=True):
            text = self.tokenizer.decode(row[:start])
            book = re.findall(r": \+(\d{7})\n", text.partition("\n\n")[0] + "\n")
            answer, logps, hits = self.tokenizer.decode(row[start:]), [], []
            for k, digit in enumerate(answer):
                if book:
                    nexts = [number[k] for number in book if number.startswith(answer[:k])]
                else:
                    nexts = list("123456789" if k == 0 else "0123456789")
                counts = [nexts.count(other) for other in sorted(set(nexts))]
                best = [other for other, count in zip(sorted(set(nexts)), counts, strict=True) if count == max(counts)]
                hits.append(_luck.choice(best) == digit)
                logps.append(nexts.count(digit) / len(nexts))
            found.append(TokenScores(torch.tensor(logps).log(), torch.tensor(hits)))
        return found
