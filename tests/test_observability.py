"""The log: every line whole though several processes rotate it, no secret in any, and no request ever fails for it."""

from __future__ import annotations

import json
import logging
import multiprocessing
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flaskllm import observability
from flaskllm.observability import JsonLines, SharedRotatingFile, configure_logging, redact, request_id

LINES, PROCESSES = 400, 3


def handler_in(folder: Path, *, most: int = 0) -> SharedRotatingFile:
    made = SharedRotatingFile(folder / "app.log", maxBytes=most, backupCount=50, encoding="utf-8", delay=True)
    made.setFormatter(JsonLines())
    return made


def record(message: str = "hello", **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("test", logging.INFO, "test.py", 1, message, (), None)
    made.fields = fields
    return made


def write_many(folder: Path, number: int) -> None:
    handler = handler_in(folder, most=8_000)
    for line in range(LINES):
        handler.handle(record(f"{number}-{line}"))
    handler.close()


def events(folder: Path) -> list[str]:
    found = [line for path in folder.glob("app.log*") for line in path.read_text().splitlines() if line]
    return [json.loads(line)["event"] for line in found]


def test_three_processes_rotate_one_file_and_lose_no_line(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_many, args=(tmp_path, number)) for number in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(list(tmp_path.glob("app.log.*"))) > 5
    assert sorted(events(tmp_path)) == sorted(f"{n}-{line}" for n in range(PROCESSES) for line in range(LINES))


@pytest.fixture
def handler(tmp_path: Path) -> Iterator[SharedRotatingFile]:
    (tmp_path / "logs").mkdir()
    made = handler_in(tmp_path / "logs")
    yield made
    made.close()


def test_a_file_that_was_moved_away_is_begun_anew(handler: SharedRotatingFile, tmp_path: Path) -> None:
    handler.handle(record("before"))
    Path(handler.baseFilename).rename(tmp_path / "moved")
    handler.handle(record("after"))
    assert events(tmp_path / "logs") == ["after"]


def test_without_its_folder_it_is_silent_until_the_folder_is_back(handler: SharedRotatingFile, tmp_path: Path) -> None:
    handler.handle(record("before"))
    shutil.rmtree(tmp_path / "logs")
    handler.handle(record("lost"))
    handler.handle(record("lost"))
    (tmp_path / "logs").mkdir()
    handler.handle(record("back"))
    assert events(tmp_path / "logs") == ["back"]


def test_what_cannot_be_written_as_json_fails_nobody(handler: SharedRotatingFile, tmp_path: Path) -> None:
    handler.handle(record("lone \ud800 surrogate"))
    handler.handle(record("number", count=2**70))
    handler.handle(record("good"))
    assert events(tmp_path / "logs")[-1] == "good"


@pytest.mark.parametrize(
    "secret",
    [
        "fl_0123456789abcdefghijABCDEFGHIJ0123456789",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.c2lnbmF0dXJl",
        "sk-proj-abcdefgh12345678",
        "xai-sim-CANARY-6d2f8b3c1e9a4705",
        "AIzaSyA-1234567890abcdefghijklmn",
        "Bearer abcdefgh.12345678",
        "api_token=abcd1234",
        "password=hunter22",
        "://user:secretword@",
    ],
)
def test_what_has_the_shape_of_a_secret_is_masked(secret: str) -> None:
    masked = redact(f"before {secret} after")
    assert secret.rsplit("=", maxsplit=1)[-1].rsplit(":", maxsplit=1)[-1].strip("@") not in masked
    assert masked.startswith("before")
    assert masked.endswith("after")


@pytest.mark.parametrize(
    "text", ["eyJ" * 100_000, "-eyJ" * 75_000, "eyJaaaaaaaa." * 25_000, "password" + " " * 300_000]
)
def test_no_text_makes_masking_slow(text: str) -> None:
    began = time.process_time()
    redact(text)
    assert time.process_time() - began < 1


def test_a_line_says_where_it_broke_and_never_with_what() -> None:
    try:
        raise ValueError("the prompt of somebody")
    except ValueError as error:
        made = record()
        made.exc_info = (type(error), error, error.__traceback__)
    line = json.loads(JsonLines().format(made))
    assert line["error"].startswith("ValueError at test_observability.py:")
    assert "prompt" not in json.dumps(line)


def test_control_characters_make_no_second_line() -> None:
    assert "\n" not in JsonLines().format(record("one\ntwo\r\nthree"))


def test_each_line_has_the_requests_id() -> None:
    token = request_id.set("req-12345678")
    try:
        assert json.loads(JsonLines().format(record()))["request_id"] == "req-12345678"
    finally:
        request_id.reset(token)


def test_a_folder_that_cannot_be_written_is_told_once_and_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    try:
        configure_logging(level="INFO", folder=tmp_path / "file" / "logs")
        ours = [found for found in logging.getLogger().handlers if getattr(found, "is_ours", False)]
        assert [type(one) for one in ours] == [observability.QuietStream]
        assert "cannot be written" in capsys.readouterr().err
    finally:
        configure_logging(level="WARNING", folder=None)
