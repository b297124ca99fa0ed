"""The loop between a session and an oracle, and what to do when the oracle's counts do not add up."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tandem.queries.adapters.count import Count
from tandem.queries.adapters.delta_debugging import ddmin
from tandem.queries.posterior import LostObjectsError
from tandem.queries.region import Region
from tandem.queries.session import Session


class AdditivityError(ValueError):
    """Counts that no k objects explain: for some disjoint sets, count(A ∪ B) is not count(A) + count(B)."""


@dataclass(frozen=True)
class Found:
    """What a search ended with.

    Attributes:
        items: where the objects are, with repeats; or, when counts did not add up, a minimal set that still fails.
        additive: whether counts added up, so that `items` are the objects.
    """

    items: tuple[float, ...]
    additive: bool


def locate(session: Session, count: Count, told: Callable[[Session], None] | None = None) -> tuple[float, ...]:
    """Asks, counts and tells until the session is done; returns its answer.

    >>> from tandem.queries import Prior
    >>> locate(Session(Prior.uniform(1000, k=2)), lambda region: region.count([3, 500]))
    (3, 500)

    Args:
        count: the oracle.
        told: called after each answer, to save the session or to show how far it is.
    Raises:
        AdditivityError: an answer is impossible given the others; its cause names them. The session is as it was before.
        CountError: the oracle gave no count. The session is as it was before that question.
    """
    while not session.done:
        answer = count(session.ask())
        try:
            session.tell(answer)
        except LostObjectsError:
            raise
        except ValueError as error:
            raise AdditivityError(
                f"counts do not add up at question {session.questions + 1}: {error}; or items act on each other, which counts cannot untangle"
            ) from error
        if told is not None:
            told(session)
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
    found = Counter(session.answer)
    answer = count(Region.of(list(found))) if found else 0
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
