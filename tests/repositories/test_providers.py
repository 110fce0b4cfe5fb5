"""The catalogue's queries."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import event

from flaskllm.models.catalogue import ModelRow, ProviderKeyRow, ProviderRow
from flaskllm.models.types import now
from flaskllm.repositories.database import Database
from flaskllm.repositories.providers import (
    add_key,
    add_model,
    add_provider,
    bump_version,
    get_key,
    get_model,
    get_provider,
    load_providers,
    read_version,
)
from tests.services.catalogue_world import database_at


def filled(tmp_path: Path, providers: int = 5) -> Database:
    database = database_at(tmp_path / "app.db")
    with database.transaction() as session:
        for number in range(providers):
            add_provider(session, ProviderRow(id=f"p{number}", kind="demo"))
            add_model(session, ModelRow(provider_id=f"p{number}", name="m", backend_model="m"))
            add_key(session, ProviderKeyRow(id=f"k{number}", provider_id=f"p{number}", ciphertext="c", last4="1234"))
    return database


def test_the_whole_catalogue_takes_five_queries_however_large_it_is(tmp_path: Path) -> None:
    database, queries = filled(tmp_path, providers=60), []
    event.listen(database.engine, "before_cursor_execute", lambda *arguments: queries.append(arguments[2]))
    with database.reading() as session:
        read_version(session)
        rows = load_providers(session)
        assert [len(row.models) + len(row.keys) for row in rows] == [2] * 60
    assert len(queries) == 5


def test_the_version_begins_at_nought_and_rises_with_each_change(tmp_path: Path) -> None:
    database = database_at(tmp_path / "app.db")
    with database.transaction() as session:
        assert read_version(session) == 0
        bump_version(session)
        bump_version(session)
        assert read_version(session) == 2


def test_changes_at_once_each_raise_the_version(tmp_path: Path) -> None:
    database = database_at(tmp_path / "app.db")

    def change(_: int) -> None:
        with database.transaction() as session:
            bump_version(session)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(24)))
    with database.reading() as session:
        assert read_version(session) == 24


def test_a_deleted_provider_is_only_there_for_those_who_ask_for_it(tmp_path: Path) -> None:
    database = filled(tmp_path, providers=2)
    with database.transaction() as session:
        session.get_one(ProviderRow, "p0").deleted_at = now()
    with database.reading() as session:
        assert [row.id for row in load_providers(session)] == ["p1"]
        assert len(load_providers(session, deleted=True)) == 2
        assert get_provider(session, "p0") is None
        assert get_provider(session, "p0", deleted=True) is not None


def test_a_key_is_found_only_as_its_own_providers(tmp_path: Path) -> None:
    database = filled(tmp_path)
    with database.reading() as session:
        assert get_key(session, "p1", "k1") is not None
        assert get_key(session, "p2", "k1") is None


def test_a_deleted_model_is_not_found(tmp_path: Path) -> None:
    database = filled(tmp_path)
    with database.transaction() as session:
        session.query(ModelRow).filter_by(provider_id="p0").one().deleted_at = now()
    with database.reading() as session:
        assert get_model(session, "p0", "m") is None
        assert get_model(session, "p1", "m") is not None
