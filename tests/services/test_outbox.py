"""The outbox: what is told outside is sent until it is taken, by one sender at a time, under one id."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm.domain.event import Event
from flaskllm.errors import ForbiddenTarget, InvalidRequest
from flaskllm.extensions import db
from flaskllm.net.egress import PublicSession
from flaskllm.repositories import outbox as repository
from flaskllm.repositories.committer import Connection
from flaskllm.repositories.database import Database
from flaskllm.repositories.ledger import now_ms
from flaskllm.security import WebhookSigner
from flaskllm.services.outbox import MOST_TRIES, Outbox, pause_ms
from tests.conftest import MakeApp
from tests.databases import database_addresses, fresh_tables
from tests.receivers import DROP, HANG, MOVED, SECRET, Receiver, receiving

LOCAL = PublicSession((), ("127.0.0.1",))
MakeOutbox = Callable[..., Outbox]
on_both = pytest.mark.parametrize("here", database_addresses(), indirect=True)


@pytest.fixture
def here(request: Any, make_app: MakeApp, tmp_path: Any) -> Iterator[Flask]:
    """On SQLite, unless a test names its databases."""
    address = getattr(request, "param", None)
    app = make_app(**({"DATABASE_URL": address(tmp_path)} if address else {}))
    with app.app_context():
        if address:
            fresh_tables()
        yield app
        db.session.remove()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def make_outbox(here: Flask) -> Iterator[MakeOutbox]:
    made: list[Outbox] = []

    def make(**given: Any) -> Outbox:
        usual = {"operators": LOCAL, "callers": LOCAL, "signer": WebhookSigner(SECRET), "alert_url": None}
        made.append(Outbox(Database(db.engine), **{**usual, **given}))
        return made[-1]

    yield make
    for one in made:
        one.stop()
        one.wait(10)


def happens(name: str, url: str | None, lane: str = "somebody") -> None:
    """An event, committed."""
    connection = Connection(db.engine)
    connection.begin()
    repository.add(connection, Event(name, "batch.completed", now_ms(), {"job_id": name}, lane=lane, url=url))
    connection.commit()
    connection.close()


def rows() -> list[Any]:
    """``id, tries, next_at, sent_at`` of each."""
    with db.engine.connect() as connection:
        return list(connection.execute(text("SELECT id, tries, next_at, sent_at FROM outbox ORDER BY id")))


def change(statement: str) -> None:
    with db.engine.begin() as connection:
        connection.execute(text(f"UPDATE outbox SET {statement}"))


def send(outbox: Outbox) -> Any:
    """One try of whatever is due; the first row after it."""
    outbox.deliver()
    outbox.wait(15)
    return rows()[0]


@on_both
def test_an_event_is_sent_signed_and_once(make_outbox: MakeOutbox, receiver: Receiver) -> None:
    happens("one", receiver.url)
    outbox = make_outbox()
    row = send(outbox)
    assert (row.tries, row.next_at) == (1, None)
    assert abs(row.sent_at - now_ms()) < 60_000
    send(outbox)
    (received,) = receiver.got
    assert received.event["type"] == "batch.completed"
    assert received.event["data"] == {"job_id": "one"}
    assert (received.id, received.path) == ("one", "/told?token=of-the-receiver")


@pytest.mark.parametrize("fault", [500, 404, 429, MOVED, DROP, HANG])
def test_what_is_not_taken_is_sent_again_with_the_same_id(
    make_outbox: MakeOutbox, receiver: Receiver, caplog: pytest.LogCaptureFixture, fault: int | str
) -> None:
    happens("one", receiver.url)
    receiver.answers = [fault, fault]
    outbox = make_outbox(seconds=0.5)
    for tries in (1, 2):
        began = now_ms()
        row = send(outbox)
        assert (row.tries, row.sent_at) == (tries, None)
        assert began + 0.9 * pause_ms(tries) - 50 <= row.next_at <= now_ms() + 1.1 * pause_ms(tries) + 50
        change("next_at = next_at + 60000")
        assert send(outbox).tries == tries, "it is not due yet"
        change("next_at = 1")
    assert send(outbox).sent_at is not None
    assert [(one.id, one.body) for one in receiver.got] == [("one", receiver.got[0].body)] * 3
    assert {one.path for one in receiver.got} == {"/told?token=of-the-receiver"}, "no redirect is followed"
    assert all(one.event for one in receiver.got), "each is signed anew"
    assert "of-the-receiver" not in caplog.text


def test_a_receiver_that_is_down_is_told_when_it_is_back(make_outbox: MakeOutbox) -> None:
    with receiving() as gone:
        port = gone.server_port
    happens("one", gone.url)
    outbox = make_outbox()
    assert (send(outbox).tries, send(outbox).sent_at) == (1, None)
    with receiving(port) as back:
        change("next_at = 1")
        assert send(outbox).sent_at is not None
        assert [one.id for one in back.got] == ["one"]


def test_who_says_that_it_is_gone_is_not_asked_again(make_outbox: MakeOutbox, receiver: Receiver) -> None:
    happens("one", receiver.url)
    receiver.answers = [410]
    row = send(make_outbox())
    assert (row.tries, row.next_at, row.sent_at) == (1, None, None)


def test_it_is_given_up_in_the_end_and_told_in_the_log(
    make_outbox: MakeOutbox, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    happens("one", receiver.url)
    receiver.answers = [500]
    change(f"tries = {MOST_TRIES - 1}")
    with caplog.at_level(logging.ERROR):
        row = send(make_outbox())
    assert (row.tries, row.next_at, row.sent_at) == (MOST_TRIES, None, None)
    assert "given up" in caplog.text
    assert 12 < sum(pause_ms(tries) for tries in range(1, MOST_TRIES)) / 3_600_000 < 18, "hours"


@on_both
def test_of_many_senders_one_sends_each(make_outbox: MakeOutbox, receiver: Receiver) -> None:
    for number in range(24):
        happens(f"event {number:02}", receiver.url, lane=f"lane {number % 3}")
    senders = [make_outbox() for _ in range(4)]
    ends = time.monotonic() + 30
    while any(row.sent_at is None for row in rows()) and time.monotonic() < ends:
        for one in senders:
            one.deliver()
        for one in senders:
            one.wait(10)
    assert sorted(one.id for one in receiver.got) == [f"event {number:02}" for number in range(24)]
    assert {row.tries for row in rows()} == {1}


@on_both
def test_a_dead_senders_event_is_sent_again_and_its_late_word_is_not_heard(
    make_outbox: MakeOutbox, receiver: Receiver
) -> None:
    happens("one", receiver.url)
    database = Database(db.engine)
    with database.transaction() as session:
        held = repository.take(session, "somebody", lease_ms=60_000)
    assert held is not None
    assert send(make_outbox()).tries == 1, "it is somebody's"
    change("next_at = 1")
    with database.transaction() as session:
        again = repository.take(session, "somebody", lease_ms=60_000)
    assert again is not None
    assert (again.id, again.body, again.tries) == (held.id, held.body, 2)
    for message, taken in ((held, True), (held, False)):
        with database.transaction() as session:
            repository.end(session, message, taken=taken, again_in_ms=None)
    assert rows()[0].sent_at is None
    assert rows()[0].next_at > now_ms()


def test_somebodys_slow_receiver_keeps_nobody_else_waiting(make_outbox: MakeOutbox, receiver: Receiver) -> None:
    with receiving() as slow:
        slow.answers = [HANG] * 9
        for number in range(9):
            happens(f"slow {number}", slow.url, lane="slow")
        happens("quick", receiver.url, lane="quick")
        outbox = make_outbox()
        outbox.deliver()
        assert [one.id for one in receiver.wait_for(1)] == ["quick"]
        assert len(slow.wait_for(1)) == 1, "its own wait behind one another"
        outbox.stop()


def test_without_threads_one_event_is_sent_at_a_time(make_outbox: MakeOutbox, receiver: Receiver) -> None:
    for name in ("one", "two"):
        happens(name, receiver.url, lane=name)
    outbox = make_outbox(threads=False)
    for sent in (1, 2, 2):
        outbox.deliver()
        assert len(receiver.got) == sent


def test_what_is_due_is_sent_before_a_process_ends(make_outbox: MakeOutbox, receiver: Receiver) -> None:
    for number in range(20):
        happens(f"event {number:02}", receiver.url, lane=f"lane {number}")
    make_outbox().deliver_all(30)
    assert len(receiver.got) == 20


def test_what_a_name_stands_for_is_looked_at_when_it_is_called(make_outbox: MakeOutbox, receiver: Receiver) -> None:
    dialled: list[Any] = []

    def dial(*place: Any) -> Any:
        dialled.append(place)
        raise OSError

    def turned(*opened: str) -> Outbox:
        return make_outbox(callers=PublicSession((), opened, resolve=lambda _name, _port: ["10.0.0.5"], connect=dial))

    turned().check("http://turned.example/")
    happens("one", "http://turned.example/")
    assert send(turned()).sent_at is None
    assert dialled == []
    change("next_at = 1")
    send(turned("turned.example"))
    assert [(str(ip), port) for ip, port, _ in dialled] == [("10.0.0.5", 80)], "where it was opened, it is called"


def test_nothing_goes_out_unsigned(make_outbox: MakeOutbox, receiver: Receiver) -> None:
    happens("one", receiver.url)
    outbox = make_outbox(signer=None)
    assert (send(outbox).tries, send(outbox).sent_at) == (1, None)
    assert receiver.got == []
    with pytest.raises(InvalidRequest, match="WEBHOOK_SECRET"):
        outbox.check(receiver.url)


def test_a_callers_address_is_held_to_the_callers_rules(make_outbox: MakeOutbox, receiver: Receiver) -> None:
    """The operator's own may be private; that opens it to nobody else."""
    outbox = make_outbox(callers=PublicSession(), alert_url=receiver.url)
    with pytest.raises(ForbiddenTarget, match="callback_url"):
        outbox.check(receiver.url)
    happens("a caller's", receiver.url, lane="a")
    happens("the operator's", None, lane="b")
    outbox.deliver_all(10)
    assert [one.id for one in receiver.got] == ["the operator's"]


@on_both
def test_what_was_told_long_ago_is_forgotten(make_outbox: MakeOutbox, receiver: Receiver) -> None:
    for name in ("one", "two"):
        happens(name, receiver.url, lane=name)
    outbox = make_outbox()
    receiver.answers = [500]
    outbox.deliver()
    outbox.wait(10)
    outbox.sweep()
    assert len(rows()) == 2
    change("made_at = 1")
    outbox.sweep()
    (row,) = rows()
    assert row.next_at is not None, "what is still to be sent stays"
