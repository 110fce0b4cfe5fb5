"""What was said in calls: stored where ``STORE_PROMPTS`` is on, encrypted, for a while, and looked at on the record."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text, update

from flaskllm.domain.body import MOST_CHARS, Body, Said
from flaskllm.extensions import db
from flaskllm.models.body import BodyRow
from flaskllm.models.ledger import CallRow
from flaskllm.repositories import bodies as repository
from tests.actors import Caller
from tests.conftest import MakeApp, provider_environment
from tests.doors.test_admin_people import PAYLOADS, last_entry
from tests.doors.test_callbacks import submitted
from tests.doors.visitor import Visitor, words
from tests.upstream import Upstream, faults

SECRET = "the merger with Umbrella is on Thursday"


@pytest.fixture
def storing(make_app: MakeApp, upstream: Upstream) -> Flask:
    return make_app(STORE_PROMPTS="true", **provider_environment(upstream, "openai"))


def calls(app: Flask) -> list[Any]:
    """Ids of the calls, the oldest first."""
    with app.app_context(), db.engine.connect() as connection:
        return list(connection.execute(text("SELECT id FROM calls ORDER BY id")).scalars())


def stored(app: Flask) -> list[Body]:
    """What is stored of each call, in their order."""
    services = app.extensions["flaskllm"]
    with app.app_context(), db.session() as session:
        rows = session.query(BodyRow, CallRow).join(CallRow, CallRow.id == BodyRow.call_id).order_by(CallRow.id).all()
        opener = services.bodies._sealer
        return [opener.open(body.sealed, user_id=row.user_id, request_id=row.request_id) for body, row in rows]


def look(visitor: Visitor, call_id: int) -> Any:
    return visitor.post(f"/admin/requests/{call_id}/body", at=f"/admin/requests/{call_id}")


# -- off --------------------------------------------------------------------------------------------------------------


def test_nothing_is_stored_unless_it_was_switched_on_and_the_page_says_so(app: Flask) -> None:
    root = Visitor.admin(app)
    Caller.on(app).chat(SECRET, model="demo")
    Caller.on(app).stream(SECRET, model="demo")
    with app.app_context(), db.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM bodies")).scalar_one() == 0
    (first, _) = calls(app)
    assert "Bodies are not stored: STORE_PROMPTS is off." in words(root.get(f"/admin/requests/{first}"))
    refused = look(root, first)
    assert (refused.status_code, "Nothing is stored" in words(refused)) == (404, True)
    assert last_entry(root).action != "request.read_body"


# -- on ---------------------------------------------------------------------------------------------------------------


def chat(caller: Caller) -> None:
    caller.chat(SECRET, model="gpt-4o-mini")


def stream(caller: Caller) -> None:
    caller.stream(SECRET, model="gpt-4o-mini")


def conversation(caller: Caller) -> None:
    caller.post("/llm/chat", {"message": SECRET, "model": "gpt-4o-mini"})


def webhook(caller: Caller) -> None:
    caller.post("/api/v1/webhook", {"prompt": SECRET, "model": "gpt-4o-mini"})


def response(caller: Caller) -> None:
    caller.post("/v1/responses", {"input": SECRET, "model": "gpt-4o-mini", "store": False})


def message(caller: Caller) -> None:
    asked = {"model": "gpt-4o-mini", "max_tokens": 50, "messages": [{"role": "user", "content": SECRET}]}
    caller.post("/v1/messages", asked)


@pytest.mark.parametrize("door", [chat, stream, conversation, webhook, response, message])
def test_question_and_answer_are_stored_at_every_door(
    storing: Flask, upstream: Upstream, door: Callable[[Caller], None]
) -> None:
    upstream.script(faults.text("it is Friday"), vendor="openai")
    door(Caller.on(storing))
    (body,) = stored(storing)
    assert SECRET in body.question[-1].text
    assert (body.question[-1].role, body.answers, body.left_out) == ("user", ("it is Friday",), 0)


def test_each_item_of_a_batch_has_its_own(storing: Flask) -> None:
    submitted(storing, Caller.on(storing))
    found = {body.question[-1].text: body.answers for body in stored(storing)}
    assert found == {"a secret prompt": ("[demo] a secret prompt",), "another": ("[demo] another",)}


def test_an_answer_from_the_cache_is_stored_like_another(storing: Flask) -> None:
    caller = Caller.on(storing)
    asked = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
    for more in ({}, {}, {"stream": True}):
        caller.post("/v1/chat/completions", {**asked, **more}, headers={"X-FlaskLLM-Cache": "use"})
    assert [body.answers for body in stored(storing)] == [("[demo] hello",)] * 3


def test_vectors_and_images_leave_their_question_alone(storing: Flask) -> None:
    caller = Caller.on(storing)
    caller.post("/v1/embeddings", {"model": "text-embedding-3-small", "input": ["one", "two"]})
    assert stored(storing) == [Body((Said("input", "one"), Said("input", "two")))]


def test_a_call_that_failed_has_its_question_and_what_had_come(storing: Flask, upstream: Upstream) -> None:
    upstream.script(faults.status(400), vendor="openai", times=1)
    Caller.on(storing).chat("refused", model="gpt-4o-mini", status=400)
    upstream.script(faults.text("one two three four") + faults.reset_after(3), vendor="openai")
    Caller.on(storing).stream("broken off", model="gpt-4o-mini")
    refused, broken = stored(storing)
    assert refused == Body((Said("user", "refused"),))
    assert broken.question == (Said("user", "broken off"),)
    assert "one two three four".startswith(broken.answers[0])
    assert broken.answers[0]


def test_tools_and_pictures_are_named_and_no_file_is_kept(storing: Flask) -> None:
    picture = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"at": "Ulm"}'}}
    parts = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": picture}}]
    asked = [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    Caller.on(storing).post("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": asked})
    (body,) = stored(storing)
    assert [(one.role, one.text) for one in body.question] == [
        ("system", "be short"), ("user", "what is it?\n[image_url]"),
        ("assistant", '[calls weather] {"at": "Ulm"}'), ("tool", "rain"),
    ]  # fmt: skip


def test_what_is_stored_is_bounded_and_the_newest_is_kept(storing: Flask) -> None:
    asked = [{"role": "user", "content": "a" * MOST_CHARS}, {"role": "user", "content": "b" * (MOST_CHARS - 10)}]
    Caller.on(storing).post("/v1/chat/completions", {"model": "demo", "messages": asked})
    (body,) = stored(storing)
    assert body.question == (Said("user", "a" * 10), Said("user", "b" * (MOST_CHARS - 10)))
    assert sum(map(len, body.answers)) <= MOST_CHARS
    assert body.left_out >= MOST_CHARS - 10


def test_neither_the_database_nor_a_log_holds_it_in_the_clear(storing: Flask, tmp_path: Path) -> None:
    Caller.on(storing).chat(SECRET, model="demo")
    assert [SECRET in body.question[0].text for body in stored(storing)] == [True]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.name == "app.db" for file in files)
    assert any(file.suffix == ".log" for file in files)
    assert [file for file in files if SECRET.encode() in file.read_bytes()] == []


# -- looked at --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", PAYLOADS)
def test_it_is_shown_as_text_by_a_post_that_the_trail_tells_of(storing: Flask, payload: str) -> None:
    root = Visitor.admin(storing)
    Caller.on(storing).chat(payload, model="demo")
    (call_id,) = calls(storing)
    before = root.get(f"/admin/requests/{call_id}")
    assert " ".join(payload.split()) not in words(before)
    assert root.get(f"/admin/requests/{call_id}/body", status=405)
    assert last_entry(root).action != "request.read_body"
    shown = look(root, call_id)
    assert words(shown).count(" ".join(payload.split())) == 2  # the question and its echo
    assert not re.search(r"<script>|<img|onerror=alert\(1\)>|<svg onload", shown.text)
    entry = last_entry(root)
    assert (entry.actor_name, entry.action, entry.target) == ("root", "request.read_body", f"call:{call_id}")
    assert payload not in (entry.after or "")
    assert "request.read_body" in words(root.get(f"/admin/audit?target=call:{call_id}"))


def test_a_form_of_another_site_sees_nothing(storing: Flask) -> None:
    root = Visitor.admin(storing)
    Caller.on(storing).chat(SECRET, model="demo")
    refused = root.http.post(f"/admin/requests/{calls(storing)[0]}/body", data={"csrf": "0" * 64})
    assert (refused.status_code, SECRET in refused.text) == (403, False)


def test_what_was_moved_to_another_call_is_not_opened(storing: Flask) -> None:
    root = Visitor.admin(storing)
    for name in ("first", "second"):
        Caller.on(storing).chat(name, model="demo")
    first, second = calls(storing)
    with storing.app_context(), db.engine.begin() as connection:
        sealed = connection.execute(text("SELECT sealed FROM bodies WHERE call_id = :id"), {"id": first}).scalar_one()
        connection.execute(update(BodyRow).where(BodyRow.call_id == second).values(sealed=sealed))
    refused = look(root, second)
    assert (refused.status_code, "cannot be opened" in words(refused)) == (404, True)
    assert look(root, first).status_code == 200


def test_a_call_from_before_says_that_nothing_is_stored_of_it(storing: Flask) -> None:
    root = Visitor.admin(storing)
    Caller.on(storing).chat("hello", model="demo")
    with storing.app_context(), db.engine.begin() as connection:
        connection.execute(text("DELETE FROM bodies"))
    assert "Nothing is stored of this call" in words(root.get(f"/admin/requests/{calls(storing)[0]}"))


# -- forgotten --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("switch", ["true", "false"])
def test_what_is_old_is_forgotten_also_after_it_was_switched_off(make_app: MakeApp, switch: str) -> None:
    app = make_app(STORE_PROMPTS=switch, STORE_PROMPTS_DAYS="2")
    day = 86_400_000
    now = int(time.time() * 1000)
    ages = [*([3 * day] * (repository.AT_ONCE + 5)), day]
    rows = [{"call_id": n, "made_at": now - age, "sealed": "x"} for n, age in enumerate(ages)]
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(BodyRow.__table__.insert(), rows)
    app.extensions["flaskllm"].bodies.sweep()
    with app.app_context(), db.engine.connect() as connection:
        assert connection.execute(text("SELECT call_id FROM bodies")).scalars().all() == [len(ages) - 1]


def test_the_housekeeper_sees_to_that(storing: Flask) -> None:
    assert "bodies" in [chore.name for chore in storing.extensions["flaskllm"].housekeeper._chores]


# -- sealed anew ------------------------------------------------------------------------------------------------------

OLD, NEW = (f"{name}-key-of-this-gateway-0123456789" for name in ("old", "new"))


def rotated(app: Flask, *options: str) -> Any:
    return app.test_cli_runner().invoke(args=["keys", "rotate", *options])


def test_what_was_stored_is_read_without_the_old_key_once_the_command_has_run(make_app: MakeApp) -> None:
    first = make_app(STORE_PROMPTS="true", LLM_GATEWAY_ENCRYPTION_KEY=OLD)
    address = first.config["SQLALCHEMY_DATABASE_URI"]
    Caller.on(first).chat(SECRET, model="demo")
    (call_id,) = calls(first)
    without = make_app(LLM_GATEWAY_ENCRYPTION_KEY=NEW, DATABASE_URL=address)
    root = Visitor.admin(without)
    assert look(root, call_id).status_code == 404
    told = rotated(without)
    assert (told.exit_code, SECRET in told.output) == (1, False)
    assert "1 of the stored questions and answers cannot be opened by any key" in told.stderr
    both = make_app(LLM_GATEWAY_ENCRYPTION_KEY=f"{NEW},{OLD}", DATABASE_URL=address)
    done = rotated(both, "--json")
    assert (done.exit_code, json.loads(done.stdout)["bodies"]) == (0, {"renewed": 1, "current": 0, "lost": 0})
    assert SECRET in words(look(root, call_id))
    assert rotated(both).stdout.splitlines()[1] == "Questions and answers: 0 encrypted anew, 1 were so already."
    entry = next(one for one in without.extensions["flaskllm"].audit.list(limit=50)[0] if one.action == "bodies.rotate")
    assert (entry.target, entry.after) == ("bodies", '{"renewed":1}')
