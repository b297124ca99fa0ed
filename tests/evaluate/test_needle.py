import random
import re

import pytest

from tandem.data import read_classics
from tandem.evaluate import draw_needle
from tandem.evaluate.needle import prose


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 1.0])
def test_the_needle_stands_between_two_sentences_at_its_depth(depth: float):
    sample = draw_needle(random.Random(3), depth)
    text = sample.prompt(400, chat=False)
    hay, _, question = text.rpartition("\n\n")
    needle = f"The secret number of {sample.place} is #{sample.answer}."
    assert question == f"The secret number of {sample.place} is #"
    before, after = hay.split(needle)
    assert len(before.split()) == pytest.approx(depth * 400, abs=60)
    assert not before.strip() or re.search(r"[.!?][”\"')]*$", before.strip())
    assert len(before.split()) + len(after.split()) == 400


def test_the_haystack_is_the_novels_text():
    words = " ".join(prose())
    first = next(iter(read_classics())).text.split()
    assert words.startswith(" ".join(first))
    sample = draw_needle(random.Random(5), 1.0)
    hay = sample.prompt(50, chat=False).split(f"The secret number of {sample.place}")[0].strip()
    assert hay in words


def test_chats_ask_in_words_and_seeds_repeat():
    sample = draw_needle(random.Random(3), 0.5)
    assert sample == draw_needle(random.Random(3), 0.5) != draw_needle(random.Random(4), 0.5)
    question = sample.prompt(10, chat=True).rpartition("\n\n")[2]
    assert question == f"What is the secret number of {sample.place}? Answer with the number alone."
    assert sample.prompt(0, chat=False).count(sample.answer) == 1
    assert (sample.least, sample.rivals(10)) == (0, ())
    assert sample.most > 500_000
