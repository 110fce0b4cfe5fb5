"""What administrators change is changed in every process within a second; keys are encrypted anew under traffic."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from flaskllm.security import Vault
from tests.databases import MISSING, database_of_its_own
from tests.e2e.servers import Gateway, gunicorn, lacking
from tests.people import PASSWORD
from tests.upstream import RemoteUpstream

pytestmark = pytest.mark.e2e
PROCESSES = "3"
ASKED = 40
"""Connections spread over the processes by the kernel: enough to reach each of them."""
ASK = {"model": "own-model", "messages": [{"role": "user", "content": "hi"}]}
FIRST_KEY, SECOND_KEY = "cmFuZG9tLWxvb2tpbmctYnV0LWZpeGVkLWtleS0wMDE=", "cmFuZG9tLWxvb2tpbmctYnV0LWZpeGVkLWtleS0wMDI="


def administrator(gateway: Gateway) -> str:
    gateway.administrator("boss")
    return log_in(gateway)


def log_in(gateway: Gateway) -> str:
    status, body, _ = gateway.post("/api/auth/login", {"username": "boss", "password": PASSWORD})
    assert status == 200, body
    return str(body["data"]["access_token"])


def change(gateway: Gateway, admin: str, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
    found, answer, _ = gateway.call(method, path, body, admin)
    assert found == status, answer
    return answer


def statuses(gateway: Gateway, token: str, times: int = ASKED) -> Counter[int]:
    with ThreadPoolExecutor(8) as pool:
        return Counter(pool.map(lambda _: gateway.post("/v1/chat/completions", ASK, token)[0], range(times)))


def own_provider(upstream: RemoteUpstream, *keys: str) -> dict[str, Any]:
    base, named = upstream.openai_base, {"api_key": {"key_value": keys[0]}} if keys else {}
    return {
        "provider_id": "own",
        "provider_type": "openai",
        "connection_params": {"api_base": base},
        "models": [{"model_id": "own-model"}],
        **named,
    }


# -- within a second --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gunicorn(tmp_path_factory.mktemp("three"), WEB_CONCURRENCY=PROCESSES) as running:
        yield running


def test_every_change_reaches_every_process_within_a_second(gateway: Gateway, upstream: RemoteUpstream) -> None:
    admin, token = administrator(gateway), gateway.token()
    assert set(statuses(gateway, token)) == {404}
    change(gateway, admin, "POST", "/providers", own_provider(upstream, upstream.keys["openai"]), status=201)
    time.sleep(1)
    assert set(statuses(gateway, token)) == {200}
    change(gateway, admin, "PUT", "/providers/own/models/own-model", {"enabled": False})
    time.sleep(1)
    assert set(statuses(gateway, token)) == {404}
    change(gateway, admin, "PUT", "/providers/own/models/own-model", {"enabled": True})
    time.sleep(1)
    assert set(statuses(gateway, token)) == {200}
    _a_key_put_aside_by_one_rests_in_all(gateway, upstream, admin, token)
    change(gateway, admin, "DELETE", "/providers/own", status=204)
    time.sleep(1)
    assert set(statuses(gateway, token)) == {404}


def _a_key_put_aside_by_one_rests_in_all(gateway: Gateway, upstream: RemoteUpstream, admin: str, token: str) -> None:
    bad = "sk-that-nobody-accepts-0123456789"
    change(gateway, admin, "POST", "/providers/own/keys", {"key_value": bad}, status=201)
    time.sleep(1)
    statuses(gateway, token, 8)
    time.sleep(1)
    tried = [seen.key for seen in upstream.requests].count(bad)
    assert 1 <= tried <= 8
    assert set(statuses(gateway, token)) == {200}
    assert [seen.key for seen in upstream.requests].count(bad) == tried
    listed = change(gateway, admin, "GET", "/providers/own/keys")
    assert sorted(key["status"] for key in listed) == ["active", "aside"]


# -- a new encryption key ---------------------------------------------------------------------------------------------


def rotate(gateway: Gateway, encryption_keys: str) -> dict[str, Any]:
    gateway.environment["LLM_GATEWAY_ENCRYPTION_KEY"] = encryption_keys
    found: dict[str, Any] = json.loads(gateway.flask("keys", "rotate", "--json"))
    return found


@contextmanager
def traffic(gateway: Gateway, token: str) -> Iterator[Counter[int]]:
    """Calls without a pause until the block ends, counted by their statuses."""
    found, over = Counter[int](), threading.Event()

    def ask() -> None:
        while not over.is_set():
            found[gateway.post("/v1/chat/completions", ASK, token)[0]] += 1

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    yield found
    over.set()
    for thread in threads:
        thread.join(20)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_new_encryption_key_fails_no_call(kind: str, tmp_path: Path, upstream: RemoteUpstream) -> None:
    database = database_of_its_own() if kind == "postgresql" else None
    if kind == "postgresql" and database is None:
        lacking(MISSING)
    keys = [upstream.accept_key("openai", f"sk-rotated-{number}-0123456789abcdef") for number in range(5)]
    both, back = f"{SECOND_KEY},{FIRST_KEY}", f"{FIRST_KEY},{SECOND_KEY}"
    more = {"DATABASE_URL": database} if database else {}
    with gunicorn(tmp_path, WEB_CONCURRENCY="2", LLM_GATEWAY_ENCRYPTION_KEY=both, **more) as gateway:
        admin, token = administrator(gateway), gateway.token()
        change(gateway, admin, "POST", "/providers", own_provider(upstream, keys[0]), status=201)
        for key in keys[1:]:
            change(gateway, admin, "POST", "/providers/own/keys", {"key_value": key}, status=201)
        with traffic(gateway, token) as found:
            done = [rotate(gateway, each) for each in (back, back, both)]
            change(gateway, admin, "PUT", "/providers/own", {"display_name": "looked at again"})
            time.sleep(1.5)
        assert [(each["renewed"], each["current"]) for each in done] == [(5, 0), (0, 5), (5, 0)]
        assert set(found) == {200}
        assert found[200] > 50
    assert {seen.key for seen in upstream.requests} >= set(keys)
    assert stored_keys(database or f"sqlite:///{tmp_path / 'instance' / 'app.db'}") == set(keys)


def stored_keys(address: str) -> set[str]:
    """What the second encryption key alone can read."""
    engine, vault = create_engine(address), Vault([SECOND_KEY])
    with engine.connect() as connection:
        found = connection.execute(text("SELECT ciphertext FROM provider_keys")).scalars().all()
    engine.dispose()
    return {vault.decrypt(each, context="provider_keys.ciphertext:own") for each in found}
