"""A reader that knows gets everything, one that guesses gets what a guess is said to get, a real model what it generates."""

import random

import pytest

from tandem.data import Tokenizer
from tandem.evaluate import Grid, Subject, draw_needle, draw_phone_book, measure_retrieval
from tandem.evaluate.retrieval import Draw, estimates, guesses, lay_out
from tandem.evaluate.sample import first_number

TASKS = [("needle", draw_needle), ("phone-book", draw_phone_book)]
task_and_draw = pytest.mark.parametrize(("task", "draw"), TASKS, ids=["needle", "phone-book"])


@task_and_draw
@pytest.mark.parametrize("chat", [False, True])
def test_an_oracle_is_always_right(oracle: Subject, task: str, draw: Draw, chat: bool):
    reader = type(oracle)(model=oracle.model, tokenizer=oracle.tokenizer, chat=chat)
    found = measure_retrieval(reader, draw, task=task, length=300, grid=Grid(samples=10))
    metrics = estimates(found)
    assert (metrics["exact"].value, metrics["accuracy"].value, metrics["choice"].value) == (1, 1, 1)
    assert metrics["exact"].low == pytest.approx(0.722, abs=1e-3)
    assert metrics["logp"].value == 0
    assert metrics["margin"].value == pytest.approx(9)
    assert sorted({outcome.depth for outcome in found}) == [0, 0.25, 0.5, 0.75, 1]
    assert all(275 < outcome.tokens <= 300 for outcome in found)


@task_and_draw
def test_a_guesser_is_as_often_right_as_is_said(guesser: Subject, task: str, draw: Draw):
    found = measure_retrieval(guesser, draw, task=task, length=180, grid=Grid(samples=120))
    metrics, said = estimates(found), guesses(found)
    assert metrics["exact"].low <= said["exact"] <= metrics["exact"].high
    assert metrics["accuracy"].value == pytest.approx(said["accuracy"], abs=0.04)
    assert metrics["logp"].value == pytest.approx(said["logp"], abs=1e-6)
    assert metrics["margin"].value == pytest.approx(0, abs=1e-6)
    assert said["exact"] == pytest.approx({"needle": 1 / 9e6, "phone-book": 1 / 6}[task], rel=0.3)


@task_and_draw
def test_a_model_is_measured_by_what_it_generates_and_scores(
    subject: Subject, tokenizer: Tokenizer, task: str, draw: Draw
):
    """Beyond its context too: 200 tokens are more than twice as many."""
    grid = Grid(samples=3, depths=3, seed=5, batch=2)
    found = measure_retrieval(subject, draw, task=task, length=200, grid=grid)
    reader = subject.reading_up_to(1000)
    for index, outcome in enumerate(found):
        generator = random.Random(f"5 {task} 200 {index}")
        sample = draw(generator, index / 2)
        question = lay_out(reader, sample, task=task, length=200)
        ids = question.before + question.right
        assert tokenizer.decode(question.prompt) + sample.answer == tokenizer.decode(ids)
        (written,) = reader.answers([question.prompt])
        (scores,) = reader.scores([ids], [len(question.before)])
        (decoy,) = reader.scores([question.before + question.decoy], [len(question.before)])
        assert outcome.margin == pytest.approx(float(scores.logp_T.sum() - decoy.logp_T.sum()) / 7, abs=1e-4)
        assert outcome.tokens == len(ids) <= 200
        assert outcome.exact == (first_number(written.answer) == sample.answer)
        assert outcome.logp == pytest.approx(float(scores.logp_T.sum()) / 7, rel=1e-4)
        assert outcome.accuracy == pytest.approx(float(scores.greedy_T.float().mean()))


@task_and_draw
def test_the_largest_form_that_fits_is_asked(subject: Subject, task: str, draw: Draw):
    sample = draw(random.Random(1), 0.5)
    for length in (150, 151, 158, 163):
        question = lay_out(subject, sample, task=task, length=length)
        units = next(
            k
            for k in range(sample.least, length)
            if len(subject.with_answer(sample.prompt(k, chat=False), sample.answer)[0]) > length
        )
        ids = subject.with_answer(sample.prompt(units - 1, chat=False), sample.answer)[0]
        assert question.before + question.right == ids
        assert question.decoy != question.right


@task_and_draw
@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("length", [150, 400])
def test_decoys_are_another_number_that_is_not_asked_for(
    subject: Subject, task: str, draw: Draw, length: int, depth: float
):
    question = lay_out(subject, draw(random.Random(1), depth), task=task, length=length)
    decoy, text = subject.tokenizer.decode(question.decoy), subject.tokenizer.decode(question.prompt)
    assert decoy != question.answer
    assert text.count(decoy) == (1 if task == "phone-book" else 0)
    assert text.count(question.answer) == 1


def test_other_lengths_and_seeds_ask_other_questions(oracle: Subject):
    def answers(**changes: int) -> list[float]:
        grid = Grid(samples=4, seed=changes.get("seed", 0), batch=changes.get("batch", 4))
        found = measure_retrieval(oracle, draw_needle, task="needle", length=changes.get("length", 150), grid=grid)
        return [outcome.tokens for outcome in found]

    assert answers() == answers() == answers(batch=3)
    assert answers() != answers(seed=1)
    assert len(answers(length=151)) == 4


@pytest.mark.parametrize(
    ("task", "draw", "length", "message"),
    [
        ("needle", draw_needle, 20, r"length=20 has no room for needle, which takes at least \d+ tokens"),
        ("phone-book", draw_phone_book, 60, "length=60 has no room for phone-book"),
        ("phone-book", draw_phone_book, 200_000, "length=200000 is more than phone-book can fill with 10000 units"),
    ],
)
def test_lengths_that_cannot_be(oracle: Subject, task: str, draw: Draw, length: int, message: str):
    with pytest.raises(ValueError, match=message):
        measure_retrieval(oracle, draw, task=task, length=length, grid=Grid(samples=1))
