"""``flask batch …`` and `client.batch`: submitted, answered by a worker, fetched."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.serving import BaseWSGIServer, make_server

from flaskllm.client import AsyncGatewayClient, Conflict, GatewayClient
from flaskllm.services.batch_worker import Bounds
from tests.actors import Caller
from tests.conftest import MakeApp
from tests.receivers import SECRET, receiving


@pytest.fixture
def worker(app: Flask) -> Iterator[None]:
    """One that lingers, in this process."""
    stopped = threading.Event()
    hands = app.extensions["flaskllm"].batch_worker
    thread = threading.Thread(target=hands.work, args=(Bounds(lingers=True), stopped))
    thread.start()
    yield
    stopped.set()
    thread.join(10)


@pytest.fixture
def server(app: Flask) -> Iterator[BaseWSGIServer]:
    """The same gateway over HTTP."""
    found = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    thread.join(5)
    found.server_close()


@pytest.mark.usefixtures("worker")
def test_a_file_is_submitted_watched_and_fetched(app: Flask, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\n\ntwo\n", encoding="utf-8")
    run = app.test_cli_runner()
    done = run.invoke(args=["batch", "submit", str(file), "--model", "demo", "--wait", "--json"])
    assert done.exit_code == 0, done.output
    job = json.loads(done.output.splitlines()[-1])
    assert job["progress"] == {"total": 2, "completed": 2, "failed": 0}
    told = run.invoke(args=["batch", "status", job["job_id"]])
    assert "status: completed" in told.output
    fetched = tmp_path / "out.jsonl"
    assert run.invoke(args=["batch", "results", job["job_id"], "--output", str(fetched)]).exit_code == 0
    assert [json.loads(line)["text"] for line in fetched.read_text().splitlines()] == ["[demo] one", "[demo] two"]


def test_a_line_at_fault_is_told_in_one_line(app: Flask, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n{"prompt": 3}\n', encoding="utf-8")
    done = app.test_cli_runner().invoke(args=["batch", "submit", str(file)])
    assert done.exit_code == 1
    assert "line 2.prompt: must be a string" in done.output


def test_a_callback_is_given_and_refused_on_the_command_line(make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app(WEBHOOK_SECRET=SECRET)
    file = tmp_path / "prompts.txt"
    file.write_text("one\n", encoding="utf-8")
    submit = ["batch", "submit", str(file), "--model", "demo", "--json", "--callback-url"]
    refused = app.test_cli_runner().invoke(args=[*submit, "http://169.254.169.254/"])
    assert (refused.exit_code, refused.output.strip()) == (1, "Error: callback_url: is not open to calls from here")
    with receiving() as receiver:
        done = app.test_cli_runner().invoke(args=[*submit, receiver.url])
        assert done.exit_code == 0, done.output
        assert "1 batch items" in app.test_cli_runner().invoke(args=["worker", "--once"]).output
        assert receiver.got[0].event["data"]["job_id"] == json.loads(done.output.splitlines()[-1])["job_id"]


@pytest.mark.usefixtures("worker")
def test_the_client_waits_and_tells_of_progress(app: Flask, server: BaseWSGIServer) -> None:
    seen: list[int] = []
    with GatewayClient(f"http://127.0.0.1:{server.server_port}", token=Caller.on(app).token) as client:
        rows = client.batch(
            ["one", "two"], model="demo", on_progress=lambda job: seen.append(job["progress"]["completed"]), timeout=60
        )
        assert client.batches.estimate(["one"])["items"] == 1
        assert len(client.batches.list()) == 1
    assert [row["text"] for row in rows] == ["[demo] one", "[demo] two"]
    assert seen[-1] == 2


@pytest.mark.usefixtures("worker")
def test_the_awaited_client_does_the_same(app: Flask, server: BaseWSGIServer) -> None:
    async def steps() -> tuple[Any, ...]:
        url = f"http://127.0.0.1:{server.server_port}"
        async with AsyncGatewayClient(url, token=Caller.on(app).token) as client:
            estimate = await client.batches.estimate(["one"])
            job_id = (await client.batches.submit(["one", "two"], model="demo"))["job_id"]
            await client.batches.wait(job_id, timeout=60)
            texts = [row["text"] async for row in client.batches.results(job_id)]
            job, listed = await client.batches.get(job_id), await client.batches.list()
            again = await client.batches.retry(job_id)
            with pytest.raises(Conflict):
                await client.batches.cancel(job_id)
            rows = await client.batch(["three"], model="demo", timeout=60)
        return estimate["items"], texts, job["status"], len(listed), again["status"], [row["text"] for row in rows]

    found = asyncio.run(steps())
    assert found == (1, ["[demo] one", "[demo] two"], "completed", 1, "completed", ["[demo] three"])
