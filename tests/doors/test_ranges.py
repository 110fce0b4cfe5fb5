"""``/api/v1/range`` over HTTP: the spreadsheet contract, without a worker."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm.extensions import db
from flaskllm.services import Services
from flaskllm.services.batch_worker import Bounds
from tests.actors import Caller
from tests.conftest import MakeApp, provider_environment
from tests.doors.accounts_world import Person
from tests.upstream import Upstream, faults

PATH = "/api/v1/range"
ROW = {"id", "status", "text", "values", "error_code", "error_message", "cached", "cost"}
KINDS = {"id": str, "status": str, "text": str, "values": list, "error_code": str, "error_message": str}


@pytest.fixture
def openai(make_app: MakeApp, upstream: Upstream) -> Flask:
    return make_app(**provider_environment(upstream, "openai"))


@pytest.fixture
def excel(openai: Flask) -> Caller:
    return Caller.on(openai, scopes=["webhook"])


def rows_of(*texts: str) -> list[dict[str, Any]]:
    return [{"prompt": text} for text in texts]


def ask(caller: Caller, *texts: str, status: int = 200, headers: dict[str, str] | None = None, **more: Any) -> Any:
    """The answer's document, each of its rows held to the one form."""
    answer = caller.post(PATH, {"rows": rows_of(*texts), **more}, status=status, headers=headers).json
    return hold(answer) if status == 200 and not more.get("dry_run") else answer


def hold(answer: Any) -> Any:
    assert set(answer) == {"rows", "done", "continuation", "cost", "estimate"}
    assert set(answer["estimate"]) == {"rows", "new_rows", "cost", "seconds"}
    assert answer["done"] is (answer["continuation"] == "")
    for row in answer["rows"]:
        assert set(row) == ROW
        assert all(type(row[name]) is kind for name, kind in KINDS.items()), row
        assert type(row["cached"]) is bool
        assert type(row["cost"]) in (int, float)
        assert all(type(value) is str for value in row["values"])
    assert answer["cost"] == pytest.approx(sum(row["cost"] for row in answer["rows"]))
    return answer


def go_on(caller: Caller, answer: Any) -> Any:
    return hold(caller.get(f"{PATH}/{answer['continuation']}").json)


def column(answer: Any, name: str) -> list[Any]:
    return [row[name] for row in answer["rows"]]


def count(app: Flask, table: str) -> int:
    with app.app_context(), db.engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def change(app: Flask, statement: str, **values: Any) -> None:
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(text(statement), values)


# -- rows in, the same rows out ----------------------------------------------------------------------------------------


def test_rows_come_back_in_order_and_equal_ones_are_asked_once(excel: Caller, upstream: Upstream) -> None:
    answer = ask(excel, "one", "two", "one", " ", "three", "two")
    assert column(answer, "text") == ["echo: one", "echo: two", "echo: one", "", "echo: three", "echo: two"]
    assert column(answer, "values")[:4] == [["echo: one"], ["echo: two"], ["echo: one"], []]
    assert column(answer, "id") == ["0", "1", "2", "3", "4", "5"]
    assert set(column(answer, "status")) == {"ok"}
    assert len(upstream.requests) == 3
    assert [row["cost"] > 0 for row in answer["rows"]] == [True, True, False, False, True, False]
    assert (answer["estimate"]["rows"], answer["estimate"]["new_rows"]) == (6, 3)
    assert answer["done"]


def test_cells_are_joined_by_line_feeds(excel: Caller, upstream: Upstream) -> None:
    rows = [{"id": "a", "cells": ["Ann", 3.0, 2.5, True, None]}, {"id": "a", "cells": [None, ""]}]
    answer = hold(excel.post(PATH, {"rows": rows}).json)
    assert column(answer, "id") == ["a", "a"]
    assert column(answer, "text") == ["echo: Ann\n3\n2.5\nTRUE\n", ""]


def test_a_row_that_was_answered_before_costs_nothing(excel: Caller, openai: Flask, upstream: Upstream) -> None:
    ask(excel, "one", "two")
    again = ask(excel, "three", "one", "one", "two")
    assert column(again, "cached") == [False, True, True, True]
    assert len(upstream.requests) == 3
    whole = ask(excel, "one", "two", "three")
    assert (whole["cost"], set(column(whole, "cached")), whole["estimate"]["new_rows"]) == (0, {True}, 0)
    assert whole["estimate"]["cost"] == whole["estimate"]["seconds"] == 0
    other = Caller.on(openai, scopes=["webhook"], name="another token of the same owner")
    assert column(ask(other, "one"), "cached") == [True]
    assert len(upstream.requests) == 3


