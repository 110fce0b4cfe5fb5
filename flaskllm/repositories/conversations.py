"""Where conversations live: Redis where there is one, else the SQL database, and never both.

Both stores keep one promise, held by one test (`tests/repositories/test_conversations.py`): what is appended in one
step stays together and in order, whoever else appends at the same moment; an owner sees only what is theirs; a
conversation ends ``ttl_s`` seconds after its last message.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import ColumnElement, and_, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from flaskllm.domain.conversation import Carried, Conversation, Cursor, Page, Turn
from flaskllm.domain.text import holdable
from flaskllm.errors import Conflict, NotFound, Unavailable
from flaskllm.models.conversation import ConversationRow, TurnRow
from flaskllm.models.types import new_id
from flaskllm.repositories.database import RETRY_AFTER, Database

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOST_TRIES = 4
MOST_SCANNED = 2_000
"""Conversations that one page of a search looks at in Redis; where there are more, ``next`` goes on behind them."""
SWEEP = 500


class ConversationStore(Protocol):
    """What a store of conversations can do. Each method raises `Unavailable` where the store is away."""

    def read(self, owner_id: str, name: str, *, last: int | None = None) -> tuple[Conversation, list[Turn]]:
        """A conversation and its turns, or its ``last`` ones. Raises `NotFound`."""

    def append(
        self, owner_id: str, name: str, turns: Sequence[Turn], *, title: str, system: str | None, begin: bool
    ) -> bool:
        """Add turns in one step, so that they stay together. A new ``system`` message replaces the old one.

        ``begin``: start the conversation, under that title, if it is not there; else give False and change nothing.
        """

    def page(self, owner_id: str, *, limit: int, search: str | None = None, after: Cursor | None = None) -> Page:
        """Newest first; ``search`` is looked for literally in titles, whatever the case."""

    def rename(self, owner_id: str, name: str, title: str) -> Conversation:
        """Raises `NotFound`."""

    def delete(self, owner_id: str, name: str) -> None:
        """Raises `NotFound`."""

    def sweep(self) -> int:
        """Delete what has expired, as far as the store does not do it by itself. Gives how many."""


def missing() -> NotFound:
    """One answer for what never was, what is gone, and what is somebody else's."""
    return NotFound("There is no such conversation.")


def fold(text: str) -> str:
    """A title as searches compare it."""
    return unicodedata.normalize("NFKC", text).casefold()


def _microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def _page(found: Sequence[Conversation], limit: int) -> Page:
    """``found`` holds one more than the page where there is a next one."""
    if len(found) <= limit:
        return Page(tuple(found))
    return Page(tuple(found[:limit]), cursor_of(found[limit - 1]))


def cursor_of(conversation: Conversation) -> Cursor:
    return Cursor(_microseconds(conversation.updated_at), conversation.id)


