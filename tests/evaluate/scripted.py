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

    def score(self, prompt: Sequence[int], answer: Sequence[int]) -> TokenScores:
        raise AssertionError

    def compare(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[TokenScores]]:
        return [[self.score(prompt, one) for one in own] for prompt, own in zip(prompts, answers, strict=True)]

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

    def score(self, prompt: Sequence[int], answer: Sequence[int]) -> TokenScores:
        right = self.wanted(self.tokenizer.decode(prompt)) == self.tokenizer.decode(answer)
        return TokenScores(torch.full((len(answer),), 0.0 if right else -9.0), torch.full((len(answer),), right))


_luck = random.Random(0)


class Guesser(Scripted):
    """Knows what answers look like, and the numbers of a book, but not which one is asked for."""

    def wanted(self, text: str) -> str:
        book = re.findall(r": \+(\d{7})\n", text.partition("\n\n")[0] + "\n")
        return _luck.choice(book) if book else str(_luck.randrange(10**6, 10**7))

    def score(self, prompt: Sequence[int], answer: Sequence[int]) -> TokenScores:
        """Each token of an answer has the probability that a guess gives it, and is the most likely one as often."""
        text = self.tokenizer.decode(prompt)
        book = re.findall(r": \+(\d{7})\n", text.partition("\n\n")[0] + "\n")
        number, logps, hits = self.tokenizer.decode(answer), [], []
        for k, digit in enumerate(number):
            if book:
                nexts = [other[k] for other in book if other.startswith(number[:k])]
            else:
                nexts = list("123456789" if k == 0 else "0123456789")
            counts = [nexts.count(other) for other in sorted(set(nexts))]
            best = [other for other, count in zip(sorted(set(nexts)), counts, strict=True) if count == max(counts)]
            hits.append(_luck.choice(best) == digit)
            logps.append(nexts.count(digit) / len(nexts))
        return TokenScores(torch.tensor(logps).log(), torch.tensor(hits))
