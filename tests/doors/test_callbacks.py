"""``callback_url``: which addresses are taken, and what comes there once a job is over."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm.extensions import db
from flaskllm.services.batch_worker import Bounds
from tests.actors import Caller
from tests.conftest import MakeApp
from tests.receivers import SECRET, Receiver, receiving

PATH = "/v1/batch/generate"
JOB = {"model": "demo", "prompts": ["a secret prompt", "another"]}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return make_app(WEBHOOK_SECRET=SECRET, EXTERNAL_PRIVATE_HOSTS="127.0.0.1")


@pytest.fixture
def strict(make_app: MakeApp) -> Caller:
    """On a gateway that opens no private place."""
    return Caller.on(make_app(WEBHOOK_SECRET=SECRET, EXTERNAL_PRIVATE_HOSTS=""))


def submitted(app: Flask, caller: Caller, **more: Any) -> str:
    """A job that a worker has ended; its id."""
    job_id: str = caller.post(PATH, {**JOB, **more}, status=202).json["job_id"]
    app.extensions["flaskllm"].batch_worker.work(Bounds())
    return job_id


def deliver(app: Flask) -> None:
    app.extensions["flaskllm"].outbox.deliver_all(20)


def count(caller: Caller, table: str) -> int:
    with caller.http.application.app_context(), db.engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def test_the_end_is_told_by_the_jobs_document(app: Flask, receiver: Receiver) -> None:
    caller = Caller.on(app)
    job_id = submitted(app, caller, callback_url=receiver.url, metadata={"of": "mine"})
    deliver(app)
    (received,) = receiver.got
    told = received.event
    assert told["type"] == "batch.completed"
    assert told["data"] == caller.get(f"/v1/batch/{job_id}").json
    assert b"prompt" not in received.body.replace(b"prompt_tokens", b"")
    assert "[demo]" not in received.body.decode()
    deliver(app)
    assert len(receiver.got) == 1


def test_the_check_that_the_page_prints_tells_the_genuine(app: Flask, receiver: Receiver) -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    section = page.partition("## Signed events")[2]
    printed: dict[str, Any] = {}
    exec(section.partition("```python\n")[2].partition("```")[0], printed)
    submitted(app, Caller.on(app), callback_url=receiver.url)
    deliver(app)
    (received,) = receiver.got
    is_genuine, old = printed["is_genuine"], {**received.headers, "webhook-timestamp": "1700000000"}
    assert is_genuine(SECRET, received.headers, received.body)
    assert not is_genuine(SECRET, received.headers, received.body + b" ")
    assert not is_genuine(SECRET, old, received.body)
    assert not is_genuine("whsec_" + "A" * 40, received.headers, received.body)


def test_a_form_may_carry_it_too(app: Flask, receiver: Receiver) -> None:
    caller = Caller.on(app)
    lines = {"file": (io.BytesIO(b'{"prompt": "a"}\n'), "a.jsonl"), "model": "demo", "callback_url": receiver.url}
    answer = caller.http.post(PATH, data=lines, headers=caller.headers)
    assert answer.status_code == 202, answer.text
    app.extensions["flaskllm"].batch_worker.work(Bounds())
    deliver(app)
    assert receiver.got[0].event["data"]["job_id"] == answer.json["job_id"]


def test_the_same_key_tells_once(app: Flask, receiver: Receiver) -> None:
    caller = Caller.on(app)
    body = {**JOB, "callback_url": receiver.url}
    for _ in range(2):
        caller.post(PATH, body, status=202, headers={"Idempotency-Key": "k"})
    app.extensions["flaskllm"].batch_worker.work(Bounds())
    deliver(app)
    assert len(receiver.got) == 1


MALFORMED = [
    "ftp://example.org/",
    "example.org/told",
    "//example.org/",
    "http://user:hush@example.org/",
    "http://user@example.org/",
    "https://example.org/told#part",
    "https://example.org/#",
    "http://127.1/",
    "http://0x7f000001/",
    "http://example.org:99999/",
    "http://exa mple.org/",
    "http://example.org\\@127.0.0.1/",
    "http://example.org/\nHost: other",
    "https://",
    "",
    "https://example.org/" + "a" * 2048,
    7,
    {"url": "https://example.org/"},
]
REFUSED = [
    "http://127.0.0.1/",
    "http://127.0.0.1:8000/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://10.0.0.5/",
    "http://169.254.169.254/latest/meta-data/",
    "http://localhost/",
    "http://intranet/",
    "http://example.org:22/",
]


@pytest.mark.parametrize("form", [PATH, f"{PATH}?dry_run=true"])
def test_an_address_that_is_none_is_named_and_nothing_is_written(strict: Caller, form: str) -> None:
    for url in MALFORMED:
        error = strict.post(form, {**JOB, "callback_url": url}, status=400).json["error"]
        assert (error["code"], error["param"]) == ("invalid_request", "callback_url"), url
        assert error["message"].startswith("callback_url"), url
        assert "hush" not in error["message"]
    assert count(strict, "batch_jobs") == count(strict, "batch_items") == 0


@pytest.mark.parametrize("form", [PATH, f"{PATH}?dry_run=true"])
def test_a_place_that_is_not_to_be_called_is_refused(strict: Caller, form: str) -> None:
    for url in REFUSED:
        answer = strict.post(form, {**JOB, "callback_url": url}, status=403)
        assert answer.headers["X-FlaskLLM-Error"] == "forbidden_target"
        assert answer.json["error"]["message"] == "callback_url: is not open to calls from here", url
    assert count(strict, "batch_jobs") == count(strict, "batch_items") == 0
    strict.post(form, {**JOB, "callback_url": "https://example.org/told?x=1"}, status=200 if "?" in form else 202)


def test_allowed_hosts_narrow_callbacks_as_they_do_calls(make_app: MakeApp) -> None:
    caller = Caller.on(make_app(WEBHOOK_SECRET=SECRET, EXTERNAL_ALLOWED_HOSTS="*.example.org"))
    caller.post(PATH, {**JOB, "callback_url": "https://other.example.com/"}, status=403)
    caller.post(PATH, {**JOB, "callback_url": "https://hooks.example.org/"}, status=202)


def test_without_a_secret_it_is_refused_by_the_settings_name(make_app: MakeApp) -> None:
    caller = Caller.on(make_app())
    error = caller.post(PATH, {**JOB, "callback_url": "https://example.org/"}, status=400).json["error"]
    assert error["param"] == "callback_url"
    assert "WEBHOOK_SECRET" in error["message"]


def test_no_address_stands_in_a_log_or_a_document(
    app: Flask, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caller = Caller.on(app)
    receiver.answers = [500]
    with caplog.at_level(logging.DEBUG):
        job_id = submitted(app, caller, callback_url=receiver.url)
        deliver(app)
        assert caller.get(f"/v1/batch/{job_id}").json.keys() >= {"status", "progress"}
        listed = caller.get("/v1/batch").json
    told = [vars(record) for record in caplog.records]
    assert any("an event was not taken" in record["msg"] for record in told)
    for secret in ("of-the-receiver", "a secret prompt", SECRET):
        assert secret not in json.dumps(told, default=str)
        assert secret not in json.dumps(listed)
