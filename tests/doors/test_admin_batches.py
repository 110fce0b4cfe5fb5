"""Everybody's batches at the administrators' pages: found, looked at, stopped, tried again, taken home."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask

from flaskllm.blueprints.admin.batches import LONGEST_SHOWN, span
from flaskllm.domain.batch import (
    FILES_DOOR,
    PROMPTS_DOOR,
    RANGES_DOOR,
    Ended,
    Job,
    NewItem,
    Submission,
    question_to_json,
)
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.principal import Principal
from flaskllm.services.batch_worker import Bounds
from tests.doors.test_admin_people import PAYLOADS, last_entry
from tests.doors.visitor import Visitor, words
from tests.people import PASSWORD

PROMPTS = Submission(kind="chat", door=PROMPTS_DOOR, scope="batch", model="demo", metadata={"for": "report"})
RANGE = Submission(kind="range", door=RANGES_DOOR, scope="webhook", details={"template": "summary"})
FILE = Submission(
    kind="chat", door=FILES_DOOR, scope="batch", details={"endpoint": "/v1/chat/completions", "input_file_id": "f"}
)
BROKEN = Ended("failed", error_code="provider_error", error_message="The provider broke off.")


@pytest.fixture
def root(app: Flask) -> Visitor:
    return Visitor.admin(app)


@pytest.fixture
def alice(root: Visitor) -> Principal:
    user = root.services.accounts.create_user("alice", "alice@example.com", PASSWORD)
    principal: Principal = root.services.accounts.principal_of(user.id)
    return principal


def asked(text: str = "one", ended: Ended | None = None, **more: Any) -> NewItem:
    return NewItem(question_to_json(ChatRequest("demo", [{"role": "user", "content": text}]), whole=False),
        more.get("custom_id"), ended)  # fmt: skip


def sent(root: Visitor, owner: Principal, *items: NewItem, submission: Submission = PROMPTS) -> Job:
    job: Job = root.services.batches.submit(owner, submission, items or [asked()])
    return job


def worked(root: Visitor) -> None:
    root.services.workers.beat()
    root.services.batch_worker.work(Bounds())


def cells(response: Any) -> list[list[str]]:
    """The table's rows, as words."""
    body = response.text.partition('<tbody id="rows">')[2].partition("</tbody>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    strip = re.compile(r"<[^>]*>")
    return [
        [" ".join(strip.sub(" ", cell).split()) for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)] for row in rows
    ]


# -- the list ---------------------------------------------------------------------------------------------------------


def test_everybodys_jobs_of_every_door_are_listed_newest_first(root: Visitor, alice: Principal) -> None:
    own = root.services.accounts.principal_of(root.services.accounts.find_user("root").id)
    jobs = [sent(root, alice), sent(root, own, submission=FILE), sent(root, alice, submission=RANGE)]
    shown = cells(root.get("/admin/batches"))
    assert [row[0] for row in shown] == [job.id[:8] for job in reversed(jobs)]
    assert [row[3:5] for row in shown] == [["alice", "spreadsheet"], ["root", "file"], ["alice", "prompts demo"]]
    assert shown[2][1].startswith("queued 0 of 1")


def test_a_page_follows_the_other_without_a_gap(root: Visitor, alice: Principal) -> None:
    jobs = [sent(root, alice).id[:8] for _ in range(5)]
    found, path = [], "/admin/batches?limit=2&user=alice"
    while path:
        page = root.get(path)
        found += [row[0] for row in cells(page)]
        more = re.search(r'<p id="more" class="more"><a class="button" href="([^"]+)"', page.text)
        path = more[1].replace("&amp;", "&") if more else ""
        assert not path or "limit=2" not in path, "the rest comes in pages of the usual length"
    assert found == jobs[::-1]


@pytest.mark.parametrize(
    "chosen, count",
    [
        ("state=unfinished", 1), ("state=queued", 1), ("state=completed", 2), ("state=expired", 0), ("user=alice", 2),
        ("user=ROOT", 1), ("door=range", 1), ("door=batch&state=completed&user=alice", 1), ("user=&state=", 3),
    ],
)  # fmt: skip
def test_jobs_are_found_by_state_owner_and_door(root: Visitor, alice: Principal, chosen: str, count: int) -> None:
    own = root.services.accounts.principal_of(root.services.accounts.find_user("root").id)
    sent(root, alice, submission=RANGE)
    for job in (sent(root, alice), sent(root, own)):
        root.services.batch_worker.work(Bounds(job_id=job.id))
    page = root.get(f"/admin/batches?{chosen}")
    assert len([row for row in cells(page) if len(row) > 1]) == count, words(page)


