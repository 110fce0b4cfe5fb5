"""``/v1/batch``: what its paths take, and what they say of what they do not."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from flaskllm.extensions import db
from tests.actors import Caller

SOME_ID = "0b5e2a7c-6f3d-4c1e-9a58-d2f47b1c8e90"


@pytest.mark.parametrize(
    "path, taken",
    [
        ("/v1/batch", "GET HEAD OPTIONS"),
        ("/v1/batch/generate", "OPTIONS POST"),
        (f"/v1/batch/{SOME_ID}", "GET HEAD OPTIONS"),
        (f"/v1/batch/{SOME_ID}/results", "GET HEAD OPTIONS"),
        (f"/v1/batch/{SOME_ID}/cancel", "OPTIONS POST"),
    ],
)
def test_a_path_tells_what_it_takes_and_refuses_the_rest(caller: Caller, path: str, taken: str) -> None:
    told = caller.http.options(path)
    assert " ".join(sorted(told.headers["Allow"].replace(",", " ").split())) == taken
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - set(taken.split()):
        refused = caller.http.open(path, method=method, headers=caller.headers)
        assert (refused.status_code, refused.json["error"]["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize("job_id", ["1", "generated", "a" * 36, f"{SOME_ID}x", "..%2f..", "%00"])
@pytest.mark.parametrize("more", ["/results", "/cancel", ""])
def test_an_id_that_is_none_is_a_missing_job(caller: Caller, job_id: str, more: str) -> None:
    method = "POST" if more == "/cancel" else "GET"
    answer = caller.http.open(f"/v1/batch/{job_id}{more}", method=method, headers=caller.headers)
    assert answer.status_code == 404
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}


def test_a_key_finds_the_job_whose_sender_was_never_answered(caller: Caller) -> None:
    """Its web process died between the commit and the answer: the key is free a minute later, and the job is there."""
    headers, body = {**caller.headers, "Idempotency-Key": "k"}, {"prompts": ["one", "two"]}
    first = caller.http.post("/v1/batch/generate", json=body, headers=headers)
    with caller.http.application.app_context(), db.engine.begin() as connection:
        connection.execute(text("UPDATE answers SET status = NULL, body = NULL, lease_ends = '2000-01-01'"))
    second = caller.http.post("/v1/batch/generate", json=body, headers=headers)
    assert (first.status_code, second.status_code) == (202, 202)
    assert second.json["job_id"] == first.json["job_id"]
    assert "Idempotency-Replayed" not in second.headers
    other = caller.http.post("/v1/batch/generate", json={"prompts": ["one"]}, headers=headers)
    assert (other.status_code, other.json["error"]["code"]) == (409, "idempotency_conflict")
    listed = caller.http.get("/v1/batch", headers=caller.headers).json["data"]
    assert [job["job_id"] for job in listed] == [first.json["job_id"]]
