"""Duplicate rows of a real bulk insert, from the affected-row count alone."""

import random
import sqlite3

import pytest

from tandem.queries import AdditivityError, CountError, InsertCount, Prior, Region, Session, confirm, locate

INSERT = "INSERT OR IGNORE INTO people VALUES (?, ?)"


def batch(rows: int, known: int, seed: int) -> tuple[sqlite3.Connection, list[tuple[int, str]], tuple[int, ...]]:
    """A table that already holds some rows of a batch; the batch; and where in it they are."""
    rng = random.Random(seed)
    people = [(rng.getrandbits(48), f"user{number}@example.org") for number in range(rows)]
    places = tuple(sorted(rng.sample(range(rows), known)))
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE people (id INTEGER, mail TEXT PRIMARY KEY)")
    connection.executemany("INSERT INTO people VALUES (?, ?)", [people[place] for place in places])
    connection.commit()
    return connection, people, places


class Statements:
    """Counts the bulk inserts that SQLite runs to their end."""

    def __init__(self, count: InsertCount):
        self.count, self.number = count, 0

    def __call__(self, region: Region) -> int:
        self.number += 1
        return self.count(region)


@pytest.mark.parametrize("seed", range(8))
def test_five_duplicates_of_16384_rows_take_at_most_32_statements(seed: int):
    connection, people, places = batch(16_384, 5, seed)
    count = Statements(InsertCount(connection, INSERT, people))
    k = count(Region([(0, len(people))]))
    assert k == 5
    session = Session(Prior.uniform(len(people), k=k, at_most_one=True), seed=seed)
    assert locate(session, count) == places
    assert count.number <= 32
    confirm(session, count)
    assert connection.execute("SELECT count(*) FROM people").fetchone() == (5,)


def test_work_that_is_not_committed_stays_and_can_be_undone():
    connection, people, _ = batch(8, 2, seed=0)
    connection.execute("INSERT INTO people VALUES (1, 'new')")
    assert InsertCount(connection, INSERT, people)(Region([(0, 8)])) == 2
    assert connection.execute("SELECT count(*) FROM people").fetchone() == (3,)
    connection.rollback()
    assert connection.execute("SELECT count(*) FROM people").fetchone() == (2,)


def test_rows_that_refuse_each_other_are_noticed():
    connection, people, _ = batch(64, 0, seed=0)
    people[50] = people[7]
    count = InsertCount(connection, INSERT, people)
    session = Session(Prior.uniform(64, k=count(Region([(0, 64)])), at_most_one=True))
    locate(session, count)
    with pytest.raises(AdditivityError, match="counts do not add up"):
        confirm(session, count)


def test_an_error_of_the_database_is_told_and_rolled_back():
    connection, people, _ = batch(8, 2, seed=0)
    with pytest.raises(CountError, match="failed: no such table: persons"):
        InsertCount(connection, "INSERT OR IGNORE INTO persons VALUES (?, ?)", people)(Region([(0, 8)]))
    assert not connection.in_transaction
    # Without OR IGNORE the insert stops at the first known row, after others went in.
    with pytest.raises(CountError, match="UNIQUE constraint failed"):
        InsertCount(connection, "INSERT INTO people VALUES (?, ?)", people)(Region([(0, 8)]))
    assert connection.execute("SELECT count(*) FROM people").fetchone() == (2,)


def test_an_empty_region_needs_no_statement():
    connection, people, _ = batch(8, 2, seed=0)
    assert InsertCount(connection, "not a statement", people)(Region()) == 0


def test_a_module_that_does_not_count_rows_is_refused():
    connection, people, _ = batch(8, 2, seed=0)
    # After a SELECT sqlite3 itself reports -1, as some modules do after every executemany.
    with pytest.raises(CountError):
        InsertCount(connection, "SELECT ?, ?", people)(Region([(0, 8)]))
