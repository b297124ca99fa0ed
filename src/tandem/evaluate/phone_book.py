"""A phone book: lines of names and numbers, two of them asked for as examples, then a third one (few-shot lookup).

The task of Jelassi et al. 2024 (arXiv 2402.01032, "Repeat After Me") and Waleffe et al. 2024 (arXiv 2406.07887), used for
TransMamba. Every line is a distractor of the same form, and names share their first or last part with others, so that
the whole name decides. A guess that knows the book but not the name is right once in as many lines.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from tandem.evaluate.sample import number

_FIRST = (
    "Aaron Abigail Adam Alan Albert Alice Amanda Amy Andrea Andrew Angela Ann Anna Anthony Arthur Barbara Benjamin Betty "
    "Bruce Bryan Carl Carol Catherine Charles Christina Christopher Cynthia Daniel David Deborah Dennis Diana Donald Dorothy "
    "Douglas Edward Elizabeth Emily Emma Eric Eugene Evelyn Frances Frank Gary George Gerald Gloria Grace Gregory Hannah "
    "Harold Heather Helen Henry Jack Jacob James Janet Jason Jean Jeffrey Jennifer Jessica Joan John Joseph Joyce Judith Julia "
    "Julie Karen Kathleen Keith Kenneth Kevin Larry Laura Lawrence Linda Lisa Louis Margaret Maria Mark Martha Martin Mary "
    "Matthew Megan Michael Nancy Nathan Nicholas Olivia Pamela Patrick Paul Peter Philip"
).split()
_LAST = (
    "Adams Allen Anderson Bailey Baker Barnes Bell Bennett Brooks Brown Bryant Butler Campbell Carter Clark Coleman Collins "
    "Cook Cooper Cox Cruz Davis Diaz Edwards Evans Fisher Flores Foster Garcia Gibson Gomez Gonzalez Graham Gray Green Griffin "
    "Hall Hamilton Harris Harrison Hayes Henderson Hill Howard Hughes Jackson James Jenkins Johnson Jones Kelly King Lee Lewis "
    "Long Lopez Marshall Martin Martinez Mason McDonald Miller Mitchell Moore Morgan Morris Murphy Murray Myers Nelson Ortiz "
    "Owens Parker Patterson Perez Perry Peterson Phillips Powell Price Ramirez Reed Reynolds Richardson Rivera Roberts Robinson "
    "Rogers Ross Russell Sanchez Sanders Scott Simmons Smith Stevens Stewart Sullivan Taylor Thomas"
).split()

NAMES = len(_FIRST) * len(_LAST)
"""How many names there are."""
Line = tuple[str, str]
"""A name and its number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhoneBook:
    """One question.

    Attributes:
        answer: seven digits.
        seed: of the book; a longer book is the shorter one with more lines.
        depth: where the line asked for stands, from 0 (first) to 1 (last).
    """

    answer: str
    seed: int
    depth: float

    @property
    def least(self) -> int:
        """Fewest lines: two examples, and the one asked for."""
        return 3

    @property
    def most(self) -> int:
        """As many lines as there are names."""
        return NAMES

    def prompt(self, units: int, *, chat: bool) -> str:
        """A book of `units` lines, two examples, and the question."""
        lines, asked = self._lines(units)
        examples = _examples(lines, asked)
        name = lines[asked][0]
        if chat:
            shown = ", ".join(f"the number of {other} is +{digits}" for other, digits in examples)
            question = f"For example, {shown}. What is the number of {name}? Answer with the number alone."
            return f"{_book_text(lines)}\n\n{question}"
        return f"{write_phone_book(lines, examples)}{name}: +"

    def decoy(self, units: int) -> str:
        """The number of the nearest line that is no example: those stand in the text twice."""
        lines, asked = self._lines(units)
        shown = _examples(lines, asked)
        others = [k for k, line in enumerate(lines) if k != asked and (line not in shown or units == self.least)]
        return lines[min(others, key=lambda k: abs(k - asked))][1]

    def rivals(self, units: int) -> Sequence[str]:
        """All numbers of the book."""
        return [digits for _, digits in self._lines(units)[0]]

    def _lines(self, units: int) -> tuple[list[Line], int]:
        """Names and numbers in the order of the book, and the place of the one asked for."""
        (name, _), *others = _book(self.seed).lines(units)
        asked = round(self.depth * (units - 1))
        return [*others[:asked], (name, self.answer), *others[asked:]], asked


def write_phone_book(lines: Sequence[Line], asked: Sequence[Line]) -> str:
    """A book, and under it numbers that are asked for: the prompt of `PhoneBook` up to its question."""
    return f"{_book_text(lines)}\n\nNumbers asked for:\n" + "".join(f"{name}: +{digits}\n" for name, digits in asked)


def _book_text(lines: Sequence[Line]) -> str:
    return "Phone book:\n" + "\n".join(f"{name}: +{digits}" for name, digits in lines)


def draw_lines(generator: random.Random) -> Iterator[Line]:
    """Names, each once, with random numbers, until there are no more names."""
    seen: set[str] = set()
    while len(seen) < NAMES:
        name = f"{generator.choice(_FIRST)} {generator.choice(_LAST)}"
        if name not in seen:
            seen.add(name)
            yield name, number(generator)


def _examples(lines: list[Line], asked: int) -> list[Line]:
    """Two other lines, from the middle of either half, so that they stand in the book at every size."""
    others = lines[:asked] + lines[asked + 1 :]
    return [others[len(others) // 4], others[len(others) * 3 // 4]]


class _Book:
    """Lines drawn as far as somebody has read."""

    def __init__(self, seed: int) -> None:
        self._more = draw_lines(random.Random(seed))
        self._drawn: list[Line] = []

    def lines(self, count: int) -> list[Line]:
        """The first lines."""
        self._drawn += islice(self._more, max(0, count - len(self._drawn)))
        return self._drawn[:count]


_book = lru_cache(maxsize=8)(_Book)


def draw_phone_book(generator: random.Random, depth: float) -> PhoneBook:
    """A random book."""
    return PhoneBook(answer=number(generator), seed=generator.getrandbits(32), depth=depth)
