"""A needle in a haystack: one sentence with a number, somewhere in the prose of novels, asked for at the end.

Nothing in the haystack looks like the needle (no distractors), so a guess without it is a guess among all numbers.
"""

import random
from dataclasses import dataclass
from functools import cache

from tandem.data import read_classics
from tandem.evaluate.sample import number

_PLACES = (
    *("Lisbon", "Vienna", "Cairo", "Bergen", "Havana", "Riga", "Dublin", "Naples", "Quito", "Oslo"),
    *("Prague", "Lyon", "Seville", "Kyoto", "Boston", "Delhi", "Athens", "Bruges", "Lima", "Tunis"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Needle:
    """One question.

    Attributes:
        answer, other: seven digits that are in the text, and seven that are not.
        place: the place whose number is asked for.
        begin: index of the haystack's first word in the novels.
        depth: where the needle stands, from 0 (in front) to 1 (at the end).
    """

    answer: str
    other: str
    place: str
    begin: int
    depth: float

    @property
    def least(self) -> int:
        """Fewest words of haystack."""
        return 0

    @property
    def most(self) -> int:
        """Most words of haystack: all novels once."""
        return len(prose())

    def prompt(self, units: int, *, chat: bool) -> str:
        """The haystack of `units` words with the needle between two sentences, and the question."""
        words = prose()
        hay = [words[(self.begin + k) % len(words)] for k in range(units)]
        at = _sentence_end(hay, round(self.depth * units))
        needle = f"The secret number of {self.place} is #{self.answer}."
        text = " ".join([*hay[:at], needle, *hay[at:]])
        if chat:
            return f"{text}\n\nWhat is the secret number of {self.place}? Answer with the number alone."
        return f"{text}\n\nThe secret number of {self.place} is #"

    def decoy(self, units: int) -> str:
        """A number that is not in the text."""
        return self.other

    def rivals(self, units: int) -> tuple[str, ...]:
        """Numbers in the text that could be taken for the answer: none."""
        return ()


def draw_needle(generator: random.Random, depth: float) -> Needle:
    """A needle with a random number, place and haystack."""
    return Needle(
        answer=number(generator),
        other=number(generator),
        place=generator.choice(_PLACES),
        begin=generator.randrange(len(prose())),
        depth=depth,
    )


@cache
def prose() -> tuple[str, ...]:
    """The words of the bundled novels, chapter after chapter."""
    return tuple(word for document in read_classics() for word in document.text.split())


def _sentence_end(words: list[str], near: int) -> int:
    """The place behind a sentence that is nearest; the front where none ends."""
    ends = [0, *(k + 1 for k, word in enumerate(words) if word.rstrip("”\"')").endswith((".", "!", "?")))]
    return min(ends, key=lambda at: abs(at - near))
