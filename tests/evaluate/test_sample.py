import random

import pytest

from tandem.evaluate.sample import first_number, guess_probability, guessed_share, number


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("4817263", "4817263"),
        (" 4817263.", "4817263"),
        ("The number is #481-7263, I think 5", "4817263"),
        ("48 17 263\nBob: +1", "4817263"),
        ("none", ""),
        ("", ""),
        ("12-", "12"),
        ("٤٨", ""),
    ],
)
def test_the_first_number(text: str, digits: str):
    assert first_number(text) == digits


def test_guesses_by_simulation():
    """A guesser that picks a number, and one that types the likeliest next digit of the numbers left."""
    luck, book = random.Random(0), [number(random.Random(k)) for k in range(30)]
    hits = sum(luck.choice(book) == book[0] for _ in range(20_000)) / 20_000
    assert guess_probability(book) == pytest.approx(hits, abs=0.004)

    def typed(answer: str) -> float:
        right = 0
        for k, digit in enumerate(answer):
            nexts = [other[k] for other in book if other.startswith(answer[:k])]
            luck.shuffle(nexts)
            right += max(nexts, key=nexts.count) == digit
        return right / len(answer)

    for answer in book[:4]:
        simulated = sum(typed(answer) for _ in range(2000)) / 2000
        assert guessed_share(list(answer), book) == pytest.approx(simulated, abs=0.02)
    assert guessed_share(["481", "7263"], ()) == pytest.approx((1e-3 + 1e-4) / 2)
    assert guess_probability(()) == pytest.approx(1 / 9e6)
