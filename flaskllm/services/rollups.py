"""Keeps the roll-ups up to date, and makes them anew; what they are, and why no call is lost, says
`repositories.rollups`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from zoneinfo import ZoneInfo

from flaskllm.repositories import rollups as repository
from flaskllm.repositories.database import Database

AT_ONCE = 1000
"""Calls in one transaction: SQLite's other writers wait for it."""
ROUND_S = 0.5
"""What one round of the housekeeper may take, where there is much to do."""
PAUSE_S = 0.05
"""Between two transactions, so that others come to write."""
PATIENCE_S = 30.0


class Rollups:
    """``zone``: whose days and months the sums are cut by."""

    def __init__(self, database: Database, *, zone: ZoneInfo) -> None:
        self._database = database
        self.zone = zone

    def catch_up(self) -> int:
        """Add what is new to the sums, for half a second at most. Gives how many calls there were."""
        ends, done = time.monotonic() + ROUND_S, 0
        for count in self._steps():
            if count is None:
                break
            done += count
            if time.monotonic() > ends:
                break
        return done

    def finish(self) -> Iterator[int]:
        """Go on until the sums hold every call; gives after each step how many it took. Not while others wait."""
        for count in self._steps():
            yield count or 0
            time.sleep(PAUSE_S)

    def begin_anew(self) -> bool:
        """Let the sums go, so that `finish` makes them of the ledger again: reports read the ledger meanwhile.

        False where another process has been adding up all the time, so that nothing was done.
        """
        ends = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends:
            with self._database.transaction() as session:
                if repository.begin_anew(session, self.zone):
                    return True
            time.sleep(PAUSE_S)
        return False

    def _steps(self) -> Iterator[int | None]:
        """Until there is nothing; None where another process is at it."""
        while self._is_behind():
            with self._database.transaction() as session:
                count = repository.roll(session, self.zone, most=AT_ONCE)
            yield count

    def _is_behind(self) -> bool:
        with self._database.reading() as session:
            return repository.is_behind(session, self.zone)
