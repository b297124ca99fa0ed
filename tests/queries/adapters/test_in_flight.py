import asyncio
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.queries import (
    AdditivityError,
    BatchGreedyPolicy,
    CountError,
    DyadicPolicy,
    Prior,
    Region,
    Session,
    search,
    search_async,
)

HIDDEN = [77, 400, 901]


class Oracle:
    """Counts after a random while, so that answers come in another order than questions."""

    def __init__(self, seed: int, most: float = 0.003):
        self.rng, self.most, self.open, self.widest, self.asked = random.Random(seed), most, 0, 0, list[Region]()

    async def __call__(self, region: Region) -> int:
        self.asked.append(region)
        self.open += 1
        self.widest = max(self.widest, self.open)
        await asyncio.sleep(self.rng.random() * self.most)
        self.open -= 1
        return region.count(HIDDEN)


@pytest.mark.parametrize("policy", [None, BatchGreedyPolicy(size=2), DyadicPolicy()], ids=lambda p: type(p).__name__)
def test_objects_are_found_with_several_in_flight(policy: object):
    oracle, session = Oracle(0), Session(Prior.uniform(1024, k=3), policy=policy, seed=1)  # type: ignore[arg-type]
    reached = asyncio.run(search_async(session, oracle, in_flight=3))
    assert reached.done
    assert session.answer == tuple(HIDDEN)
    assert oracle.widest == 3


@pytest.mark.parametrize("in_flight", [8, 16])
def test_many_in_flight_wait_rather_than_let_the_posterior_grow(in_flight: int):
    async def count(region: Region) -> int:
        await asyncio.sleep(rng.random() * 0.003)
        rows.append(len(session.posterior.rows(10**9).weight_R))
        return region.count(hidden)

    rng, rows, hidden = random.Random(0), list[int](), [101, 5000, 9973, 16_000]
    session = Session(Prior.uniform(2**14, k=4), seed=7)
    asyncio.run(search_async(session, count, in_flight=in_flight))
    assert session.answer == tuple(hidden)
    assert max(rows) < 2000
    assert len(rows) <= 32  # 25 one after the other


def test_the_same_seed_and_order_of_answers_ask_the_same():
    def asked(seed: int) -> list[Region]:
        async def counts(region: Region) -> int:
            regions.append(region)
            for _ in range(1 + len(regions) % 3):
                await asyncio.sleep(0)
            return region.count(HIDDEN)

        regions: list[Region] = []
        asyncio.run(search_async(Session(Prior.uniform(1024, k=3), seed=seed), counts))
        return regions

    assert asked(3) == asked(3)


def test_questions_beside_an_open_one_are_not_it():
    """Before any answer three questions about one object are three independent halves."""
    first, second, third = Session(Prior.uniform(64, k=1)).ask_ahead(3)
    cells = [tuple(cell in region for region in (first, second, third)) for cell in range(64)]
    assert all(cells.count(signature) == 8 for signature in set(cells))
    assert len(set(cells)) == 8


def test_answers_are_told_in_any_order():
    session = Session(Prior.uniform(64, k=1))
    open_now = session.ask_ahead(3)
    for region in reversed(open_now):
        session.tell(region.count([9]), region)
    assert session.bits_left == 3.0
    assert session.posterior.occupied()[9] == pytest.approx(1 / 8)
    with pytest.raises(ValueError, match="is not open"):
        session.tell(1, open_now[0])


def test_failures_leave_a_session_that_goes_on():
    async def breaks(region: Region) -> int:
        if session.questions >= 4:
            raise CountError("out of order")
        return region.count(HIDDEN)

    async def wrong(region: Region) -> int:
        return 7

    session = Session(Prior.uniform(1024, k=3))
    with pytest.raises(CountError):
        asyncio.run(search_async(session, breaks))
    with pytest.raises(AdditivityError, match="answer=7"):
        asyncio.run(search_async(session, wrong))
    assert session.questions >= 4
    assert asyncio.run(search_async(session, Oracle(2))).guess == tuple(HIDDEN)


def test_budgets_stop_it():
    oracle, session = Oracle(0), Session(Prior.uniform(1024, k=3))
    reached = asyncio.run(search_async(session, oracle, max_questions=5))
    assert (reached.stopped, reached.questions, len(oracle.asked)) == ("questions", 5, 5)
    reached = asyncio.run(search_async(session, Oracle(0, most=60.0), max_seconds=0.05))
    assert (reached.stopped, reached.questions) == ("seconds", 5)
    with pytest.raises(ValueError, match="in_flight=0"):
        asyncio.run(search_async(session, oracle, in_flight=0))


def test_cancelled_searches_cancel_their_questions_and_go_on():
    async def cancelled() -> None:
        task = asyncio.ensure_future(search_async(session, slow))
        while len(begun) < 4:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stopped == [1] * 4

    async def slow(region: Region) -> int:
        if session.questions < 3:
            return region.count(HIDDEN)
        begun.append(1)
        try:
            await asyncio.sleep(60)
        finally:
            stopped.append(1)
        return 0

    begun: list[int] = []
    stopped: list[int] = []
    session = Session(Prior.uniform(1024, k=3))
    asyncio.run(cancelled())
    waiting = session.ask_all()
    assert len(waiting) == 4
    asked: list[Region] = []

    def counts(region: Region) -> int:
        asked.append(region)
        return region.count(HIDDEN)

    assert search(session, counts).guess == tuple(HIDDEN)
    assert asked[:4] == waiting


def test_ctrl_c_leaves_a_file_to_go_on_from(tmp_path: Path):
    path = tmp_path / "s.json"
    code = f"""
import asyncio, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from tandem.queries import Prior, Session, search_async
session = Session(Prior.uniform(1024, k=3))
async def count(region):
    if session.questions >= 4:
        print("waiting", flush=True)
        await asyncio.sleep(60)
    return region.count({HIDDEN})
try:
    asyncio.run(search_async(session, count, lambda session: session.save({str(path)!r})))
except KeyboardInterrupt:
    print("interrupted")
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0].endswith("interrupted\n")
    session = Session.load(path)
    assert session.questions >= 4
    assert asyncio.run(search_async(session, Oracle(1))).guess == tuple(HIDDEN)
