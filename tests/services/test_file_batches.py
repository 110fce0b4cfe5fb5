"""Files are whole or absent, whoever dies; the files of a batch are written once, however many write them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm.domain.batch import Item, Job, NewItem, Submission, question_to_json
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.principal import Principal
from flaskllm.errors import NotFound, PayloadTooLarge
from flaskllm.extensions import db
from flaskllm.jobs.batch import run_batch
from flaskllm.repositories.ledger import now_ms
from flaskllm.services import Services
from flaskllm.services import files as files_module
from flaskllm.services.batch_worker import Bounds
from flaskllm.services.file_batches import FileBatchService
from tests.conftest import MakeApp
from tests.databases import database_addresses, fresh_tables

SUBMISSION = Submission(
    kind="chat",
    door="batches",
    scope="batch",
    details={"endpoint": "/v1/chat/completions", "input_file_id": "file-1", "output_life_s": 3600},
)


@pytest.fixture(params=database_addresses())
def here(request: Any, make_app: MakeApp, tmp_path: Any) -> Iterator[Flask]:
    app = make_app(DATABASE_URL=request.param(tmp_path))
    with app.app_context():
        fresh_tables()
        from flaskllm.wiring import seeder

        seeder(app).run()
        yield app
        db.session.remove()


@pytest.fixture
def hall(here: Flask) -> Services:
    found: Services = here.extensions["flaskllm"]
    return found


@pytest.fixture
def caller(hall: Services) -> Principal:
    _, token = hall.tokens.issue_for_service(name="t", document={"scopes": ["batch", "chat"]})
    return hall.tokens.identify(token)


def change(statement: str, **values: Any) -> None:
    db.session.execute(text(statement), values)
    db.session.commit()


def count(table: str) -> int:
    with db.engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def breaking_off() -> Iterator[bytes]:
    yield b"x" * (2 * files_module.PIECE)
    raise ConnectionResetError


def test_a_file_that_breaks_off_is_never_seen_and_swept(hall: Services, caller: Principal) -> None:
    with pytest.raises(ConnectionResetError):
        hall.files.add(caller.user_id, "a.jsonl", "batch", breaking_off())
    assert hall.files.list(caller, limit=10) == ([], False)
    assert (count("files"), count("file_pieces")) == (1, 2)
    hall.files.sweep()
    assert count("files") == 1, "it may still be coming in"
    change("UPDATE files SET created_at = :then", then=now_ms() - files_module.BROKEN_MS - 1)
    hall.files.sweep()
    assert (count("files"), count("file_pieces")) == (0, 0)


def test_a_file_goes_when_its_time_is_over(hall: Services, caller: Principal) -> None:
    kept = hall.files.add(caller.user_id, "a", "batch", [b"1"])
    gone = hall.files.add(caller.user_id, "b", "batch", [b"2"])
    change("UPDATE files SET expires_at = :now WHERE id = :id", now=now_ms() - 1, id=gone.id)
    with pytest.raises(NotFound):
        hall.files.get(caller, gone.id)
    assert [file.id for file in hall.files.list(caller, limit=10)[0]] == [kept.id]
    hall.files.sweep()
    assert (count("files"), count("file_pieces")) == (1, 1)


def test_nobody_fills_the_disk_for_all(hall: Services, caller: Principal) -> None:
    hall.files.add(caller.user_id, "a", "batch", [b"1"])
    change("UPDATE files SET size = :most", most=files_module.MOST_KEPT)
    with pytest.raises(PayloadTooLarge, match="delete some"):
        hall.files.add(caller.user_id, "b", "batch", [b"2"])
    assert (count("files"), count("file_pieces")) == (1, 1)


def test_a_file_is_read_line_by_line_over_the_joints_of_its_pieces(hall: Services, caller: Principal) -> None:
    lines = [b"%07d\n" % number for number in range(300_000)]  # 2.3 pieces, and no joint at a line's end
    file = hall.files.add(caller.user_id, "a", "batch", iter([b"".join(lines)]))
    with hall.files.open(file) as source:
        assert list(source) == lines


def test_the_files_of_a_batch_are_written_once_by_whoever(here: Flask, hall: Services, caller: Principal) -> None:
    request = ChatRequest("demo", [{"role": "user", "content": "hello"}])
    items = [NewItem(question_to_json(request, whole=True), f"r{number}") for number in range(250)]
    job = hall.batches.submit(caller, SUBMISSION, items)
    hall.batch_worker.work(Bounds())

    def deliver() -> None:
        with here.app_context():
            hall.file_batches.deliver_all()
            db.session.remove()

    together = [threading.Thread(target=deliver) for _ in range(4)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    [file], _ = hall.files.list(caller, limit=10)
    assert hall.file_batches.get(caller, job.id).details["output_file_id"] == file.id
    lines = [json.loads(line) for line in b"".join(hall.files.content(file)).splitlines()]
    assert [line["custom_id"] for line in lines] == [item.custom_id for item in items]
    assert count("files") == 1


def test_who_writes_them_keeps_its_lease_for_as_long_as_that_takes(hall: Services, caller: Principal) -> None:
    request = ChatRequest("demo", [{"role": "user", "content": "hello"}])
    hall.batches.submit(caller, SUBMISSION, [NewItem(question_to_json(request, whole=True)) for _ in range(250)])
    hall.batch_worker.work(Bounds())
    leases: list[int] = []

    def told(_job: Job, _item: Item) -> bytes:
        with db.engine.connect() as connection:
            leases.append(int(connection.execute(text("SELECT resumes_at FROM batch_jobs")).scalar_one()))
        return b"{}\n"

    database = hall.file_batches._db
    FileBatchService(database, hall.batches, hall.files, door="batches", line=told, lease_ms=3).deliver_all()
    assert leases == sorted(leases)
    assert len(set(leases)) > 3


def test_the_results_of_somebody_whose_files_are_too_many_are_delivered_all_the_same(
    hall: Services, caller: Principal
) -> None:
    request = ChatRequest("demo", [{"role": "user", "content": "hello"}])
    job = hall.batches.submit(caller, SUBMISSION, [NewItem(question_to_json(request, whole=True))])
    hall.batch_worker.work(Bounds())
    hall.files.add(caller.user_id, "a", "batch", [b"1"])
    change("UPDATE files SET size = :most", most=files_module.MOST_KEPT)
    hall.file_batches.deliver_all()
    done = hall.file_batches.get(caller, job.id)
    assert hall.files.get(caller, done.details["output_file_id"]).size > 0


def test_who_dies_while_it_writes_them_is_followed_by_another(hall: Services, caller: Principal) -> None:
    """As after a kill: the lease is taken, the draft is half there, and the job has no file."""
    request = ChatRequest("demo", [{"role": "user", "content": "hello"}])
    job = hall.batches.submit(caller, SUBMISSION, [NewItem(question_to_json(request, whole=True))])
    hall.batch_worker.work(Bounds())
    hall.files.write(caller.user_id, "half.jsonl", "batch_output", [b"{"])
    change("UPDATE batch_jobs SET resumes_at = :later", later=now_ms() + 60_000)
    hall.file_batches.deliver_all()
    assert hall.file_batches.get(caller, job.id).delivered_at is None
    change("UPDATE batch_jobs SET resumes_at = :past", past=now_ms() - 1)
    hall.file_batches.deliver_all()
    done = hall.file_batches.get(caller, job.id)
    assert [file.id for file in hall.files.list(caller, limit=10)[0]] == [done.details["output_file_id"]]


def test_a_turn_of_a_work_horse_leaves_no_housekeeper_that_holds_a_lease(hall: Services, caller: Principal) -> None:
    """The process ends with the turn, and what a thread of it holds then is nobody's until its lease ends."""
    request = ChatRequest("demo", [{"role": "user", "content": "hello"}])
    job = hall.batches.submit(caller, SUBMISSION, [NewItem(question_to_json(request, whole=True))])
    before = set(threading.enumerate())
    run_batch(job.id)
    assert [one.name for one in set(threading.enumerate()) - before if one.name == "housekeeper"] == []
    assert hall.file_batches.get(caller, job.id).delivered_at is not None