class SqlConversations:
    """Conversations as rows."""

    def __init__(self, database: Database, *, ttl_s: float) -> None:
        self._database = database
        self._ttl = timedelta(seconds=ttl_s)

    def read(self, owner_id: str, name: str, *, last: int | None = None) -> tuple[Conversation, list[Turn]]:
        with self._database.reading() as session:
            row = self._row(session, owner_id, name)
            first = max(0, row.length - last) if last is not None else 0
            rows = session.scalars(
                select(TurnRow)
                .where(TurnRow.conversation_id == row.id, TurnRow.place >= first, TurnRow.place < row.length)
                .order_by(TurnRow.place)
            )
            turns = [Turn(turn.role, turn.content, turn.interrupted, _carried(turn.carried)) for turn in rows]
            return _from_row(row), turns

    def append(
        self, owner_id: str, name: str, turns: Sequence[Turn], *, title: str, system: str | None, begin: bool
    ) -> bool:
        for _ in range(MOST_TRIES):
            try:
                with self._database.transaction() as session:
                    return self._append(session, owner_id, name, turns, title=title, system=system, begin=begin)
            except IntegrityError:  # somebody began the same conversation at the same moment
                continue
        raise Conflict("The conversation is being written by too many at once.")

    def _append(
        self,
        session: Session,
        owner_id: str,
        name: str,
        turns: Sequence[Turn],
        *,
        title: str,
        system: str | None,
        begin: bool,
    ) -> bool:
        """The UPDATE comes first: it takes the lock under which places are given out.

        Whoever begins the conversation at the same moment wins by the unique name, and is appended to on the next try.
        """
        mine, at = _named(owner_id, name), datetime.now(UTC)
        values: dict[str, Any] = {"updated_at": at, "expires_at": at + self._ttl}
        if system is not None:
            values["system"] = holdable(system)
        grown = update(ConversationRow).where(mine, ConversationRow.expires_at > at)
        grown = grown.values(length=ConversationRow.length + len(turns), **values)
        row = session.execute(grown.returning(ConversationRow.id, ConversationRow.length)).one_or_none()
        if row is None and not begin:
            return False
        if row is None:
            session.execute(delete(ConversationRow).where(mine, ConversationRow.expires_at <= at))
            values |= {"title": title, "folded": fold(title), "length": len(turns), "created_at": at}
            identity = {"id": new_id(), "owner_id": owner_id, "name": name}
            session.execute(insert(ConversationRow).values(**identity, **values))
            self._insert(session, identity["id"], 0, turns)
        else:
            self._insert(session, row.id, row.length - len(turns), turns)
        return True

    @staticmethod
    def _insert(session: Session, conversation_id: str, place: int, turns: Sequence[Turn]) -> None:
        session.execute(
            insert(TurnRow),
            [
                {
                    "conversation_id": conversation_id,
                    "place": place + number,
                    "role": turn.role,
                    "content": holdable(turn.content),
                    "interrupted": turn.interrupted,
                    "carried": _carried_text(turn.carried),
                }
                for number, turn in enumerate(turns)
            ],
        )

    def page(self, owner_id: str, *, limit: int, search: str | None = None, after: Cursor | None = None) -> Page:
        row = ConversationRow
        query = select(row).where(row.owner_id == owner_id, row.expires_at > datetime.now(UTC))
        if search:
            query = query.where(row.folded.contains(fold(search), autoescape=True))
        if after is not None:
            at = EPOCH + timedelta(microseconds=after.changed_us)
            query = query.where(or_(row.updated_at < at, and_(row.updated_at == at, row.name < after.name)))
        query = query.order_by(row.updated_at.desc(), row.name.desc()).limit(limit + 1)
        with self._database.reading() as session:
            return _page([_from_row(found) for found in session.scalars(query)], limit)

    def rename(self, owner_id: str, name: str, title: str) -> Conversation:
        with self._database.transaction() as session:
            row = self._row(session, owner_id, name)
            row.title, row.folded = title, fold(title)
            return _from_row(row)

    def delete(self, owner_id: str, name: str) -> None:
        with self._database.transaction() as session:
            session.execute(delete(ConversationRow).where(ConversationRow.id == self._row(session, owner_id, name).id))

    def sweep(self) -> int:
        expired = select(ConversationRow.id).where(ConversationRow.expires_at <= datetime.now(UTC)).limit(SWEEP)
        with self._database.transaction() as session:
            ids = session.scalars(expired).all()
            session.execute(delete(ConversationRow).where(ConversationRow.id.in_(ids)))
        return len(ids)

    @staticmethod
    def _row(session: Session, owner_id: str, name: str) -> ConversationRow:
        live = ConversationRow.expires_at > datetime.now(UTC)
        row = session.scalars(select(ConversationRow).where(_named(owner_id, name), live)).one_or_none()
        if row is None:
            raise missing()
        return row


def _named(owner_id: str, name: str) -> ColumnElement[bool]:
    return and_(ConversationRow.owner_id == owner_id, ConversationRow.name == name)


def _from_row(row: ConversationRow) -> Conversation:
    return Conversation(row.name, row.title, row.length, row.created_at, row.updated_at, row.system)


