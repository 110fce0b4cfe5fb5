"""The trail: what it keeps and what it masks, and that nobody has a hand in it unseen."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from flaskllm.domain.audit import Actor, at_the_shell, facts_text, masked
from flaskllm.models.types import now
from flaskllm.repositories.audit import HEAD
from flaskllm.repositories.database import Database
from flaskllm.security import ChainKeys
from flaskllm.services.audit import AuditTrail
from tests.databases import database_addresses, with_tables

KEY, OTHER_KEY = "k3Yr9vQ2mZ7pX4tB8nL1wS6dF0hJ5cGa", "zT5uJ8xC1qW4eR7tY0uI3oP6aS9dF2gH"
ALICE = Actor("11111111-1111-4111-8111-111111111111", "alice", "192.0.2.7", "request-1")


@pytest.fixture(params=database_addresses())
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with with_tables(request.param(tmp_path)) as made:
        yield made


@pytest.fixture
def trail(database: Database) -> AuditTrail:
    return AuditTrail(database, ChainKeys([KEY]))


def write(database: Database, trail: AuditTrail, *targets: str, after: dict[str, Any] | None = None) -> None:
    for target in targets:
        with database.transaction() as session:
            trail.record(session, ALICE, "user.change", target, {"role": "user"}, after or {"role": "admin"})


def by_force(database: Database, *statements: str, **values: Any) -> None:
    """As somebody does it who owns the database: the guards are taken away first."""
    with database.engine.begin() as connection:
        if database.is_sqlite:
            connection.execute(text("DROP TRIGGER IF EXISTS audit_no_update"))
            connection.execute(text("DROP TRIGGER IF EXISTS audit_no_delete"))
        else:
            connection.execute(text("ALTER TABLE audit DISABLE TRIGGER ALL"))
        for statement in statements:
            connection.execute(text(statement), values)


# -- writing ----------------------------------------------------------------------------------------------------------


def test_a_row_says_who_did_what_to_what(database: Database, trail: AuditTrail) -> None:
    write(database, trail, "bob")
    (row,), following = trail.list(limit=10)
    assert (row.number, row.actor_id, row.actor_name, row.action) == (1, ALICE.id, "alice", "user.change")
    assert (row.target, row.address, row.request_id) == ("bob", "192.0.2.7", "request-1")
    assert (row.before, row.after, following) == ('{"role":"user"}', '{"role":"admin"}', None)
    assert abs(row.at - now().timestamp() * 1000) < 60_000


def test_a_row_goes_when_its_change_goes(database: Database, trail: AuditTrail) -> None:
    write(database, trail, "a")
    with database.transaction() as session:
        trail.record(session, ALICE, "user.change", "b", None, None)
        session.rollback()
    write(database, trail, "c")
    assert [row.target for row in trail.list(limit=10)[0]] == ["c", "a"]
    assert trail.verify().count == 2


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor_name = 'mallory'", "DELETE FROM audit"])
def test_the_database_itself_refuses_changes(database: Database, trail: AuditTrail, statement: str) -> None:
    write(database, trail, "a")
    with pytest.raises(DBAPIError, match="never changed"), database.engine.begin() as connection:
        connection.execute(text(statement))
    assert trail.verify().count == 1


def test_odd_texts_are_kept_as_they_are(database: Database, trail: AuditTrail) -> None:
    write(database, trail, "a", after={"name": "Zoë \x00 \ud800 漢字", "none": None, "deep": [{"n": 1.5}]})
    assert json.loads(trail.list(limit=1)[0][0].after or "")["name"] == "Zoë \x00 \ud800 漢字"
    assert trail.verify().is_sound


# -- verifying --------------------------------------------------------------------------------------------------------


def test_an_empty_trail_is_sound(trail: AuditTrail) -> None:
    assert (trail.verify().is_sound, trail.verify().count) == (True, 0)


def test_a_trail_longer_than_one_handful_is_sound(
    database: Database, trail: AuditTrail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flaskllm.services.audit.AT_ONCE", 3)
    write(database, trail, *"abcdef")
    assert (trail.verify().is_sound, trail.verify().count) == (True, 6)


COPY = (
    "INSERT INTO audit SELECT {number}, at, actor_id, actor_name, action, target, address, request_id, before, after,"
)
COPY += " key_id, previous_mac, mac FROM audit WHERE number = {source}"

TAMPERING = {
    "an actor": (["UPDATE audit SET actor_name = 'mallory' WHERE number = 2"], 2, "changed"),
    "no actor id": (["UPDATE audit SET actor_id = NULL WHERE number = 2"], 2, "changed"),
    "a time": (["UPDATE audit SET at = at - 1 WHERE number = 3"], 3, "changed"),
    "a value": (["UPDATE audit SET after = '{}' WHERE number = 5"], 5, "changed"),
    "a signature": (["UPDATE audit SET mac = 'ü' WHERE number = 4"], 4, "changed"),
    "a row out": (["DELETE FROM audit WHERE number = 3"], 3, "missing"),
    "the first row out": (["DELETE FROM audit WHERE number = 1"], 1, "missing"),
    "a row out and the rest moved up": (
        ["DELETE FROM audit WHERE number = 3", "UPDATE audit SET number = 3 WHERE number = 4",
         "UPDATE audit SET number = 4 WHERE number = 5"], 3, "changed",
    ),
    "two rows in each other's place": (
        ["UPDATE audit SET number = 9 WHERE number = 2", "UPDATE audit SET number = 2 WHERE number = 3",
         "UPDATE audit SET number = 3 WHERE number = 9"], 2, "changed",
    ),
    "the tail cut": (["DELETE FROM audit WHERE number > 3"], 4, "cut"),
    "everything out": (["DELETE FROM audit"], 1, "cut"),
    "a row added in front": ([COPY.format(number=0, source=1)], 1, "added"),
    "a row added behind": ([COPY.format(number=6, source=5)], 6, "changed"),
    "the tail and the head cut": (
        ["DELETE FROM audit WHERE number > 3", "DELETE FROM meta WHERE name = 'audit_head'"], 1, "added"
    ),
    "a head of their own": (
        ["DELETE FROM audit WHERE number > 3",
         "UPDATE meta SET value = replace(value, '\"number\": 5', '\"number\": 3') WHERE name = 'audit_head'"],
        4, "changed",
    ),
    "a head that is none": (["UPDATE meta SET value = '[1e999]' WHERE name = 'audit_head'"], 6, "changed"),
    "a key": (["UPDATE audit SET key_id = 'deadbeef' WHERE number = 2"], 2, "unknown key"),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERING)
def test_a_hand_in_the_trail_is_seen(database: Database, trail: AuditTrail, what: str) -> None:
    statements, number, fault = TAMPERING[what]
    write(database, trail, *"abcde")
    by_force(database, *statements)
    found = trail.verify()
    assert (found.broken, found.count) == (number, number - 1)
    assert (found.fault or "").startswith(fault)


def test_a_cut_is_not_mended_by_the_rows_that_follow(database: Database, trail: AuditTrail) -> None:
    """Taking the head out too, so that the chain would begin anew from what is left."""
    write(database, trail, *"abcde")
    by_force(database, "DELETE FROM audit WHERE number > 3", f"UPDATE meta SET value = 'x' WHERE name = '{HEAD}'")
    write(database, trail, "f", "g")
    found = trail.verify()
    assert (found.broken, found.fault) == (4, "cut: the head had been changed when this row was written")


def test_a_row_signed_for_another_place_is_out_of_order(database: Database, trail: AuditTrail) -> None:
    """An old tail grafted on a new one: its rows are genuine, and follow something else."""
    write(database, trail, "a", "b")
    by_force(database, "CREATE TABLE kept AS SELECT * FROM audit WHERE number = 2")
    by_force(database, "DELETE FROM audit", f"DELETE FROM meta WHERE name = '{HEAD}'")
    write(database, trail, "c", "d")
    by_force(database, "DELETE FROM audit WHERE number = 2", "INSERT INTO audit SELECT * FROM kept", "DROP TABLE kept")
    assert (trail.verify().broken, trail.verify().fault) == (2, "reordered: it does not follow the row before it")


def test_keys_are_rotated_under_the_trail(database: Database, trail: AuditTrail) -> None:
    write(database, trail, "a")
    rotated = AuditTrail(database, ChainKeys([OTHER_KEY, KEY]))
    write(database, rotated, "b")
    assert rotated.verify().count == 2
    assert AuditTrail(database, ChainKeys([KEY])).verify().fault is not None
    without = AuditTrail(database, ChainKeys([OTHER_KEY])).verify()
    assert (without.broken, (without.fault or "")[:11]) == (1, "unknown key")


def test_writers_at_once_make_one_chain(database: Database, trail: AuditTrail) -> None:
    engine = database.engine
    trails = [AuditTrail(database, ChainKeys([KEY])) for _ in range(4)]
    faults: list[Exception] = []

    def work(mine: AuditTrail) -> None:
        try:
            write(database, mine, *"abcdefghij")
        except Exception as error:  # noqa: BLE001  (told below)
            faults.append(error)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in trails]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert (trail.verify().is_sound, trail.verify().count) == (True, 40)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


# -- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    ["fl_" + "a" * 49, "sk-proj-abcdefgh12345", "Bearer abcdefgh1234", "https://user:pa55word@host/", "AIza" + "x" * 35,
     "0123456789abcdef0123456789abcdef", "https://host/?api_key=hunter22", "eyJhbGciOiJI.eyJzdWIiOiI.abc",
     "$argon2id$v=19$m=19456$abc$def"],
)  # fmt: skip
def test_what_has_the_shape_of_a_secret_is_masked(value: str) -> None:
    assert "••••" in masked({"note": [f"x {value} y"]})["note"][0]
    assert not any(part in str(masked({"note": value})) for part in ("pa55", "hunter", "abcdefgh1234", "0123456789ab"))


@pytest.mark.parametrize(
    "value",
    ["eyJ" * 100_000, "-eyJ" * 75_000, "eyJaaaaaaaa." * 25_000, "fl_" * 100_000, "bearer" + " " * 300_000,
     "://a:" * 60_000, "$argon2" * 40_000, "aA1" * 100_000 + "é"],
)  # fmt: skip
def test_no_text_makes_masking_slow(value: str) -> None:
    began = time.process_time()
    masked({"user_text": value})
    assert time.process_time() - began < 1


def test_what_stands_before_a_token_does_not_hide_it() -> None:
    for start in ("jwt-", "x.", "eyJ.", "eyJeyJ", "_"):
        assert "eyJzdWIiOiI" not in masked(f"{start}eyJhbGciOiJI.eyJzdWIiOiI.abc")


def test_what_has_the_name_of_a_secret_is_masked() -> None:
    found = masked(
        {"password": "x", "api_key": "••••1234", "connection": {"X-Api-Key": ["abc"], "tokens_per_minute": 5}}
    )
    assert found == {
        "password": "••••", "api_key": "••••1234", "connection": {"X-Api-Key": ["••••"], "tokens_per_minute": 5}
    }  # fmt: skip


def test_values_that_json_does_not_have_are_told_in_words() -> None:
    told = json.loads(facts_text({"at": now(), "amount": Decimal("0.5"), "raw": b"secret", "on": True}) or "")
    assert told == {"at": told["at"], "amount": "0.5", "raw": "••••", "on": True}
    assert datetime.fromisoformat(told["at"]).tzinfo is not None


def test_who_has_no_name_at_the_shell_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 987_654_321)  # a container's user stands in no list of users
    assert at_the_shell().name == "cli:987654321"


@pytest.mark.parametrize("value", ["11111111-1111-4111-8111-111111111111", "claude-opus-4-20250514", "10.0.0.0/8"])
def test_what_is_no_secret_stays(value: str) -> None:
    assert masked({"id": value}) == {"id": value}
