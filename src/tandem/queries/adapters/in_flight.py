"""Several questions at a time, to an oracle that is slow but can count for many at once."""

import asyncio
from collections.abc import Awaitable, Callable

from tandem.queries.adapters.drive import Budget, tell
from tandem.queries.constraints import NothingToAskError
from tandem.queries.region import Region
from tandem.queries.session import Session
from tandem.queries.standing import Standing

AsyncCount = Callable[[Region], Awaitable[float]]


async def search_async(
    session: Session,
    count: AsyncCount,
    told: Callable[[Session], None] | None = None,
    *,
    in_flight: int = 4,
    max_questions: int | None = None,
    max_seconds: float | None = None,
) -> Standing:
    """`search` with up to `in_flight` questions open at a time; answers are taken in the order in which they come.

    A question is chosen by what it reveals beside those that are open (`Session.ask_ahead`). The same seed and the same order of
    answers ask the same questions. When it is cancelled, by Ctrl-C too, questions in flight are cancelled with it and the
    session stays one that can be saved and taken up again: it asks the open questions first.

    >>> from tandem.queries import Prior
    >>> async def counts(region):
    ...     await asyncio.sleep(0.001)
    ...     return region.count([3, 500])
    >>> asyncio.run(search_async(Session(Prior.uniform(1000, k=2)), counts)).guess
    (3, 500)

    Args:
        count: the oracle; one that blocks is run in threads by `lambda region: asyncio.to_thread(blocking, region)`.
        told: called after each answer.
        max_questions: at most so many are asked by this call. max_seconds: after so many, those in flight are cancelled.
    Raises:
        AdditivityError, CountError: as `search`. Answers that came at the same time are told first.
    """
    if in_flight < 1:
        raise ValueError(f"in_flight={in_flight} asks nothing; use 1 or more")
    budget, asked, stopped = Budget(max_questions, max_seconds), 0, ""
    running: dict[asyncio.Task[float], Region] = {}
    try:
        while not session.done:
            stopped = budget.spent(asked)
            if not stopped:
                for question in _unasked(session, running, in_flight):
                    if budget.spent(asked):
                        break
                    running[asyncio.ensure_future(_counted(count, question))] = question
                    asked += 1
            if stopped == "seconds" or not running:
                stopped = stopped or budget.spent(asked) or "nothing to ask"
                break
            finished, _ = await asyncio.wait(running, timeout=budget.left, return_when=asyncio.FIRST_COMPLETED)
            _take(session, running, finished, told)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return session.standing("" if session.done else stopped)


async def _counted(count: AsyncCount, question: Region) -> float:
    return await count(question)


def _unasked(session: Session, running: dict[asyncio.Task[float], Region], in_flight: int) -> list[Region]:
    """Open questions that are not in flight, as many as may join those that are."""
    try:
        open_now = session.ask_ahead(in_flight)
    except NothingToAskError:
        return []
    free = in_flight - len(running)
    return [question for question in open_now if question not in running.values()][:free]


def _take(
    session: Session,
    running: dict[asyncio.Task[float], Region],
    finished: set[asyncio.Task[float]],
    told: Callable[[Session], None] | None,
) -> None:
    """Tells the session what has come, questions in the order they were asked, failures last."""
    came = sorted((task for task in running if task in finished), key=lambda task: task.exception() is not None)
    for task in came:
        if session.done:
            return
        question = running.pop(task)
        tell(session, task.result(), question)
        if told is not None:
            told(session)