# Scripts run whole or not at all, which is what keeps a question and its answer together. Redis' own clock orders the
# list, so that the clocks of several web machines need not agree.
_APPEND = """
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
local ttl = tonumber(ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 0 then
  if ARGV[2] == '0' then return 0 end
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'title', ARGV[4], 'folded', ARGV[5], 'created', now)
end
redis.call('HSET', KEYS[1], 'updated', now)
if ARGV[6] == '1' then redis.call('HSET', KEYS[1], 'system', ARGV[7]) end
for place = 8, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[place]) end
redis.call('ZADD', KEYS[3], now, ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', tonumber(now) - ttl * 1000))
for place = 1, 3 do redis.call('PEXPIRE', KEYS[place], ttl) end
return 1
"""
_RENAME = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'title', ARGV[1], 'folded', ARGV[2])
return 1
"""


class RedisConversations:
    """Conversations as a hash, a list of turns, and an index for each owner.

    ``redis``: a client with ``decode_responses`` whose time-outs are short; with Redis away a call ends in
    `Unavailable` rather than in a second history elsewhere.
    """

    def __init__(self, redis: Any, *, ttl_s: float) -> None:
        self._redis = redis
        self._ttl_ms = int(ttl_s * 1000)
        self._append = redis.register_script(_APPEND)
        self._rename = redis.register_script(_RENAME)

    def read(self, owner_id: str, name: str, *, last: int | None = None) -> tuple[Conversation, list[Turn]]:
        meta, turns, _ = _keys(owner_id, name)
        with _unavailable(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(meta).llen(turns)
            if last != 0:
                pipe.lrange(turns, -last if last else 0, -1)
            found, length, *said = pipe.execute()
        if not found:
            raise missing()
        return _from_hash(name, found, length), [_from_json(text) for text in (said[0] if said else [])]

    def append(
        self, owner_id: str, name: str, turns: Sequence[Turn], *, title: str, system: str | None, begin: bool
    ) -> bool:
        about = [self._ttl_ms, int(begin), name, title, fold(title), int(system is not None), holdable(system or "")]
        with _unavailable():
            return bool(self._append(keys=_keys(owner_id, name), args=[*about, *map(_to_json, turns)]))

    def page(self, owner_id: str, *, limit: int, search: str | None = None, after: Cursor | None = None) -> Page:
        needle = fold(search) if search else ""
        found: list[Conversation] = []
        with _unavailable():
            names = self._names(owner_id, after)
            for start in range(0, len(names), SWEEP):
                for conversation, folded in self._several(owner_id, names[start : start + SWEEP]):
                    if needle in folded:
                        found.append(conversation)
                    if len(found) > limit:
                        return _page(found, limit)
        return Page(tuple(found), names[-1] if len(names) == MOST_SCANNED else None)

    def _names(self, owner_id: str, after: Cursor | None) -> list[Cursor]:
        """The next conversations of an owner, newest first."""
        most = after.changed_us if after else "+inf"
        entries = self._redis.zrevrangebyscore(
            _index(owner_id), most, "-inf", start=0, num=MOST_SCANNED, withscores=True
        )
        places = [Cursor(int(score), name) for name, score in entries]
        return [one for one in places if after is None or (one.changed_us, one.name) < (after.changed_us, after.name)]

    def _several(self, owner_id: str, places: Sequence[Cursor]) -> Iterator[tuple[Conversation, str]]:
        """Those of the places that are still there, with their folded titles."""
        with self._redis.pipeline(transaction=False) as pipe:
            for place in places:
                meta, turns, _ = _keys(owner_id, place.name)
                pipe.hgetall(meta).llen(turns)
            answers = pipe.execute()
        for place, meta, length in zip(places, answers[::2], answers[1::2], strict=True):
            if meta:
                yield _from_hash(place.name, meta, length), meta["folded"]

    def rename(self, owner_id: str, name: str, title: str) -> Conversation:
        meta, _, _ = _keys(owner_id, name)
        with _unavailable():
            if not self._rename(keys=[meta], args=[title, fold(title)]):
                raise missing()
        return self.read(owner_id, name, last=0)[0]

    def delete(self, owner_id: str, name: str) -> None:
        meta, turns, index = _keys(owner_id, name)
        with _unavailable(), self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(meta).delete(turns).zrem(index, name)
            was_there, *_ = pipe.execute()
        if not was_there:
            raise missing()

    def sweep(self) -> int:
        """Redis does it by itself."""
        return 0


def _index(owner_id: str) -> str:
    """The braces keep all of an owner's keys on one node of a cluster."""
    return f"conversations:{{{owner_id}}}"


def _keys(owner_id: str, name: str) -> list[str]:
    index = _index(owner_id)
    return [f"{index}:meta:{name}", f"{index}:turns:{name}", index]


def _from_hash(name: str, found: Mapping[str, str], length: int) -> Conversation:
    created, updated = (EPOCH + timedelta(microseconds=int(found[field])) for field in ("created", "updated"))
    return Conversation(name, found["title"], length, created, updated, found.get("system"))


def _to_json(turn: Turn) -> str:
    mark: dict[str, Any] = {"interrupted": True} if turn.interrupted else {}
    if turn.carried:
        mark["carried"] = _carried_text(turn.carried)
    return json.dumps({"role": turn.role, "content": holdable(turn.content), **mark}, ensure_ascii=False)


def _from_json(text: str) -> Turn:
    found = json.loads(text)
    return Turn(found["role"], found["content"], bool(found.get("interrupted")), _carried(found.get("carried")))


def _carried_text(carried: Carried | None) -> str | None:
    if carried is None:
        return None
    return holdable(json.dumps({"provider": carried.provider, "fields": carried.fields}, ensure_ascii=False))


def _carried(text: str | None) -> Carried | None:
    return Carried(**json.loads(text)) if text else None


@contextmanager
def _unavailable() -> Iterator[None]:
    from redis.exceptions import RedisError

    try:
        yield
    except RedisError as error:
        raise Unavailable("The store of conversations cannot be reached.", retry_after=RETRY_AFTER) from error