@pytest.mark.parametrize("field, value", [("state", "lost"), ("user", "nobody"), ("door", "window")])
def test_what_no_job_can_be_is_told_at_its_field(root: Visitor, field: str, value: str) -> None:
    refused = root.get(f"/admin/batches?{field}={value}", status=400)
    assert re.search(rf'id="f-{field}"[^>]*aria-invalid="true"', refused.text)
    assert field != "user" or 'value="nobody"' in refused.text


def test_what_is_not_over_is_looked_at_again_and_what_is_over_is_not(root: Visitor, alice: Principal) -> None:
    waiting, gone = sent(root, alice), "0b5e2a7c-6f3d-4c1e-9a58-d2f47b1c8e90"
    found = re.search(r'hx-get="(/admin/batches/progress\?ids=[^"]+)"', root.get("/admin/batches").text)
    assert found is not None
    assert 'hx-trigger="every 3s"' in root.get(found[1]).text
    worked(root)
    told = root.get(f"/admin/batches/progress?ids={waiting.id},{gone}")
    assert "hx-trigger" not in told.text
    assert f'<td id="live-{waiting.id}" class="live" hx-swap-oob="true"' in told.text
    assert "completed 1 of 1" in words(told)
    assert "gone given back and forgotten" in words(told)
    assert "hx-trigger" not in root.get("/admin/batches").text
    for wrong in ("", "?ids=", "?ids=1", "?ids=" + ",".join([gone] * 26)):
        root.get(f"/admin/batches/progress{wrong}", status=400)


def test_who_looks_is_told_that_no_worker_is_there_and_how_to_start_one(root: Visitor, alice: Principal) -> None:
    job, ranged = sent(root, alice), sent(root, alice, submission=RANGE)
    for path in ("/admin/batches", f"/admin/batches/{job.id}"):
        assert "No worker is there." in words(root.get(path))
        assert "python run.py worker" in words(root.get(path))
    assert "No worker" not in words(root.get(f"/admin/batches/{ranged.id}")), "who asks a range works on it"
    root.services.workers.beat()
    for path in ("/admin/batches", f"/admin/batches/{job.id}"):
        assert "No worker" not in words(root.get(path))


# -- a job ------------------------------------------------------------------------------------------------------------


def test_a_jobs_page_tells_of_it_and_of_each_item(root: Visitor, alice: Principal) -> None:
    job = sent(root, alice, asked("hello there", custom_id="first"), asked("bad", BROKEN), submission=PROMPTS)
    worked(root)
    page = root.get(f"/admin/batches/{job.id}")
    assert "completed 2 of 2, 1 failed" in words(page)
    for fact in ("alice", "prompts", "demo", "for: report", "at most 16", job.id):
        assert fact in words(page)
    first, second = cells(page)
    assert first[:3] == ["0", "completed first", "[demo] hello there"]
    assert (int(first[3]) > 0, first[4]) == (True, "$0")
    assert second[:4] == ["1", "failed", "provider_error The provider broke off.", ""]
    assert "hx-trigger" not in page.text


def test_the_time_left_is_estimated_while_it_runs(root: Visitor, alice: Principal) -> None:
    job = sent(root, alice, *(asked(str(number)) for number in range(4)))
    root.services.batch_worker.work(Bounds(items=3, job_id=job.id))
    told = root.get(f"/admin/batches/{job.id}/progress")
    assert "running 3 of 4 Cost" in words(told), "nobody works on it"
    root.services.workers.beat()
    told = root.get(f"/admin/batches/{job.id}/progress")
    assert re.search(r"running 3 of 4, about \d+ s left", words(told))
    assert 'hx-trigger="every 2s"' in told.text
    assert 'id="items"' not in told.text
    worked(root)
    over = root.get(f"/admin/batches/{job.id}/progress")
    assert "The job is over: completed." in words(over)
    assert "hx-trigger" not in over.text
    assert "[demo] 3" in words(over)


def test_a_range_that_was_given_back_is_told_as_gone(root: Visitor) -> None:
    told = root.get("/admin/batches/0b5e2a7c-6f3d-4c1e-9a58-d2f47b1c8e90/progress")
    assert "The job is not here any more" in words(told)
    assert "hx-trigger" not in told.text