def test_nobody_else_gets_what_was_answered_before(openai: Flask, upstream: Upstream) -> None:
    for name in ("ana", "bob"):
        _, token = Person(openai, name).token(scopes=["webhook"])
        answer = ask(Caller(openai.test_client(), token), "one")
        assert (column(answer, "cached"), answer["cost"] > 0) == ([False], True)
    assert len(upstream.requests) == 2


def test_another_question_is_asked_anew(excel: Caller, openai: Flask, upstream: Upstream) -> None:
    ask(excel, "one")
    for more in (
        {"model": "gpt-4o"},
        {"type": "summary"},
        {"language": "de"},
        {"type": "translation", "language": "de"},
    ):
        assert column(ask(excel, "one", **more), "cached") == [False]
    ask(excel, "one", headers={"X-FlaskLLM-Cache": "none"})
    assert len(upstream.requests) == 6
    root = Person(openai, "root", admin=True)
    changed = {"user_text": "Say it shorter: {{text}}"}
    assert root.call("PUT", "/api/v1/templates/summary", changed).status_code == 200
    time.sleep(1.1)  # templates are read again once a second
    assert column(ask(excel, "one", type="summary"), "cached") == [False]


def test_without_days_to_keep_nothing_is_kept(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(**provider_environment(upstream, "openai"), RANGE_CACHE_DAYS="0")
    caller = Caller.on(app)
    assert [column(ask(caller, "one"), "cached") for _ in range(2)] == [[False], [False]]
    assert count(app, "answers") == 0


def test_of_a_range_that_is_done_nothing_but_the_cache_stays(excel: Caller, openai: Flask) -> None:
    ask(excel, "one", "two", max_cost=1)
    assert {table: count(openai, table) for table in ("batch_jobs", "batch_items", "budgets", "answers")} == {
        "batch_jobs": 0, "batch_items": 0, "budgets": 0, "answers": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    "kind, words, values",
    [
        ("keywords", '["red", "kite"]', ["red", "kite"]),
        ("sentiment", '{"label": "Positive", "score": 0.9}', ["positive", "0.9"]),
        ("entities", '[{"text": "Ann", "type": "PERSON"}, {"text": "\\u0000", "type": "CODE"}]',
         ["PERSON: Ann", "CODE: \ufffd"]),
        ("summary", "Short.", ["Short."]),
    ],
)  # fmt: skip
def test_values_are_texts_whatever_the_kind(
    excel: Caller, upstream: Upstream, kind: str, words: str, values: list[str]
) -> None:
    upstream.script(faults.text(words))
    first, second = ask(excel, "one", type=kind), ask(excel, "one", type=kind)
    assert column(first, "values") == column(second, "values") == [values]
    assert column(first, "text") == column(second, "text")
    assert len(upstream.requests) == 1


def test_a_malformed_answer_is_asked_for_again_and_both_are_paid(excel: Caller, upstream: Upstream) -> None:
    upstream.script(faults.text('{"nothing": 1}'), times=1)
    upstream.script(faults.text('{"label": "mixed", "score": 0.5}'))
    answer = ask(excel, "one", type="sentiment")
    assert column(answer, "values") == [["mixed", "0.5"]]
    assert len(upstream.requests) == 2
    with excel.http.application.app_context(), db.engine.connect() as connection:
        spent = connection.execute(text("SELECT sum(cost) FROM attempts WHERE state = 'settled'")).scalar_one()
    assert answer["cost"] == pytest.approx(spent / 10**9)


# -- what is wrong -----------------------------------------------------------------------------------------------------


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "rows"),
    ({"rows": []}, "rows"),
    ({"rows": "one"}, "rows"),
    ({"rows": [{"prompt": "x"}] * 5001}, "rows"),
    ({"rows": ["one"]}, "rows[0]"),
    ({"rows": [{"prompt": "x"}, {}]}, "rows[1].prompt"),
    ({"rows": [{"prompt": "x", "cells": ["x"]}]}, "rows[0].prompt"),
    ({"rows": [{"prompt": 5}]}, "rows[0].prompt"),
    ({"rows": [{"cells": []}]}, "rows[0].cells"),
    ({"rows": [{"cells": ["x"] * 101}]}, "rows[0].cells"),
    ({"rows": [{"cells": [["x"]]}]}, "rows[0].cells[0]"),
    ({"rows": [{"id": 5, "prompt": "x"}]}, "rows[0].id"),
    ({"rows": [{"id": "x" * 129, "prompt": "x"}]}, "rows[0].id"),
    ({"rows": [{"prompt": "x", "colour": 1}]}, "rows[0].colour"),
    ({"type": "nope"}, "type"),
    ({"type": "summary", "template": "summary"}, "template"),
    ({"type": "translation"}, "language"),
    ({"language": "xx"}, "language"),
    ({"model": ""}, "model"),
    ({"deadline_s": -1}, "deadline_s"),
    ({"deadline_s": 121}, "deadline_s"),
    ({"deadline_s": "1"}, "deadline_s"),
    ({"dry_run": "yes"}, "dry_run"),
    ({"confirm": 1}, "confirm"),
    ({"max_cost": -1}, "max_cost"),
    ({"cell_safe": "no"}, "cell_safe"),
    ({"source": "email"}, "source"),
]


