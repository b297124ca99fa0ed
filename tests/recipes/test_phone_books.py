"""Books to learn from: as long as asked, every number to be found in its book, and none of the evaluation's."""

import random
import re
from pathlib import Path

import numpy as np
import pytest

from tandem.data import Tokenizer, open_shards
from tandem.evaluate import draw_phone_book
from tandem.recipes.phone_books import phone_book_document, write_phone_book_shards

LINE = re.compile(r"^(\w+ \w+): \+(\d{7})$", re.MULTILINE)


def count(text: str) -> int:
    """Tokens of a tokenizer that takes characters one by one."""
    return len(text)


@pytest.mark.parametrize("tokens", [220, 1000, 5000])
def test_all_that_is_asked_for_stands_in_the_book(tokens: int):
    for seed in range(20):
        text = phone_book_document(random.Random(seed), tokens, count)
        book, _, asked = text.partition("\n\nNumbers asked for:\n")
        lines, questions = LINE.findall(book), LINE.findall(asked)
        assert len(lines) == len({name for name, _ in lines}) >= 2
        assert questions
        assert set(questions) <= set(lines)
        # Round after round: every line is asked for before one is again.
        assert len(set(questions[: len(lines)])) == len(questions[: len(lines)])
        assert tokens - 40 <= count(text) <= tokens


def test_small_books_are_as_likely_as_large_ones():
    generator = random.Random(0)
    sizes = [len(LINE.findall(phone_book_document(generator, 3000, count).split("\n\n")[0])) for _ in range(300)]
    largest = max(sizes)
    assert min(sizes) == 2
    assert largest > 80
    assert 0.3 < np.mean(np.array(sizes) < (2 * largest) ** 0.5) < 0.7


def test_shards_hold_documents_of_the_length_and_are_written_once(shards: Path, tmp_path: Path):
    tokenizer = Tokenizer.load(shards)
    directory = write_phone_book_shards(tmp_path / "books", tokenizer, documents=30, tokens=400)
    written = open_shards(directory, "train")
    assert len(written) == 30
    # The packer's tokens: one fewer than ids.
    assert all(300 < tokens <= 400 for tokens in written.lengths - 1)
    assert len({row.tobytes() for row in written}) == 30
    before = (directory / "train/meta.json").stat().st_mtime_ns
    write_phone_book_shards(directory, tokenizer, documents=30, tokens=400)
    assert (directory / "train/meta.json").stat().st_mtime_ns == before
    write_phone_book_shards(directory, tokenizer, documents=31, tokens=400)
    assert len(open_shards(directory, "train")) == 31


def test_the_evaluation_asks_for_other_numbers(shards: Path, tmp_path: Path):
    tokenizer = Tokenizer.load(shards)
    directory = write_phone_book_shards(tmp_path / "books", tokenizer, documents=200, tokens=600)
    learned = {line for ids in open_shards(directory, "train") for line in LINE.findall(tokenizer.decode(ids.tolist()))}
    asked = {
        line
        for sample in range(50)
        for line in LINE.findall(
            draw_phone_book(random.Random(f"0 phone-book 600 {sample}"), 0.5).prompt(30, chat=False)
        )
    }
    assert len(learned) > 1000
    assert len(asked) > 1000
    assert not learned & asked


def test_too_little_room():
    with pytest.raises(ValueError, match=r"tokens=20 has no room for a phone book of 2 lines; use \d+ or more"):
        phone_book_document(random.Random(0), 20, count)
