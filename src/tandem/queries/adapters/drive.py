"""The loop between a session and an oracle, and what to do when the oracle's counts do not add up."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tandem.queries.adapters.count import Count
from tandem.queries.adapters.delta_debugging import ddmin
from tandem.queries.constraints import NothingToAskError
from tandem.queries.posterior import LostObjectsError
from tandem.queries.region import Region
from tandem.queries.session import Session
from tandem.queries.standing import Standing


class AdditivityError(ValueError):
    """Counts that no k objects explain: for some disjoint sets, count(A ∪ B) is not count(A) + count(B)."""


@dataclass(frozen=True)
class Found:
    """What a search ended with.

    Attributes:
        items: where the objects are, with repeats; or, when counts did not add up, a minimal set that still fails.
        additive: whether counts added up, so that `items` are the objects.
    """

    items: tuple[Any, ...]
    additive: bool


@dataclass(frozen=True)
class Budget:
    """What a driver may spend, from the moment it is made.

    Attributes:
        questions: at most so many are asked. seconds: none is asked after so many.
    """

    questions: int | None = None
    seconds: float | None = None
    begun: float = field(default_factory=time.monotonic)

    def __post_init__(self):
        if self.questions is not None and self.questions < 0:
            raise ValueError(f"max_questions={self.questions} is below 0; use 0 or more")
        if self.seconds is not None and not self.seconds >= 0:
            raise ValueError(f"max_seconds={self.seconds} is no time; use 0 or more")

    @property
    def left(self) -> float | None:
        """Seconds that are left; None without such a limit."""
        return None if self.seconds is None else max(self.begun + self.seconds - time.monotonic(), 0.0)

    def spent(self, asked: int) -> str:
        """Which part is used up, after so many questions: "questions", "seconds" or ""."""
        if self.questions is not None and asked >= self.questions:
            return "questions"
        return "seconds" if self.left == 0.0 else ""


def search(
    session: Session,
    count: Count,
    told: Callable[[Session], None] | None = None,
    *,
    max_questions: int | None = None,
    max_seconds: float | None = None,
) -> Standing:
    """Asks, counts and tells until the session is done, the budget is spent or nothing is left to ask.

    >>> from tandem.queries import Prior
    >>> standing = search(Session(Prior.uniform(1024, k=1)), lambda region: region.count([3]), max_questions=4)
    >>> standing.stopped, standing.done, standing.open.ranges, standing.bits_left
    ('questions', False, ((0, 64),), 6.0)

    Args:
        count: the oracle.
        told: called after each answer, to save the session or to show how far it is.
        max_questions: at most so many are asked by this call. max_seconds: none is asked after so many; one that runs is waited for.
    Raises:
        AdditivityError: an answer is impossible given the others; its cause names them. The session is as it was before.
        CountError: the oracle gave no count. The session is as it was before that question.
    """
    budget, asked = Budget(max_questions, max_seconds), 0
    while not session.done:
        spent = budget.spent(asked)
        if spent:
            return session.standing(spent)
        try:
            question = session.ask()
        except NothingToAskError:
            return session.standing("nothing to ask")
        tell(session, count(question), question)
        asked += 1
        if told is not None:
            told(session)
    return session.standing()


def tell(session: Session, answer: float, question: Region) -> None:
    """Tells a session an answer.

    Raises:
        AdditivityError: it is impossible given the others. The session is as it was.
    """
    try:
        session.tell(answer, question)
    except LostObjectsError:
        raise
    except ValueError as error:
        raise AdditivityError(
            f"counts do not add up at question {session.questions + 1}: {error}; or items act on each other, which counts cannot untangle"
        ) from error


def locate(session: Session, count: Count, told: Callable[[Session], None] | None = None) -> tuple[Any, ...]:
    """Searches until the session is done; returns its answer.

    >>> from tandem.queries import Prior
    >>> locate(Session(Prior.uniform(1000, k=2)), lambda region: region.count([3, 500]))
    (3, 500)

    Raises:
        AdditivityError, CountError: as `search`.
        NothingToAskError: no question that may be asked tells apart what is still possible.
    """
    reached = search(session, count, told)
    if not reached.done:
        raise NothingToAskError(str(reached))
    return session.answer


def confirm(session: Session, count: Count) -> None:
    """Asks one question more: the objects found, alone, have to count as many as they are.

    A search among items that act on each other can end without a contradiction, at items that are not to blame: when two
    fail only together, every part without one of them counts 0. This question notices.

    Raises:
        AdditivityError: they count otherwise.
        ValueError: the session is not done, or its answers have errors, so that one count proves nothing.
    """
    if not session.posterior.answers.deterministic:
        raise ValueError(
            "answers have errors, so that one count confirms nothing; raise the session's confidence instead"
        )
    if not session.done:
        raise ValueError(f"the search is not done, so that nothing can be confirmed: {session.standing()}")
    found = Counter(session.posterior.best()[0])
    cells = Region.of(np.array(list(found), dtype=np.int64))
    answer = count(session.prior.show(cells)) if found else 0
    if answer != found.total():
        raise AdditivityError(
            f"counts do not add up: {found.total()} objects were found at {len(found)} items, which alone count {answer:g}; "
            "items act on each other, or counts changed during the search"
        )


def locate_or_ddmin(session: Session, count: Count, told: Callable[[Session], None] | None = None) -> Found:
    """Locates and confirms; where counts do not add up, looks for a minimal set of items that counts above 0 by `ddmin`.

    >>> from tandem.queries import Prior
    >>> together = lambda region: int(3 in region and 500 in region)
    >>> locate_or_ddmin(Session(Prior.uniform(1000, k=1)), together)
    Found(items=(3, 500), additive=False)

    Raises:
        CountError: the oracle gave no count.
    """
    try:
        items = locate(session, count, told)
        confirm(session, count)
    except AdditivityError:
        smallest = ddmin(lambda region: count(region) > 0, Region([(0, session.prior.cells)]))
        return Found(tuple(smallest), additive=False)
    return Found(items, additive=True)
