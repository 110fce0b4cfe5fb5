"""Single calls as administrators look at them: who asked, who answered, what went wrong, what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flaskllm.domain.call import CallFilters, CallKey
from flaskllm.errors import DomainError, NotFound
from flaskllm.repositories import requests as repository
from flaskllm.repositories.database import Database
from flaskllm.repositories.requests import AttemptRow, CallRow
from flaskllm.repositories.usage import token_names, user_names
from flaskllm.services.ledger import INTERRUPTED


def _codes(kind: type[DomainError]) -> Iterator[str]:
    yield kind.code
    for narrower in kind.__subclasses__():
        yield from _codes(narrower)


CODES = tuple(sorted({*_codes(DomainError), "client_closed", INTERRUPTED}))
"""What a call may have ended with: an error, its caller's hang-up, or its process's death."""


@dataclass(frozen=True, slots=True)
class CallLine:
    """A call with the names of its user and token, as far as their rows are still there."""

    row: CallRow
    username: str | None
    token_name: str | None


@dataclass(frozen=True, slots=True)
class CallList:
    """``following``: where the next page begins, if there may be one. ``looked_to``: the moment (ms since 1970) at
    which this page ends because so much was looked through."""

    lines: Sequence[CallLine]
    following: CallKey | None
    looked_to: int | None


@dataclass(frozen=True, slots=True)
class WholeCall:
    """A call with all that is known of it; ``job_id``: the batch job that it was an item of."""

    line: CallLine
    attempts: Sequence[AttemptRow]
    job_id: str | None


class CallLog:
    """Reads the ledger's rows; it writes nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, filters: CallFilters, *, limit: int, after: CallKey | None = None) -> CallList:
        """A page, newest first."""
        with self._database.reading() as session:
            page = repository.list_calls(session, filters, limit=limit, after=after)
            users = user_names(session, sorted({row.user_id for row in page.rows}))
            tokens = token_names(session, sorted({row.token_id for row in page.rows if row.token_id}))
        lines = [CallLine(row, users.get(row.user_id), tokens.get(row.token_id or "")) for row in page.rows]
        return CallList(lines, page.following, page.looked_to)

    def get(self, call_id: int) -> WholeCall:
        """Raises `NotFound`."""
        with self._database.reading() as session:
            row = repository.get_call(session, call_id)
            if row is None:
                raise NotFound("There is no such call.")
            users = user_names(session, [row.user_id])
            tokens = token_names(session, [row.token_id] if row.token_id else [])
            line = CallLine(row, users.get(row.user_id), tokens.get(row.token_id or ""))
            return WholeCall(line, repository.attempts_of(session, row), repository.job_of(session, row))
