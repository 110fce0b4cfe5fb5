"""Every case of ``batches.json`` by its id: submissions in every form, and faults; kills are in ``tests/e2e``."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from werkzeug.test import TestResponse

from flaskllm.domain.batch import MOST_ITEMS
from flaskllm.extensions import db
from flaskllm.services import Services
from flaskllm.services.batch_worker import Bounds
from tests.conftest import MakeApp, provider_environment
from tests.corpus.harness import World, play, verify
from tests.doors.accounts_world import expanded
from tests.upstream import Upstream, faults

CASES = {case["id"]: case for case in json.loads((Path(__file__).parent / "batches.json").read_text(encoding="utf-8"))}
PATH = "/v1/batch/generate"
ELSEWHERE = frozenset({
    "BATCH-FAULT-004", "BATCH-FAULT-006", "BATCH-FAULT-008", "BATCH-FAULT-012", "BATCH-FAULT-014", "BATCH-FAULT-015",
    "BATCH-FAULT-017", "BATCH-FAULT-030",
})  # fmt: skip
"""Played with processes: 006 is the point ``before-ring`` of ``tests/e2e/test_batch_kills.py``, 014 and 015 are in
``tests/e2e/test_batch_faults.py``, the others in ``tests/e2e/test_batches.py``."""
HERE = frozenset(
    {"BATCH-FAULT-019", "BATCH-FAULT-022", "BATCH-FAULT-023", "BATCH-FAULT-024", "PROMPT-002", "BATCH-RESULTS-003"}
)
SUBMITTED = [pytest.param(case, id=name) for name, case in CASES.items() if case["group"] == "batch.submit"]


def _zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.jsonl", b"\0" * 10_000_000)
    return file.getvalue()


UPLOADS: dict[str, Callable[[], dict[str, Any]]] = {
    "zip bomb named .jsonl": lambda: {"data": {"file": (io.BytesIO(_zipped()), "prompts.jsonl")}},
    "1,500 form parts": lambda: {
        "data": {**{f"f{n}": "x" for n in range(1500)}, "file": (io.BytesIO(b'{"prompt": "a"}'), "a.jsonl")}
    },
    "multipart without boundary": lambda: {"data": b'{"prompt": "a"}', "content_type": "multipart/form-data"},
}


def _sent(case: dict[str, Any]) -> dict[str, Any]:
    said = expanded(case["input"])
    if "upload" in said:
        return UPLOADS[said["upload"]]()
    if "jsonl" in said:
        return {"data": said["jsonl"], "content_type": "application/jsonl"}
    if "gen" in said:
        return {"json": {"prompts": [f"prompt {n}" for n in range(said["gen"]["prompts"])]}}
    return {"json": said.get("json", {"prompts": ["a"]}), "headers": said.get("headers", {})}


def _post(world: World, headers: dict[str, str] | None = None, **sent: Any) -> TestResponse:
    person = world.people["user_a"]
    return world.app.test_client().post(PATH, headers={**person.headers, **(headers or {})}, **sent)


def _count(app: Flask, table: str) -> int:
    with app.app_context(), db.engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() or 0)


@pytest.mark.parametrize("case", SUBMITTED)
def test_a_submission(case: dict[str, Any], app: Flask, upstream: Upstream) -> None:
    world = World(app, upstream)
    if case["input"].get("concurrent"):
        _at_once(world, case)
        return
    if "seq" in case["input"]:
        assert _post(world, {"Idempotency-Key": "k"}, json={"prompts": ["a"]}).status_code == 202
        response = _post(world, {"Idempotency-Key": "k"}, json={"prompts": ["b"]})
        jobs_before = 1
    else:
        response, jobs_before = _post(world, **_sent(case)), 0
    assert response.status_code in case["expect"]["status"], response.get_data(as_text=True)[:500]
    if response.status_code == 202:
        assert _count(app, "batch_items") == response.json["total"] <= MOST_ITEMS
    else:
        assert set(response.json["error"]) == {"message", "type", "param", "code"}
        assert _count(app, "batch_jobs") == jobs_before, "nothing of it is written"


def _at_once(world: World, case: dict[str, Any]) -> None:
    """One job, and its id in every answer."""
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: _post(world, **_sent(case)), range(case["input"]["concurrent"])))
    assert {one.status_code for one in found} <= set(case["expect"]["status"])
    assert len({one.json["job_id"] for one in found}) == _count(world.app, "batch_jobs") == 1


@pytest.mark.parametrize("case", ["BATCH-RESULTS-003"])
def test_results_refuse_what_is_no_page(case: str, app: Flask, upstream: Upstream) -> None:
    world = World(app, upstream)
    job = _post(world, json={"prompts": ["a"]}).json["job_id"]
    asked = CASES[case]["input"]["query"]
    response = world.people["user_a"].call("GET", f"/v1/batch/{job}/results?{asked}")
    assert response.status_code in CASES[case]["expect"]["status"]
    assert world.is_alive()


@pytest.mark.parametrize("case", ["PROMPT-002"])
def test_a_prompt_gets_no_secret_out(case: str, app: Flask, upstream: Upstream) -> None:
    world = World(app, upstream)
    verify(play(world, CASES[case]), later=frozenset({"db.unchanged_except_history"}))


@pytest.fixture
def on_openai(make_app: MakeApp, upstream: Upstream) -> World:
    environment = provider_environment(upstream, "openai")
    return World(make_app(**environment, BATCH_ITEM_TIMEOUT="4", BREAKER_FAILURES="0"), upstream)


def _work(world: World) -> None:
    services: Services = world.app.extensions["flaskllm"]
    services.batch_worker.work(Bounds())


def _job(world: World, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = world.people["user_a"].call("GET", f"/v1/batch/{job_id}").json
    assert found["progress"]["total"] == found["progress"]["completed"] + found["progress"]["failed"]
    return found


@pytest.mark.parametrize("case", ["BATCH-FAULT-019"])
def test_an_item_whose_model_never_answers_fails_and_no_other(case: str, on_openai: World) -> None:
    assert case in CASES
    on_openai.upstream.script(faults.hang(), vendor="openai", model="gpt-4o-mini")
    items = [{"prompt": str(n), "model": "gpt-4o-mini" if n == 3 else "gpt-4o"} for n in range(12)]
    job_id = _post(on_openai, json={"requests": items}).json["job_id"]
    _work(on_openai)
    assert _job(on_openai, job_id)["progress"] == {"total": 12, "completed": 11, "failed": 1}
    rows = on_openai.people["user_a"].call("GET", f"/v1/batch/{job_id}/results").json["data"]
    assert [row["index"] for row in rows] == list(range(12))
    assert rows[3]["error"]["code"] == "provider_timeout"


@pytest.mark.parametrize("case", ["BATCH-FAULT-022", "BATCH-FAULT-023"])
def test_retry_is_for_what_failed_once_the_job_is_over(case: str, on_openai: World) -> None:
    assert case in CASES
    on_openai.upstream.script(faults.status(400), vendor="openai", times=2)
    person = on_openai.people["user_a"]
    job_id = _post(on_openai, json={"prompts": [str(n) for n in range(12)]}).json["job_id"]
    assert person.call("POST", f"/v1/batch/{job_id}/retry").status_code == 409
    _work(on_openai)
    assert _job(on_openai, job_id)["progress"]["failed"] == 2
    sent = len(on_openai.upstream.requests)
    assert person.call("POST", f"/v1/batch/{job_id}/retry").json["status"] == "queued"
    _work(on_openai)
    assert _job(on_openai, job_id)["progress"] == {"total": 12, "completed": 12, "failed": 0}
    assert len(on_openai.upstream.requests) == sent + 2
    sent_by_batches = [row for row in on_openai.attempts() if row["door"] == "batch"]
    assert len(sent_by_batches) == len(on_openai.upstream.requests)


@pytest.mark.parametrize("case", ["BATCH-FAULT-024"])
def test_a_job_that_another_version_wrote_is_answered(case: str, on_openai: World) -> None:
    """What this version does not know of is passed over, and what it misses has its usual value."""
    assert case in CASES
    person = on_openai.people["user_a"]
    job_id = _post(on_openai, json={"prompts": [str(n) for n in range(300)]}).json["job_id"]
    with on_openai.app.app_context():
        old = "UPDATE batch_items SET question = :question WHERE job_id = :job AND idx % 2 = :odd"
        asked = {"messages": [{"role": "user", "content": "hello"}]}
        for odd, question in enumerate((asked, {**asked, "whole": False, "params": {}, "of_later": {"a": [1]}})):
            db.session.execute(text(old), {"question": json.dumps(question), "job": job_id, "odd": odd})
        details = "UPDATE batch_jobs SET details = :details WHERE id = :job"
        db.session.execute(text(details), {"details": '{"of_later": true}', "job": job_id})
        db.session.commit()
    _work(on_openai)
    assert _job(on_openai, job_id)["progress"] == {"total": 300, "completed": 300, "failed": 0}
    page = person.call("GET", f"/v1/batch/{job_id}/results?limit=200").json
    found = page["data"] + person.call("GET", f"/v1/batch/{job_id}/results?limit=200&after={page['next']}").json["data"]
    assert [(row["index"], row["status"]) for row in found] == [(index, "completed") for index in range(300)]
    assert len(on_openai.upstream.requests) == 300


def test_each_case_is_played_somewhere() -> None:
    submitted = {case["id"] for case in CASES.values() if case["group"] == "batch.submit"}
    assert submitted | ELSEWHERE | HERE == set(CASES)
