import random
import re

import pytest

from tandem.evaluate import draw_phone_book


@pytest.mark.parametrize("units", [3, 4, 10, 200])
@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_a_book_has_its_examples_and_the_answer_once(units: int, depth: float):
    sample = draw_phone_book(random.Random(1), depth)
    book, _, asked = sample.prompt(units, chat=False).partition("\n\nNumbers asked for:\n")
    lines = re.findall(r"^(\w+ \w+): \+(\d{7})$", book, re.MULTILINE)
    assert len(lines) == len({name for name, _ in lines}) == units
    *examples, last = asked.split("\n")
    name = last.removesuffix(": +")
    assert lines.index((name, sample.answer)) == round(depth * (units - 1))
    shown = [tuple(line.split(": +")) for line in examples]
    assert len(set(shown)) == 2
    assert set(shown) <= set(lines) - {(name, sample.answer)}
    assert sample.rivals(units) == [digits for _, digits in lines]


def test_a_longer_book_is_the_shorter_one_with_more_lines():
    sample = draw_phone_book(random.Random(1), 0.5)
    short, long = set(sample.rivals(10)), set(sample.rivals(50))
    assert short < long
    assert sample.most == 10_000
    assert sample == draw_phone_book(random.Random(1), 0.5)


def test_chats_ask_in_words():
    sample = draw_phone_book(random.Random(1), 0.0)
    book, question = sample.prompt(8, chat=True).rsplit("\n\n", 1)
    name = book.split("\n")[1].split(":")[0]
    assert question.endswith(f"What is the number of {name}? Answer with the number alone.")
    assert question.count("the number of") == 3
    assert sample.answer not in question
