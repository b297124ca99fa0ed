"""Measures whether a model finds a number again that stood far back in a text; start at `measure_retrieval`.

Each sample is asked in two ways. Written: the model continues greedily, and the first number it writes is compared with
the answer. Given: the answer stands behind the prompt, and its tokens are scored; then a decoy stands there. A decoy is
another number of the book, or one that the text does not have. The margin between the two has nothing to do with how well
a model knows that digits are due, so it tells small models apart which never write the whole number.
"""

import math
import random
import statistics
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tandem.evaluate.estimate import Estimate, mean, share
from tandem.evaluate.sample import DIGITS, Sample, first_number, guess_probability, guessed_share
from tandem.evaluate.subject import Subject
from tandem.serve import TokenScores

Draw = Callable[[random.Random, float], Sample]


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """How many samples of one length, and where in the text their answers stand.

    Attributes:
        samples: at each length; sample k stands at depth k mod depths.
        depths: evenly spaced from 0 to 1 (one: the middle).
        seed: sample k of a length is the same whatever else is measured.
        batch: samples side by side.
    """

    samples: int = 50
    depths: int = 5
    seed: int = 0
    batch: int = 4

    def depth(self, sample: int) -> float:
        """Where the answer of a sample stands."""
        return (sample % self.depths) / (self.depths - 1) if self.depths > 1 else 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A sample laid out for one model.

    Attributes:
        prompt: what is to be continued.
        before, right, decoy: what stands before both numbers as one text with them, and their own ids.
        pieces: the digits of each token of the answer.
        rivals: numbers that could be taken for the answer.
    """

    prompt: list[int]
    before: list[int]
    right: list[int]
    decoy: list[int]
    answer: str
    depth: float
    pieces: list[str]
    rivals: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one sample gave, and what a guess that does not know which number is asked for would have (`guess_*`).

    Attributes:
        exact: the first number written is the answer.
        accuracy: share of the answer's tokens that are the most likely ones, given those before.
        logp: log-probability of the whole answer, in nats a digit; comparable between tokenizers.
        margin: by how much it is above that of the decoy; a guess has 0, and prefers the answer half the time.
    """

    depth: float
    tokens: int
    exact: bool
    accuracy: float
    logp: float
    margin: float
    guess_exact: float
    guess_accuracy: float
    guess_logp: float


def measure_retrieval(
    subject: Subject,
    draw: Draw,
    *,
    task: str,
    length: int,
    grid: Grid,
    advance: Callable[[int], None] = lambda done: None,
) -> list[Outcome]:
    """Asks `grid.samples` questions whose prompt and answer fill `length` tokens as far as whole units (words, lines) do.

    Beyond config.context the same weights are asked under a longer one, see `Subject.reading_up_to`.

    Args:
        draw: makes a sample from a generator and a depth.
        task: named in the seed and in errors.
        advance: told how many more samples are done.
    Raises:
        ValueError: a length with too little room, or with more than the task can fill.
    """
    reader = subject.reading_up_to(length + subject.answer_tokens)
    outcomes: list[Outcome] = []
    for at in range(0, grid.samples, grid.batch):
        indices = range(at, min(at + grid.batch, grid.samples))
        generators = [random.Random(f"{grid.seed} {task} {length} {k}") for k in indices]
        samples = [draw(generator, grid.depth(k)) for generator, k in zip(generators, indices, strict=True)]
        questions = [lay_out(reader, sample, task=task, length=length) for sample in samples]
        outcomes += _ask(reader, questions)
        advance(len(questions))
    return outcomes


def lay_out(subject: Subject, sample: Sample, *, task: str, length: int) -> Question:
    """The largest form of a sample whose prompt and answer have at most `length` tokens."""

    def size(units: int) -> int:
        return len(subject.with_answer(sample.prompt(units, chat=subject.chat), sample.answer)[0])

    least, most = sample.least, min(sample.most, sample.least + length)
    if size(least) > length:
        raise ValueError(f"length={length} has no room for {task}, which takes at least {size(least)} tokens; use more")
    if most == sample.most and size(most) <= length:
        raise ValueError(f"length={length} is more than {task} can fill with {most} units; use a shorter one")
    units = least + bisect_right(range(least, most + 1), length, key=size) - 1
    prompt = sample.prompt(units, chat=subject.chat)
    right, start = subject.with_answer(prompt, sample.answer)
    decoy, decoy_start = subject.with_answer(prompt, sample.decoy(units))
    start = min(start, decoy_start)
    pieces = ["".join(filter(str.isdecimal, subject.tokenizer.decode([k]))) for k in right[start:]]
    return Question(
        prompt=subject.prompt_ids(prompt),
        before=right[:start],
        right=right[start:],
        decoy=decoy[start:],
        answer=sample.answer,
        depth=sample.depth,
        pieces=pieces,
        rivals=sample.rivals(units),
    )


def _ask(subject: Subject, questions: Sequence[Question]) -> Iterator[Outcome]:
    written = subject.answers([question.prompt for question in questions])
    given = subject.compare(
        [question.before for question in questions], [[question.right, question.decoy] for question in questions]
    )
    for question, completion, (right, decoy) in zip(questions, written, given, strict=True):
        guess, logp = guess_probability(question.rivals), _per_digit(right)
        yield Outcome(
            depth=question.depth,
            tokens=len(question.before) + len(question.right),
            exact=first_number(completion.answer) == question.answer,
            accuracy=float(right.greedy_T.double().mean()),
            logp=logp,
            margin=logp - _per_digit(decoy),
            guess_exact=guess,
            guess_accuracy=guessed_share(question.pieces, question.rivals),
            guess_logp=math.log(guess) / DIGITS,
        )


def _per_digit(scores: TokenScores) -> float:
    return float(scores.logp_T.double().sum()) / DIGITS


def estimates(outcomes: Sequence[Outcome]) -> dict[str, Estimate]:
    """Each metric over all outcomes; `choice` is the share that prefers the answer to the decoy."""
    n = len(outcomes)
    return {
        "exact": share(sum(outcome.exact for outcome in outcomes), n),
        "accuracy": mean([outcome.accuracy for outcome in outcomes]),
        "choice": share(sum(outcome.margin > 0 for outcome in outcomes), n),
        "margin": mean([outcome.margin for outcome in outcomes]),
        "logp": mean([outcome.logp for outcome in outcomes]),
    }


def guesses(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """What a guess gets, a metric."""
    return {
        "exact": statistics.fmean(outcome.guess_exact for outcome in outcomes),
        "accuracy": statistics.fmean(outcome.guess_accuracy for outcome in outcomes),
        "choice": 0.5,
        "margin": 0.0,
        "logp": statistics.fmean(outcome.guess_logp for outcome in outcomes),
    }