def test_items_are_paged_and_found_by_their_state(root: Visitor, alice: Principal) -> None:
    job = sent(
        root, alice, *(asked(str(n), BROKEN if n % 3 == 0 else Ended("completed", text=f"<{n}>")) for n in range(9))
    )
    path, found = f"/admin/batches/{job.id}?limit=4", []
    while path:
        page = root.get(path)
        found += [int(row[0]) for row in cells(page)]
        more = re.search(r'<p id="more" class="more"><a class="button" href="([^"]+)"', page.text)
        path = more[1].replace("&amp;", "&") if more else ""
    assert found == list(range(9))
    assert [row[0] for row in cells(root.get(f"/admin/batches/{job.id}?state=failed"))] == ["0", "3", "6"]
    assert "No items here." in words(root.get(f"/admin/batches/{job.id}?state=pending"))
    root.get(f"/admin/batches/{job.id}?state=lost", status=400)


def test_a_row_equal_to_another_has_its_result_and_cost_nothing(root: Visitor, alice: Principal) -> None:
    answer = Ended("completed", text="an answer", prompt_tokens=5, cost=7_000_000)
    rows = [NewItem({}, "a", answer), NewItem({}, "b", Ended("same", text="0")), NewItem({}, "c", Ended("failed"))]
    job = sent(root, alice, *rows, submission=RANGE)
    first, second, _ = cells(root.get(f"/admin/batches/{job.id}"))
    assert [first[2], first[4], second[2], second[4]] == ["an answer", "$0.0070", "an answer", "$0"]
    document = root.get(f"/admin/batches/{job.id}/results").json
    assert [(one["status"], one["text"], one["cost"]) for one in document["data"]] == [
        ("completed", "an answer", 0.007), ("completed", "an answer", 0), ("failed", None, None),
    ]  # fmt: skip


def test_a_long_answer_is_cut_on_the_page_and_whole_in_the_file(root: Visitor, alice: Principal) -> None:
    text = "word " * LONGEST_SHOWN
    job = sent(root, alice, asked(ended=Ended("completed", text=text)))
    page = root.get(f"/admin/batches/{job.id}")
    assert f"The first {LONGEST_SHOWN:,} of {len(text):,} characters" in words(page)
    assert root.get(f"/admin/batches/{job.id}/results").json["data"][0]["text"] == text


def test_a_file_that_was_refused_tells_its_lines(root: Visitor, alice: Principal) -> None:
    errors = [{"code": "invalid_json_line", "message": "is <b>no</b> JSON", "param": None, "line": 7}]
    job = root.services.file_batches.refuse(alice, FILE, errors)
    page = root.get(f"/admin/batches/{job.id}")
    assert "Line 7: is <b>no</b> JSON" in words(page)
    assert "<b>no</b>" not in page.text


def test_results_are_taken_home_in_three_forms_as_the_json_door_has_them(root: Visitor, alice: Principal) -> None:
    job = sent(root, alice, asked("=1+1", custom_id="a"), asked("two", BROKEN), asked("three"))
    root.services.batch_worker.work(Bounds(items=1, job_id=job.id))
    path = f"/admin/batches/{job.id}/results"
    whole = root.get(path)
    assert whole.headers["Content-Disposition"] == f'attachment; filename="{job.id}.json"'
    assert whole.headers["Cache-Control"] == "no-store"
    assert (whole.json["next"], [one["status"] for one in whole.json["data"]]) == (
        None, ["completed", "failed", "pending"],
    )  # fmt: skip
    lines = [json.loads(line) for line in root.get(f"{path}?format=jsonl").text.splitlines()]
    assert lines == whole.json["data"]
    table = list(csv.reader(io.StringIO(root.get(f"{path}?format=csv").text)))
    assert [row[2] for row in table] == ["status", "completed", "failed", "pending"]
    root.get(f"{path}?format=xml", status=400)
    empty = root.services.file_batches.refuse(alice, FILE, [])
    assert root.get(f"/admin/batches/{empty.id}/results").json == {"data": [], "next": None}


