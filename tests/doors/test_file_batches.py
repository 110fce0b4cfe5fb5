"""``/v1/files`` and ``/v1/batches``: a file of requests in, files of answers out, for models of any provider."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from urllib3 import encode_multipart_formdata
from werkzeug.test import TestResponse

from flaskllm.extensions import services
from flaskllm.services.batch_worker import Bounds
from tests.actors import Caller
from tests.conftest import MakeApp, provider_environment
from tests.doors.accounts_world import Person
from tests.upstream import Upstream, faults

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
HELLO = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def app(make_app: MakeApp, upstream: Upstream) -> Flask:
    return make_app(**provider_environment(upstream, "openai", "anthropic"))


@pytest.fixture
def ann(app: Flask) -> Caller:
    return Caller.on(app, name="ann")


@pytest.fixture
def work(app: Flask) -> Callable[[], None]:
    """A worker, until nothing is to be done."""

    def once() -> None:
        with app.app_context():
            services.batch_worker.work(Bounds())
            services.file_batches.deliver_all()

    return once


def line(custom_id: Any = "a", body: Any = None, **other: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": HELLO if body is None else body, **other}


def as_file(*lines: Any) -> bytes:
    return b"".join(one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in lines)


def upload(caller: Caller, content: bytes, *, name: str = "in.jsonl", status: int = 200, **fields: str) -> TestResponse:
    body, media = encode_multipart_formdata({"purpose": "batch", **fields, "file": (name, content)})
    answer = caller.http.post("/v1/files", data=body, content_type=media, headers=caller.headers)
    assert answer.status_code == status, answer.get_data(as_text=True)
    return answer


def create(caller: Caller, content: bytes, endpoint: str = CHAT, **more: Any) -> dict[str, Any]:
    file_id = upload(caller, content).json["id"]
    body = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h", **more}
    return dict(caller.post("/v1/batches", body).json)


def batch(caller: Caller, batch_id: str) -> dict[str, Any]:
    return dict(caller.get(f"/v1/batches/{batch_id}").json)


def content_of(caller: Caller, file_id: str) -> list[dict[str, Any]]:
    return [json.loads(one) for one in caller.get(f"/v1/files/{file_id}/content").get_data().splitlines()]


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_kept_told_listed_read_and_deleted(ann: Caller) -> None:
    content = bytes(range(256)) * 9000  # more than two pieces, and no text
    told = upload(ann, content, name="../a b.jsonl").json
    assert (told["object"], told["bytes"], told["filename"]) == ("file", len(content), "a b.jsonl")
    assert (told["purpose"], told["status"]) == ("batch", "processed")
    assert told["expires_at"] - told["created_at"] == 30 * 24 * 3600
    assert ann.get(f"/v1/files/{told['id']}").json == told
    got = ann.get(f"/v1/files/{told['id']}/content")
    assert (got.get_data() == content, got.content_length) == (True, len(content))
    assert ann.get("/v1/files").json["data"] == [told]
    gone = ann.http.delete(f"/v1/files/{told['id']}", headers=ann.headers)
    assert gone.json == {"id": told["id"], "object": "file", "deleted": True}
    for path in (f"/v1/files/{told['id']}", f"/v1/files/{told['id']}/content"):
        assert "No such File" in ann.get(path, status=404).json["error"]["message"]
    assert ann.get("/v1/files").json["data"] == []


def test_files_are_listed_in_pages(ann: Caller) -> None:
    ids = [upload(ann, b"x", name=f"{number}.jsonl").json["id"] for number in range(5)]
    seen, after = [], ""
    while True:
        page = ann.get(f"/v1/files?limit=2&order=asc{after}").json
        seen += [file["id"] for file in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert sorted(seen) == sorted(ids)
    assert len(seen) == 5
    backwards = [file["id"] for file in ann.get("/v1/files").json["data"]]
    assert backwards == seen[::-1]
    assert ann.get("/v1/files?purpose=batch_output").json["data"] == []


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": ""}, "purpose"),
        ({"surprise": "1"}, "surprise"),
        ({"expires_after[anchor]": "created_at"}, "expires_after"),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"}, "expires_after[seconds]"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "1e9"}, "expires_after[seconds]"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "-3600"}, "expires_after[seconds]"),
    ],
)
def test_a_field_of_an_upload_that_is_wrong_is_named(ann: Caller, fields: dict[str, str], field: str) -> None:
    assert upload(ann, b"x", status=400, **fields).json["error"]["param"] == field
    assert ann.get("/v1/files").json["data"] == []


def test_a_file_may_go_sooner(ann: Caller) -> None:
    told = upload(ann, b"x", **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}).json
    assert told["expires_at"] - told["created_at"] == 3600


@pytest.mark.parametrize(
    "query, field",
    [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("order=up", "order"),
        ("purpose=x", "purpose"),
        ("a=1", "a"),
        ("after=file-0", "after"),
        ("limit=1&limit=2", "limit"),
    ],
)
def test_a_parameter_that_is_wrong_is_named(ann: Caller, query: str, field: str) -> None:
    assert ann.get(f"/v1/files?{query}", status=400).json["error"]["param"] == field


def test_a_body_that_is_no_form_is_refused(ann: Caller) -> None:
    assert "multipart/form-data" in ann.post("/v1/files", {}, status=415).json["error"]["message"]
    answer = ann.http.post(
        "/v1/files", data={"purpose": "batch"}, headers=ann.headers, content_type="multipart/form-data"
    )
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "file")


# -- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_answered_by_any_provider(ann: Caller, work: Callable[[], None], upstream: Upstream) -> None:
    models = ("gpt-4o", "claude-sonnet-4-5", "demo")
    names = [model for model in models if ann.http.get(f"/v1/models/{model}", headers=ann.headers).status_code == 200]
    assert "demo" in names
    assert len(names) > 1
    told = create(ann, as_file(*(line(name, HELLO | {"model": name}) for name in names)), metadata={"for": "tests"})
    assert told["id"].startswith("batch_")
    assert told["object"] == "batch"
    assert (told["status"], told["errors"], told["output_file_id"]) == ("in_progress", None, None)
    assert told["request_counts"] == {"total": len(names), "completed": 0, "failed": 0}
    work()
    done = batch(ann, told["id"])
    assert (done["status"], done["metadata"], done["error_file_id"]) == ("completed", {"for": "tests"}, None)
    assert done["created_at"] <= done["in_progress_at"] <= done["finalizing_at"] <= done["completed_at"]
    answers = content_of(ann, done["output_file_id"])
    assert [one["custom_id"] for one in answers] == names
    for one in answers:
        assert (one["response"]["status_code"], one["error"]) == (200, None)
        assert one["response"]["body"]["object"] == "chat.completion"
        assert one["response"]["body"]["choices"][0]["message"]["content"]
    usage = [one["response"]["body"]["usage"] for one in answers]
    assert done["usage"]["input_tokens"] == sum(one["prompt_tokens"] for one in usage)
    assert done["usage"]["output_tokens"] == sum(one["completion_tokens"] for one in usage)
    file = ann.get(f"/v1/files/{done['output_file_id']}").json
    assert (file["purpose"], file["bytes"] > 0) == ("batch_output", True)


def test_what_fails_stands_in_the_error_file(ann: Caller, work: Callable[[], None], upstream: Upstream) -> None:
    upstream.script(faults.status(400), vendor="openai")
    told = create(ann, as_file(line("a"), line("b", HELLO | {"model": "demo"})))
    work()
    done = batch(ann, told["id"])
    assert (done["status"], done["request_counts"]) == ("completed", {"total": 2, "completed": 1, "failed": 1})
    assert [one["custom_id"] for one in content_of(ann, done["output_file_id"])] == ["b"]
    [failed] = content_of(ann, done["error_file_id"])
    assert (failed["custom_id"], failed["response"]["status_code"], failed["error"]) == ("a", 400, None)
    assert failed["response"]["body"]["error"]["type"] == "invalid_request_error"


def test_embeddings_too(ann: Caller, work: Callable[[], None], upstream: Upstream) -> None:
    model = {"model": "text-embedding-3-small", "input": ["one", "two"]}
    told = create(ann, as_file(line("e", model, url=EMBEDDINGS)), EMBEDDINGS)
    work()
    [answer] = content_of(ann, batch(ann, told["id"])["output_file_id"])
    assert [one["object"] for one in answer["response"]["body"]["data"]] == ["embedding"] * 2
    assert told["model"] == "text-embedding-3-small"


@pytest.mark.parametrize(
    "bad, code, param",
    [
        (b"{not json}\n", "invalid_json_line", None),
        (b"[1]\n", "invalid_json_line", None),
        (b'{"custom_id": "b", "custom_id": "c"}\n', "invalid_json_line", None),
        (b"\xff\xfe\n", "invalid_json_line", None),
        (line(None), "missing_required_parameter", "custom_id"),
        (line(""), "invalid_request", "custom_id"),
        (line(7), "invalid_request", "custom_id"),
        (line("x" * 129), "invalid_request", "custom_id"),
        (line("a"), "duplicate_custom_id", "custom_id"),
        (line("b", method="GET"), "invalid_method", "method"),
        (line("b", url="/v1/embeddings"), "invalid_url", "url"),
        (line("b", "hello"), "invalid_request", "body"),
        (line("b", surprise=1), "invalid_request", "surprise"),
        (line("b", HELLO | {"stream": True}), "invalid_request", "body.stream"),
        (line("b", HELLO | {"temperature": "hot"}), "invalid_request", "body.temperature"),
        (line("b", {"model": "gpt-4o"}), "invalid_request", "body.messages"),
        (line("b", HELLO | {"model": "no such"}), "model_not_found", "body.model"),
    ],
)
def test_a_bad_line_fails_the_batch_with_its_number(
    ann: Caller, upstream: Upstream, bad: Any, code: str, param: Any
) -> None:
    told = create(ann, as_file(line("a"), b"\n", bad, line("z")))
    assert (told["status"], told["output_file_id"]) == ("failed", None)
    assert told["failed_at"]
    assert told["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    first = told["errors"]["data"][0]
    assert (first["code"], first["param"], first["line"]) == (code, param, 3)
    assert all(set(one) == {"code", "message", "param", "line"} for one in told["errors"]["data"])
    assert batch(ann, told["id"]) == told
    assert upstream.requests == []


def test_each_bad_line_is_told(ann: Caller) -> None:
    told = create(ann, as_file(*(line("same") for _ in range(300))))
    assert [one["line"] for one in told["errors"]["data"]] == list(range(2, 102))


@pytest.mark.parametrize("content", [b"", b"\n \n\r\n"])
def test_an_empty_file_fails(ann: Caller, content: bytes) -> None:
    told = create(ann, content)
    assert [(one["code"], one["line"]) for one in told["errors"]["data"]] == [("empty_file", None)]


@pytest.mark.parametrize(
    "change, field",
    [
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"input_file_id": None}, "input_file_id"),
        ({"input_file_id": 5}, "input_file_id"),
        ({"endpoint": "/v1/images/generations"}, "endpoint"),
        ({"endpoint": None}, "endpoint"),
        ({"completion_window": "48h"}, "completion_window"),
        ({"completion_window": None}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": []}, "metadata"),
        ({"surprise": 1}, "surprise"),
        ({"output_expires_after": {"seconds": 3600}}, "output_expires_after.anchor"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
        ({"output_expires_after": "soon"}, "output_expires_after"),
    ],
)
def test_a_field_of_a_batch_that_is_wrong_is_named(ann: Caller, change: dict[str, Any], field: str) -> None:
    file_id = upload(ann, as_file(line())).json["id"]
    body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h", **change}
    assert ann.post("/v1/batches", body, status=400).json["error"]["param"].startswith(field)
    assert ann.get("/v1/batches").json["data"] == []


def test_the_output_of_a_batch_is_no_input(ann: Caller, work: Callable[[], None]) -> None:
    told = create(ann, as_file(line("a", HELLO | {"model": "demo"})))
    work()
    output = batch(ann, told["id"])["output_file_id"]
    body = {"input_file_id": output, "endpoint": CHAT, "completion_window": "24h"}
    assert ann.post("/v1/batches", body, status=400).json["error"]["param"] == "input_file_id"


def test_a_cancelled_batch_has_a_line_for_each_request(
    ann: Caller, work: Callable[[], None], upstream: Upstream
) -> None:
    told = create(ann, as_file(line("a"), line("b")))
    stopped = ann.post(f"/v1/batches/{told['id']}/cancel", {}).json
    assert stopped["status"] == "cancelling"
    assert stopped["cancelling_at"]
    work()
    done = batch(ann, told["id"])
    assert (done["status"], done["output_file_id"], upstream.requests) == ("cancelled", None, [])
    lines = content_of(ann, done["error_file_id"])
    assert [(one["custom_id"], one["response"], one["error"]["code"]) for one in lines] == [
        ("a", None, "batch_cancelled"),
        ("b", None, "batch_cancelled"),
    ]
    assert ann.post(f"/v1/batches/{told['id']}/cancel", {}, status=409).json["error"]["message"]


def test_an_expired_batch_says_so(ann: Caller, app: Flask, work: Callable[[], None]) -> None:
    told = create(ann, as_file(line("a")))
    with app.app_context():
        from sqlalchemy import text

        from flaskllm.extensions import db

        db.session.execute(text("UPDATE batch_jobs SET expires_at = 1000"))
        db.session.commit()
        services.batches.reap()
    work()
    done = batch(ann, told["id"])
    assert (done["status"], bool(done["expired_at"])) == ("expired", True)
    [only] = content_of(ann, done["error_file_id"])
    assert (only["response"], only["error"]["code"]) == (None, "batch_expired")


def test_batches_are_listed_in_pages(ann: Caller) -> None:
    ids = [create(ann, as_file(line("a")))["id"] for _ in range(3)]
    first = ann.get("/v1/batches?limit=2").json
    rest = ann.get(f"/v1/batches?limit=2&after={first['last_id']}").json
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert sorted(one["id"] for one in first["data"] + rest["data"]) == sorted(ids)
    for none in ("x", "batch_" + "0" * 32):
        assert ann.get(f"/v1/batches?after={none}", status=400).json["error"]["param"] == "after"


@pytest.mark.parametrize("batch_id", ["batch_1", "batch_" + "0" * 32, "x", "batch_" + "G" * 32])
def test_an_id_that_is_none_is_missing(ann: Caller, batch_id: str) -> None:
    ann.get(f"/v1/batches/{batch_id}", status=404)
    ann.post(f"/v1/batches/{batch_id}/cancel", {}, status=404)


@pytest.fixture
def bob(app: Flask) -> Caller:
    """Somebody else: an account of his own."""
    with app.app_context():
        _, token = Person(app, "bob").token(scopes=["batch", "chat"])
    return Caller(app.test_client(), token)


def test_nobody_else_has_them(ann: Caller, bob: Caller, work: Callable[[], None]) -> None:
    told = create(ann, as_file(line("a", HELLO | {"model": "demo"})))
    work()
    done = batch(ann, told["id"])
    missing = bob.get("/v1/files/file-" + "0" * 32, status=404).json["error"]["type"]
    for file_id in (done["input_file_id"], done["output_file_id"]):
        for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
            assert bob.get(path, status=404).json["error"]["type"] == missing
        assert bob.http.delete(f"/v1/files/{file_id}", headers=bob.headers).status_code == 404
    bob.get(f"/v1/batches/{told['id']}", status=404)
    bob.post(f"/v1/batches/{told['id']}/cancel", {}, status=404)
    body = {"input_file_id": done["input_file_id"], "endpoint": CHAT, "completion_window": "24h"}
    assert bob.post("/v1/batches", body, status=400).json["error"]["param"] == "input_file_id"
    assert bob.get("/v1/files").json["data"] == bob.get("/v1/batches").json["data"] == []


def test_a_key_makes_one_batch_of_two_requests(ann: Caller) -> None:
    body = {"input_file_id": upload(ann, as_file(line())).json["id"], "endpoint": CHAT, "completion_window": "24h"}
    told = [ann.post("/v1/batches", body, headers={"Idempotency-Key": "k"}).json["id"] for _ in range(2)]
    assert told[0] == told[1]
    assert len(ann.get("/v1/batches").json["data"]) == 1