def test_what_is_wrong_is_named_and_nobody_asked(excel: Caller, openai: Flask, upstream: Upstream) -> None:
    for given, field in BAD:
        body = given if not given or "rows" in given else {"rows": rows_of("x"), **given}
        error = excel.post(PATH, body, status=400).json["error"]
        assert error["code"] == "invalid_request"
        assert field in [detail["field"] for detail in error["details"]], field
    assert upstream.requests == []
    assert count(openai, "batch_jobs") == 0


def test_what_is_wrong_with_all_rows_is_told_at_once(excel: Caller, openai: Flask, upstream: Upstream) -> None:
    assert ask(excel, "x", template="nope", status=404)["error"]["code"] == "not_found"
    assert ask(excel, "x", model="nope", status=404)["error"]["code"] == "not_found"
    workbook = Caller.on(openai, scopes=["webhook"], templates=["summary"], models=["gpt-4o"])
    assert ask(workbook, "x", status=403)["error"]["code"] == "forbidden"
    assert ask(workbook, "x", type="summary", model="gpt-4o-mini", status=403)["error"]["code"] == "forbidden"
    ask(workbook, "x", type="summary", model="gpt-4o")
    root = Person(openai, "root", admin=True)
    for name, words in {"toneless": "In the tone {{tone}}: {{text}}", "textless": "In the tone {{tone}}."}.items():
        made = {"name": name, "type": "custom", "user_text": words}
        assert root.call("POST", "/api/v1/templates", made).status_code == 201
    time.sleep(1.1)
    for name in ("toneless", "textless"):
        (told,) = ask(excel, "x", template=name, status=400)["error"]["details"]
        assert told["field"] == "template"
    assert len(upstream.requests) == 1


def test_a_row_that_cannot_be_asked_is_an_error_and_the_others_are_answered(excel: Caller, upstream: Upstream) -> None:
    answer = ask(excel, "one", "x" * 4001, "x" * 4000)
    assert column(answer, "status") == ["ok", "error", "ok"]
    assert column(answer, "error_code") == ["", "invalid_request", ""]
    assert "4000 characters" in answer["rows"][1]["error_message"]
    assert answer["rows"][1]["values"] == []
    alone = ask(excel, "x" * 4001)
    assert (alone["done"], column(alone, "status")) == (True, ["error"])


def test_a_failing_row_fails_alone_and_is_asked_again_the_next_time(excel: Caller, upstream: Upstream) -> None:
    upstream.plan({"mark-1": [faults.status(500), faults.status(500)], "mark-2": [faults.status(400)]})
    answer = ask(excel, "a mark-1", "b", "c mark-2", "a mark-1")
    assert column(answer, "status") == ["error", "ok", "error", "error"]
    assert column(answer, "error_code") == ["provider_error", "", "invalid_request", "provider_error"]
    assert all(column(answer, "error_message")[place] for place in (0, 2, 3))
    again = ask(excel, "a mark-1", "b")
    assert (column(again, "status"), column(again, "cached")) == (["ok", "ok"], [False, True])