# -- doing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("submission", [PROMPTS, FILE, RANGE], ids=[PROMPTS_DOOR, FILES_DOOR, RANGES_DOOR])
def test_anybodys_job_is_cancelled_under_the_administrators_name(
    root: Visitor, alice: Principal, submission: Submission
) -> None:
    job = sent(root, alice, asked("one", Ended("completed", text="there")), asked("two"), submission=submission)
    done = root.sure(f"/admin/batches/{job.id}/cancel")
    assert (done.status_code, done.headers["Location"]) == (303, f"/admin/batches/{job.id}")
    now = root.services.batches.get(alice, job.id)
    assert (now.status, now.completed, now.cancelled) == ("cancelled", 1, 1)
    assert ("cancelling_at" in now.details) == (submission is FILE)
    entry = last_entry(root)
    assert (entry.actor_name, entry.action, entry.target) == ("root", "batch.cancel", f"batch:{job.id}")
    assert (json.loads(entry.before), json.loads(entry.after)) == ({"status": "queued"}, {"status": "cancelling"})
    refused = root.sure(f"/admin/batches/{job.id}/cancel")
    assert (refused.status_code, f"Batch {job.id[:8]}" in words(refused)) == (409, True)
    assert "there is nothing to cancel" in words(refused)
    assert last_entry(root).number == entry.number


def test_failed_items_are_asked_again_and_it_is_told_once(root: Visitor, alice: Principal) -> None:
    job = sent(root, alice, asked("one"), asked("two", Ended("completed", text="kept")), asked("three"))
    path = f"/admin/batches/{job.id}"
    assert root.post(f"{path}/retry").status_code == 409, "it is not over"
    root.services.accounts.change_user(alice.user_id, {"status": "disabled"})
    worked(root)
    assert "completed 3 of 3, 2 failed" in words(root.get(path))
    root.services.accounts.change_user(alice.user_id, {"status": "active"})
    assert "Ask the 2 failed again" in words(root.get(path))
    before = last_entry(root).number
    assert root.post(f"{path}/retry").status_code == 303
    entry = last_entry(root)
    assert (entry.number, entry.action, json.loads(entry.before)) == (
        before + 1, "batch.retry", {"status": "completed", "failed": 2},
    )  # fmt: skip
    worked(root)
    now = root.services.batches.get(alice, job.id)
    assert (now.status, now.completed, now.failed) == ("completed", 3, 0)
    assert root.post(f"{path}/retry").status_code == 409


@pytest.mark.parametrize("submission", [FILE, RANGE])
def test_what_was_given_out_is_not_tried_again(root: Visitor, alice: Principal, submission: Submission) -> None:
    job = sent(root, alice, asked("one", BROKEN), asked("two"), submission=submission)
    root.sure(f"/admin/batches/{job.id}/cancel")
    assert "failed again" not in words(root.get(f"/admin/batches/{job.id}"))
    refused = root.post(f"/admin/batches/{job.id}/retry")
    assert (refused.status_code, root.services.batches.get(alice, job.id).failed) == (409, 1)


def test_what_is_not_there_is_a_page_that_says_so(root: Visitor) -> None:
    for path in ("none", "none/results"):
        assert root.get(f"/admin/batches/{path}", status=404).mimetype == "text/html"
    for act in ("cancel", "retry"):
        assert root.sure(f"/admin/batches/none/{act}").status_code == 404
    root.get("/admin/batches?after=none", status=400)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_a_model_said_is_shown_as_it_is_and_never_as_markup(root: Visitor, alice: Principal, payload: str) -> None:
    long = f"{payload} {'x' * 300}"
    submission = replace(PROMPTS, model=payload, metadata={payload[:60]: payload})
    ends = [
        Ended("completed", text=payload),
        Ended("completed", text=long),
        Ended("failed", error_code="provider_error", error_message=payload),
    ]
    job = sent(
        root,
        alice,
        *(asked(payload, ended, custom_id=f"{payload}{n}") for n, ended in enumerate(ends)),
        submission=submission,
    )
    pages = [
        root.get(path) for path in ("/admin/batches", f"/admin/batches/{job.id}", f"/admin/batches/{job.id}/progress")
    ]
    for page in pages:
        assert not re.search(r"<script>|<img|<svg|onerror=alert\(1\)>", page.text)
        assert "49${alert(1)}" not in page.text
    assert words(pages[1]).count(" ".join(payload.split())) >= 6


def test_times_are_told_in_words() -> None:
    assert [span(ms) for ms in (1, 59_400, 60_000, 3_599_000, 7_260_000)] == [
        "1 s",
        "59 s",
        "1 min",
        "1 h 0 min",
        "2 h 1 min",
    ]
