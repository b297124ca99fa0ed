"""An oracle that is a database: how many rows of a bulk insert it refuses, from the affected-row count alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tandem.queries.adapters.count import CountError
from tandem.queries.region import Region


@dataclass(frozen=True)
class InsertCount:
    """Inserts the rows of a region inside a savepoint, counts those that were refused, and rolls back.

    The statement has to skip rows that do not fit instead of failing: `INSERT OR IGNORE` in SQLite, `INSERT ... ON CONFLICT DO
    NOTHING` in PostgreSQL, `INSERT IGNORE` in MySQL. Rows that are refused because of the table add up; rows of the batch that
    refuse each other do not, which `confirm` notices.

    >>> import sqlite3
    >>> connection = sqlite3.connect(":memory:")
    >>> _ = connection.execute("CREATE TABLE people (name PRIMARY KEY)").execute("INSERT INTO people VALUES ('Ada')")
    >>> count = InsertCount(connection, "INSERT OR IGNORE INTO people VALUES (?)", [("Bob",), ("Ada",), ("Eve",)])
    >>> count(Region([(0, 3)]))
    1

    Attributes:
        connection: of any DB-API 2.0 module whose database knows savepoints and whose cursors report `rowcount` after
            `executemany`. Work it holds uncommitted stays as it is.
        statement: inserts one row, with the module's marks for its values.
        rows: what is inserted; item i is rows[i].
    """

    connection: Any
    statement: str
    rows: Sequence[Sequence[Any]]

    def __call__(self, region: Region) -> int:
        """How many rows of the region are refused.

        Raises:
            CountError: the database raises an error, or does not say how many rows it took.
        """
        if not region:
            return 0
        cursor = self.connection.cursor()
        try:
            inserted = self._inserted(cursor, region)
        # A DB-API module has exceptions of its own, which share no class but this one.
        except Exception as error:
            raise CountError(f"statement={self.statement!r} failed: {error}; correct it, or what rows hold") from error
        finally:
            cursor.close()
        if inserted < 0:
            raise CountError(
                "connection does not report how many rows executemany inserted (rowcount is -1); use a module that does"
            )
        return len(region) - inserted

    def _inserted(self, cursor: Any, region: Region) -> int:
        cursor.execute("SAVEPOINT tandem_locate")
        try:
            cursor.executemany(self.statement, [self.rows[item] for item in region])
            return cursor.rowcount
        finally:
            cursor.execute("ROLLBACK TO SAVEPOINT tandem_locate")
            cursor.execute("RELEASE SAVEPOINT tandem_locate")
