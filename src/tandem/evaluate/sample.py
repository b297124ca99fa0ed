"""What retrieval tasks have in common: a sample can be made of any size, and asks for a number of seven digits.

The prompt of a base model ends right before the number, in a mark (`#` or `+`) that tokenizers do not merge with digits.
"""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

DIGITS = 7


@runtime_checkable
class Sample(Protocol):
    """One question, whose text can be made longer unit by unit (words of prose, entries of a book).

    Attributes:
        answer: the number asked for.
        depth: where in the text it stands, from 0 (in front) to 1 (at the end).
        least, most: fewest and most units.
    """

    @property
    def answer(self) -> str: ...
    @property
    def depth(self) -> float: ...
    @property
    def least(self) -> int: ...
    @property
    def most(self) -> int: ...

    def prompt(self, units: int, *, chat: bool) -> str:
        """The whole prompt with `units` units: with a question for a chat model, else to be continued by the answer."""
        ...

    def decoy(self, units: int) -> str:
        """A wrong number that is as good a guess as the answer: one of its rivals, or one that is not in the text."""
        ...

    def rivals(self, units: int) -> Sequence[str]:
        """All numbers of the text that look like the answer, itself included; empty when it is the only one."""
        ...


def number(generator: random.Random) -> str:
    """Seven digits, the first not 0."""
    return str(generator.randrange(10 ** (DIGITS - 1), 10**DIGITS))


def first_number(text: str) -> str:
    """The first run of digits of an answer; separators inside it are dropped, as in 481-7263.

    >>> first_number("It is #481-7263, I think.")
    '4817263'
    """
    digits = ""
    for place, character in enumerate(text):
        if character.isdecimal() and character.isascii():
            digits += character
        elif digits and not (character in "-, " and text[place + 1 : place + 2].isdecimal()):
            break
    return digits


def guess_probability(rivals: Sequence[str]) -> float:
    """Probability that a guess is right which knows what answers look like, but not which one is asked for.

    A book's guess is one of its numbers; without rivals it is any number of seven digits.
    """
    return 1 / len(rivals) if rivals else 1 / (10**DIGITS - 10 ** (DIGITS - 1))


def guessed_share(pieces: Sequence[str], rivals: Sequence[str]) -> float:
    """Share of the answer's tokens that such a guess gets right when it is given those before.

    Once a few digits are known, few rivals are left: with a book of thirty numbers most digits can be had without the name.

    Args:
        pieces: the digits of each token of the answer.
    """
    right, known = 0.0, ""
    for piece in pieces:
        nexts = Counter(rival[len(known) :][: len(piece)] for rival in rivals if rival.startswith(known))
        best = max(nexts.values(), default=0)
        ties = sum(count == best for count in nexts.values())
        if not rivals:
            right += 10.0 ** -len(piece)
        elif nexts[piece] == best:
            right += 1 / ties
        known += piece
    return right / len(pieces)