def test_the_body_token_of_a_simple_request_does(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(**provider_environment(upstream, "openai"), ALLOW_BODY_TOKEN="true")
    caller = Caller.on(app, scopes=["webhook"])
    body = f'{{"api_token": "{caller.token}", "rows": [{{"prompt": "one"}}]}}'
    response = app.test_client().post(PATH, data=body, content_type="text/plain")
    assert column(hold(response.json), "text") == ["echo: one"]


# -- cells -------------------------------------------------------------------------------------------------------------


def test_nothing_starts_a_formula_where_cells_are_to_be_safe(excel: Caller, upstream: Upstream) -> None:
    upstream.script(faults.text('["=1+1", "fine"]'))
    safe = ask(excel, "one", type="keywords", cell_safe=True)
    assert column(safe, "values") == [["'=1+1", "fine"]]
    assert column(ask(excel, "one", type="keywords"), "values") == [["=1+1", "fine"]]


def test_a_cell_that_is_too_long_is_an_error_and_its_whole_text_free_afterwards(
    excel: Caller, upstream: Upstream
) -> None:
    upstream.script(faults.text("x" * 32_768))
    answer = ask(excel, "one", cell_safe=True)
    assert (column(answer, "status"), column(answer, "error_code")) == (["error"], ["cell_too_long"])
    assert (column(answer, "text"), column(answer, "values")) == ([""], [[]])
    whole = ask(excel, "one")
    assert (column(whole, "status"), len(column(whole, "text")[0]), whole["cost"]) == (["ok"], 32_768, 0)
    assert len(upstream.requests) == 1


# -- money -------------------------------------------------------------------------------------------------------------


def test_a_dry_run_asks_nobody(excel: Caller, openai: Flask, upstream: Upstream) -> None:
    ask(excel, "one")
    told = ask(excel, "one", "two", "two", "three", dry_run=True)
    assert set(told) == {"rows", "new_rows", "cost", "seconds"}
    assert (told["rows"], told["new_rows"]) == (4, 2)
    assert told["cost"] > 0
    assert told["seconds"] > 0
    assert len(upstream.requests) == 1
    assert count(openai, "batch_jobs") == 0


COSTLY = """
models:
  costly:
    provider: openai
    model_name: gpt-4o
    max_tokens: 1000
    prices: [{unitOfMeasure: 1000000, currency: USD, token: {inputValue: 0, outputValue: 1000}}]
"""


@pytest.fixture
def costly(make_app: MakeApp, upstream: Upstream, tmp_path: Path) -> Caller:
    """A model whose answer may come to a dollar, and comes to a tenth of one."""
    overlay = tmp_path / "models.yaml"
    overlay.write_text(COSTLY)
    app = make_app(LLM_GATEWAY_CONFIG_PATH=str(overlay), **provider_environment(upstream, "openai"))
    app.test_cli_runner().invoke(args=["seed"])
    upstream.script(faults.usage(input=0, output=100), vendor="openai")
    return Caller.on(app)


def test_what_is_dear_has_to_be_confirmed(costly: Caller, upstream: Upstream) -> None:
    texts = [f"number {n}" for n in range(12)]
    refused = costly.post(PATH, {"rows": rows_of(*texts), "model": "costly"}, status=409)
    assert refused.headers["X-FlaskLLM-Error"] == refused.json["error"]["code"] == "conflict"
    assert refused.json["error"]["details"][0]["field"] == "confirm"
    assert refused.json["estimate"] == ask(costly, *texts, model="costly", dry_run=True)
    assert refused.json["estimate"]["cost"] > 1
    assert upstream.requests == []
    done = ask(costly, *texts, model="costly", confirm=True)
    assert done["cost"] == pytest.approx(1.2)
    assert ask(costly, *texts, model="costly")["cost"] == 0, "nothing is new, so nothing has to be confirmed"


def test_no_more_is_spent_than_max_cost(costly: Caller, upstream: Upstream) -> None:
    texts = [f"number {n}" for n in range(12)]
    answer = ask(costly, *texts, model="costly", confirm=True, max_cost=1.25)
    states = column(answer, "status")
    assert (states.count("ok"), states.count("error")) == (3, 9), "0.3 are spent, and the next might come to a dollar"
    assert set(column(answer, "error_code")) == {"", "budget_exceeded"}
    assert "max_cost" in "".join(column(answer, "error_message"))
    with costly.http.application.app_context(), db.engine.connect() as connection:
        spent, dearest = connection.execute(text("SELECT sum(cost), max(reserved) FROM attempts")).one()
    assert answer["cost"] * 10**9 == pytest.approx(spent)
    assert spent + dearest > 1.25 * 10**9 > spent
    assert set(column(ask(costly, *texts, model="costly", confirm=True, max_cost=0), "cost")) == {0}


def test_a_key_makes_it_the_same_range(excel: Caller, openai: Flask, upstream: Upstream) -> None:
    def send(**more: Any) -> Any:
        body = {"rows": rows_of("one", "two"), "deadline_s": 0, **more}
        return excel.post(PATH, body, status=409 if more else 200, headers={"Idempotency-Key": "k-1"})

    first, second = send(), send()
    assert second.data == first.data
    assert (second.headers["Idempotency-Replayed"], second.headers["X-FlaskLLM-Cost"]) == ("true", "0")
    assert send(cell_safe=True).json["error"]["code"] == "idempotency_conflict"
    assert count(openai, "batch_jobs") == 1
    done = go_on(excel, first.json)
    assert done["done"]
    assert len(upstream.requests) == 2


def test_an_unpriced_model_is_refused_where_that_is_the_rule(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(**provider_environment(upstream, "llama"), UNPRICED_MODELS="refuse")
    refused = ask(Caller.on(app), "one", status=402)
    assert refused["error"]["code"] == "unpriced_model"
    assert upstream.requests == []


def test_a_tokens_budget_holds(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai, budget={"amount": 0, "period": "day"})
    answer = ask(caller, "one", "two")
    assert column(answer, "error_code") == ["budget_exceeded"] * 2
    assert upstream.requests == []


def test_new_rows_count_one_each_against_the_request_limit(openai: Flask, upstream: Upstream) -> None:
    caller = Caller.on(openai, requests_per_minute=3)
    answer = ask(caller, "1", "2", "3", "4", "5", deadline_s=1)
    assert sorted(column(answer, "status")) == ["ok", "ok", "ok", "pending", "pending"]
    caller.post("/api/v1/webhook", {"prompt": "x"}, status=429)
    texts = [str(place + 1) for place, state in enumerate(column(answer, "status")) if state == "ok"]
    assert set(column(ask(caller, *texts), "status")) == {"ok"}, "what is kept counts nothing"


# -- until the deadline, and on ----------------------------------------------------------------------------------------


@pytest.mark.alone
def test_at_the_deadline_what_is_ready_comes_back_and_the_rest_by_continuation(
    excel: Caller, openai: Flask, upstream: Upstream
) -> None:
    upstream.plan({"mark-7": [faults.delay(4)]})
    began = time.monotonic()
    answer = ask(excel, "one", "a mark-7", "one", "two", deadline_s=1)
    assert time.monotonic() - began < 3.5
    assert answer["rows"][1]["status"] == "pending"
    assert (answer["done"], answer["rows"][1]["text"], answer["rows"][1]["cost"]) == (False, "", 0)
    until = time.monotonic() + 20
    while not answer["done"] and time.monotonic() < until:
        answer = go_on(excel, answer) | {"continuation": answer["continuation"]}
    assert column(answer, "text") == ["echo: one", "echo: a mark-7", "echo: one", "echo: two"]
    assert len(upstream.requests) == 3
    assert go_on(excel, answer)["done"], "it may be asked for again"
    change(openai, "UPDATE batch_jobs SET finished_at = 1")
    services: Services = openai.extensions["flaskllm"]
    services.ranges.sweep()
    excel.get(f"{PATH}/{answer['continuation']}", status=404)
    assert count(openai, "batch_items") == 0


def test_what_is_not_waited_for_is_answered_by_who_asks_for_it(excel: Caller, upstream: Upstream) -> None:
    answer = ask(excel, "one", " ", "two", "x" * 5000, deadline_s=0)
    assert column(answer, "status") == ["pending", "ok", "pending", "error"]
    assert upstream.requests == []
    answer = go_on(excel, answer)
    assert column(answer, "status") == ["ok", "ok", "ok", "error"]
    assert answer["done"]


def test_what_a_worker_answered_is_in_the_cache(excel: Caller, openai: Flask, upstream: Upstream) -> None:
    ask(excel, "one", "two", "one", deadline_s=0)
    services: Services = openai.extensions["flaskllm"]
    assert services.batch_worker.work(Bounds()) == 2
    again = ask(excel, "one", "two", deadline_s=0)
    assert (again["done"], set(column(again, "cached")), again["cost"]) == (True, {True}, 0)


def test_one_thread_alone_answers_all_of_it(excel: Caller, openai: Flask, upstream: Upstream) -> None:
    answer = ask(excel, *"abcdef", deadline_s=0)
    services: Services = openai.extensions["flaskllm"]
    assert services.batch_worker.work_alone(answer["continuation"], seconds=20, lease_s=30) == 6
    assert go_on(excel, answer)["done"]


def test_a_range_that_waits_is_not_asked_twice_for_what_another_asked_meanwhile(
    excel: Caller, upstream: Upstream
) -> None:
    first = ask(excel, "one", "two", deadline_s=0)
    assert ask(excel, "one")["done"]
    answer = go_on(excel, first)
    assert column(answer, "cached") == [True, False]
    assert len(upstream.requests) == 2


def test_a_foreign_continuation_is_as_good_as_none(openai: Flask, upstream: Upstream) -> None:
    ana, bob = (
        Caller(openai.test_client(), Person(openai, name).token(scopes=["webhook"])[1]) for name in ("ana", "bob")
    )
    answer = ask(ana, "one", type="summary", deadline_s=0)
    found = [
        bob.get(f"{PATH}/{continuation}", status=404).json["error"]
        for continuation in (answer["continuation"], "11111111-2222-4333-8444-555555555555", "x" * 300, "%00")
    ]
    assert len({(error["code"], error["message"]) for error in found[:3]}) == 1
    assert found[3]["code"] == "not_found"
    assert upstream.requests == []
    assert go_on(ana, answer)["done"]


def test_a_workbook_token_sees_no_range_of_a_template_that_it_may_not_use(openai: Flask) -> None:
    one = Caller.on(openai, scopes=["webhook"], templates=["summary"])
    other = Caller.on(openai, scopes=["webhook"], templates=["keywords"])
    answer = ask(one, "one", type="summary", deadline_s=0)
    other.get(f"{PATH}/{answer['continuation']}", status=404)
    assert go_on(one, answer)["done"]


def test_rows_wait_for_a_busy_provider_and_not_forever(excel: Caller, openai: Flask, upstream: Upstream) -> None:
    upstream.script(faults.status(429), vendor="openai")
    answer = ask(excel, "one", deadline_s=1)
    assert column(answer, "status") == ["pending"]
    with openai.app_context(), db.engine.begin() as connection:
        (question,) = connection.execute(text("SELECT question FROM batch_items")).one()
        before, _, rest = question.partition('"until":')
        late = f'{before}"until":0{rest[rest.index(",") :]}'
        connection.execute(text("UPDATE batch_items SET question = :late, ready_at = 0"), {"late": late})
        connection.execute(text("UPDATE batch_jobs SET resumes_at = 0"))
    answer = go_on(excel, answer)
    assert (column(answer, "status"), column(answer, "error_code")) == (["error"], ["rate_limited"])


def test_a_token_that_is_revoked_meanwhile_answers_no_more(openai: Flask, upstream: Upstream) -> None:
    ana = Person(openai, "ana")
    token_id, token = ana.token(scopes=["webhook"])
    answer = ask(Caller(openai.test_client(), token), "one", deadline_s=0)
    assert ana.call("DELETE", f"/api/tokens/{token_id}").status_code in (200, 204)
    _, second = ana.token(scopes=["webhook"])
    services: Services = openai.extensions["flaskllm"]
    services.batch_worker.work(Bounds())
    answer = go_on(Caller(openai.test_client(), second), answer)
    assert column(answer, "error_code") == ["token_revoked"]
    assert upstream.requests == []


def test_what_the_caller_says_of_itself_stands_in_each_rows_usage(excel: Caller, openai: Flask) -> None:
    ask(excel, "one", type="summary", headers={"X-Client-Id": "sheets", "X-User-Id": "ana"})
    with openai.app_context(), db.engine.connect() as connection:
        row = connection.execute(text("SELECT door, client_id, claimed_user, metadata FROM calls")).one()
    assert tuple(row) == ("range", "sheets", "ana", '{"template": "summary"}')
