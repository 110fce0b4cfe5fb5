"""The official OpenAI SDK's ``client.files`` and ``client.batches``, against a gateway and a worker as processes."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

from flaskllm.blueprints._spool import LARGEST
from tests.conftest import provider_environment
from tests.e2e.kinds import MODELS, PLACE
from tests.e2e.openai_files import CHAT, EMBEDDINGS, counts_of, create, line, lines_of, sdk, upload, wait
from tests.e2e.servers import Gateway, gunicorn
from tests.e2e.workers import Worker, workers
from tests.upstream import RemoteUpstream, faults

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
QUICK = {"BATCH_LEASE": "2", "LEASE_GRACE": "1", "BATCH_ITEM_TIMEOUT": "6", "GRACEFUL_TIMEOUT": "8"}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "weather", "parameters": PLACE}}


@pytest.fixture(scope="module")
def gateway(remote_simulator: RemoteUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """*sql* mode."""
    environment = provider_environment(remote_simulator, "openai", "anthropic", "gemini")  # type: ignore[arg-type]
    with gunicorn(tmp_path_factory.mktemp("files"), WEB_CONCURRENCY="1", **environment, **QUICK) as running:
        yield running


@pytest.fixture(scope="module")
def hands(gateway: Gateway) -> Iterator[list[Worker]]:
    """The workers, of which a test may kill one if it puts another there."""
    with workers(gateway, 1) as found:
        yield found


@pytest.fixture(scope="module")
def client(gateway: Gateway, hands: list[Worker]) -> Iterator[openai.OpenAI]:
    with sdk(gateway, gateway.token()) as made:
        yield made


@pytest.fixture(scope="module")
def somebody_else(gateway: Gateway) -> Iterator[openai.OpenAI]:
    account = {"username": "bob", "email": "bob@example.org", "password": "Password123"}
    assert gateway.post("/api/auth/register", account)[0] == 201
    status, body, _ = gateway.post("/api/auth/login", {"username": "bob", "password": account["password"]})
    assert status == 200
    with sdk(gateway, body["data"]["access_token"]) as made:
        yield made


# -- the whole way ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", ["anthropic", "gemini", "openai", "demo"])
def test_a_batch_goes_the_whole_way(client: openai.OpenAI, upstream: RemoteUpstream, vendor: str) -> None:
    """Uploaded, created, answered by a model of this provider, and read back as OpenAI's own objects."""
    model = MODELS[vendor]
    asked = [line(f"say-{n}", model, f"number {n}", max_tokens=50) for n in range(6)]
    asked.append(line("tool", model, "use the tool", tools=[TOOL], tool_choice="required"))
    started = create(client, asked, metadata={"for": vendor})
    assert started.id.startswith("batch_")
    assert started.status in ("validating", "in_progress")
    done = wait(client, started)
    assert (done.status, counts_of(done), done.errors, done.error_file_id) == ("completed", (7, 7, 0), None, None)
    assert (done.metadata, done.endpoint, done.model) == ({"for": vendor}, CHAT, model)
    times = (done.created_at, done.in_progress_at, done.finalizing_at, done.completed_at, done.expires_at)
    assert list(times) == sorted(time or 0 for time in times)
    lines = lines_of(client, done.output_file_id)
    assert all(set(one) == {"id", "custom_id", "response", "error"} for one in lines)
    assert {one["response"]["status_code"] for one in lines} == {200}
    assert len({one["id"] for one in lines}) == len({one["response"]["request_id"] for one in lines}) == 7
    answers = {one["custom_id"]: ChatCompletion.model_validate(one["response"]["body"], strict=True) for one in lines}
    assert sorted(answers) == sorted(one["custom_id"] for one in asked)
    for number in range(6):
        assert f"number {number}" in (answers[f"say-{number}"].choices[0].message.content or "")
    (call,) = answers["tool"].choices[0].message.tool_calls or []
    assert call.type == "function"
    assert set(json.loads(call.function.arguments)) == set(PLACE["properties"])  # type: ignore[call-overload]
    assert done.usage is not None
    told = [one.usage for one in answers.values() if one.usage is not None]
    assert done.usage.input_tokens == sum(one.prompt_tokens for one in told) > 0
    assert done.usage.output_tokens == sum(one.completion_tokens for one in told) > 0
    assert len(upstream.requests) == (0 if vendor == "demo" else 7), "each was asked once, and nobody else was"
    assert {one.vendor for one in upstream.requests} <= {vendor}


def test_the_lines_of_one_batch_may_be_for_several_providers(client: openai.OpenAI, upstream: RemoteUpstream) -> None:
    names = [MODELS[vendor] for vendor in ("anthropic", "gemini", "demo", "openai")]
    done = wait(client, create(client, [line(name, name, "hello there") for name in names]))
    assert (done.status, counts_of(done), done.model) == ("completed", (4, 4, 0), None)
    assert sorted(one["custom_id"] for one in lines_of(client, done.output_file_id)) == sorted(names)
    assert Counter(one.vendor for one in upstream.requests) == {"anthropic": 1, "gemini": 1, "openai": 1}


def test_embeddings_go_the_same_way(client: openai.OpenAI, upstream: RemoteUpstream) -> None:
    asked = {"model": "text-embedding-3-small", "input": ["one", "two"]}
    lines = [{"custom_id": f"e{n}", "method": "POST", "url": EMBEDDINGS, "body": asked} for n in range(3)]
    done = wait(client, create(client, lines, EMBEDDINGS))
    assert (done.status, counts_of(done)) == ("completed", (3, 3, 0))
    for one in lines_of(client, done.output_file_id):
        assert len(CreateEmbeddingResponse.model_validate(one["response"]["body"]).data) == 2


def test_what_fails_upstream_stands_in_the_error_file_and_the_rest_is_answered(
    client: openai.OpenAI, upstream: RemoteUpstream
) -> None:
    upstream.script(faults.status(400), vendor="gemini")
    upstream.script(faults.status(500), vendor="openai")
    asked = [line(f"{vendor}-{n}", MODELS[vendor], "hello") for n in (1, 2) for vendor in ("anthropic", "gemini")]
    done = wait(client, create(client, [*asked, line("openai-1", MODELS["openai"], "hello")]))
    assert (done.status, counts_of(done)) == ("completed", (5, 2, 3))
    good, bad = lines_of(client, done.output_file_id), lines_of(client, done.error_file_id)
    assert sorted(one["custom_id"] for one in good) == ["anthropic-1", "anthropic-2"]
    told = {one["custom_id"]: (one["response"]["status_code"], one["error"]) for one in bad}
    assert told == {"gemini-1": (400, None), "gemini-2": (400, None), "openai-1": (502, None)}
    assert all(set(one["response"]["body"]["error"]) == {"message", "type", "param", "code"} for one in bad)


# -- files and batches that are no good -------------------------------------------------------------------------------


def test_a_file_with_bad_lines_tells_their_numbers(client: openai.OpenAI, upstream: RemoteUpstream) -> None:
    model = MODELS["anthropic"]
    good = line("good", model, "hello")
    bad = create(
        client,
        [
            good,  # 1
            b"{this is not JSON}\n",  # 2
            {**good, "custom_id": None},  # 3
            good,  # 4: the custom_id of line 1
            {**line("get", model, "hello"), "method": "GET"},  # 5
            {**line("url", model, "hello"), "url": EMBEDDINGS},  # 6
            line("stream", model, "hello", stream=True),  # 7
            line("hot", model, "hello", temperature="hot"),  # 8
            line("nobody", "no-such-model", "hello"),  # 9
            line("fine", model, "hello"),  # 10
        ],
    )
    failed = wait(client, bad)
    assert (failed.status, failed.output_file_id, failed.error_file_id) == ("failed", None, None)
    assert failed.failed_at
    assert not failed.completed_at
    assert failed.errors is not None
    assert failed.errors.object == "list"
    told = {one.line: (one.code, one.param) for one in failed.errors.data or []}
    assert told == {
        2: ("invalid_json_line", None),
        3: ("missing_required_parameter", "custom_id"),
        4: ("duplicate_custom_id", "custom_id"),
        5: ("invalid_method", "method"),
        6: ("invalid_url", "url"),
        7: ("invalid_request", "body.stream"),
        8: ("invalid_request", "body.temperature"),
        9: ("model_not_found", "body.model"),
    }
    assert all(one.message for one in failed.errors.data or [])
    assert upstream.requests == []
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(failed.id)


def test_a_file_without_a_request_fails(client: openai.OpenAI) -> None:
    failed = wait(client, create(client, [b"\n"]))
    assert failed.errors is not None
    assert [(one.code, one.line) for one in failed.errors.data or []] == [("empty_file", None)]


def test_a_file_of_50_001_requests_fails_at_the_line_that_is_too_many(client: openai.OpenAI) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": "x"}]}
    many = ({"custom_id": str(n), "method": "POST", "url": CHAT, "body": body} for n in range(50_001))
    failed = wait(client, create(client, list(many)))
    assert failed.status == "failed"
    assert failed.errors is not None
    assert [one.line for one in failed.errors.data or []] == [50_001]


def test_uploads_that_cannot_be_are_refused_by_name(client: openai.OpenAI) -> None:
    for purpose in ("fine-tune", "no-such-purpose"):
        with pytest.raises(openai.BadRequestError) as caught:
            client.files.create(file=("in.jsonl", b"x"), purpose=purpose)  # type: ignore[arg-type]
        assert caught.value.param == "purpose"
    with pytest.raises(openai.BadRequestError) as caught:
        client.batches.create(input_file_id="file-none", endpoint=CHAT, completion_window="24h")
    assert caught.value.param == "input_file_id"


def test_a_file_over_the_limit_is_refused_before_it_is_sent(gateway: Gateway, client: openai.OpenAI) -> None:
    before = [one.id for one in client.files.list()]
    connection = gateway.connection()
    try:
        connection.putrequest("POST", "/v1/files")
        connection.putheader("Authorization", f"Bearer {client.api_key}")
        connection.putheader("Content-Type", "multipart/form-data; boundary=x")
        connection.putheader("Content-Length", str(2 * LARGEST))
        connection.endheaders()
        answer = connection.getresponse()
        error = json.loads(answer.read())["error"]
    finally:
        connection.close()
    assert (answer.status, error["code"], error["type"]) == (413, "payload_too_large", "invalid_request_error")
    assert [one.id for one in client.files.list()] == before


# -- cancelled, killed ------------------------------------------------------------------------------------------------


def test_a_cancelled_batch_delivers_what_was_done(client: openai.OpenAI, upstream: RemoteUpstream) -> None:
    upstream.script(faults.delay(0.3), vendor="anthropic")
    count = 120
    started = create(client, [line(str(n), MODELS["anthropic"], f"number {n}") for n in range(count)])
    assert wait(client, started, done=3).status == "in_progress"
    stopped = client.batches.cancel(started.id)
    assert stopped.status in ("cancelling", "cancelled")
    assert stopped.cancelling_at
    done = wait(client, started)
    assert done.status == "cancelled"
    assert done.cancelled_at
    assert not done.completed_at
    good, bad = lines_of(client, done.output_file_id), lines_of(client, done.error_file_id)
    assert sorted(int(one["custom_id"]) for one in good + bad) == list(range(count))
    assert len(good) == counts_of(done)[1] >= 3
    assert {one["error"]["code"] for one in bad} == {"batch_cancelled"}
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(started.id)


def test_a_batch_whose_gateway_and_worker_are_killed_has_each_answer_once(
    client: openai.OpenAI, gateway: Gateway, hands: list[Worker], upstream: RemoteUpstream
) -> None:
    upstream.script(faults.delay(0.15), vendor="gemini")
    count = 60
    started = create(client, [line(str(n), MODELS["gemini"], f"number {n}") for n in range(count)])
    wait(client, started, done=5)
    for child in gateway.children():
        os.kill(child, signal.SIGKILL)
    hands.pop().kill()
    hands.append(Worker(gateway, 2))
    gateway.wait_until_alive()
    done = wait(client.with_options(max_retries=5), started)
    assert (done.status, counts_of(done), done.error_file_id) == ("completed", (count, count, 0), None)
    assert sorted(int(one["custom_id"]) for one in lines_of(client, done.output_file_id)) == list(range(count))
    names = [one.filename for one in client.files.list(purpose="batch_output")]
    assert Counter(names).most_common(1)[0][1] == 1, "each file of results was shown once"
    assert client.files.retrieve(started.input_file_id).bytes > 0


def test_an_upload_that_breaks_off_is_never_seen(gateway: Gateway, client: openai.OpenAI) -> None:
    before = [one.id for one in client.files.list()]
    connection = gateway.connection()
    connection.putrequest("POST", "/v1/files")
    connection.putheader("Authorization", f"Bearer {client.api_key}")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", "5000000")
    connection.endheaders()
    connection.send(b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n')
    connection.send(b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"y" * 2_000_000)
    connection.close()
    upload(client, [b"whole\n"], "whole.jsonl")
    assert [one.filename for one in client.files.list() if one.id not in before] == ["whole.jsonl"]


# -- listed, read, deleted --------------------------------------------------------------------------------------------


def test_files_and_batches_are_listed_page_by_page(client: openai.OpenAI) -> None:
    made = [create(client, [line("a", "demo", f"{n}")]) for n in range(5)]
    ids, files = [one.id for one in made], [one.input_file_id for one in made]
    first = client.batches.list(limit=2)
    assert (len(first.data), first.has_more) == (2, True)
    seen = [one.id for one in client.batches.list(limit=2)]
    assert len(seen) == len(set(seen))
    assert sorted(seen[:5]) == sorted(ids), "newest first"
    newest = [one.id for one in client.files.list(limit=2, purpose="batch")]
    oldest = [one.id for one in client.files.list(limit=2, purpose="batch", order="asc")]
    assert newest == oldest[::-1]
    assert sorted(newest[:5]) == sorted(files)
    assert {one.purpose for one in client.files.list(purpose="batch_output")} == {"batch_output"}
    for one in made:
        assert wait(client, one).status == "completed"


def test_a_file_is_read_streamed_and_deleted(client: openai.OpenAI, gateway: Gateway) -> None:
    content = os.urandom(3_500_000)
    name = "../../etc/pass wörd\r\n.jsonl"
    life: Any = {"anchor": "created_at", "seconds": 3600}
    file = client.files.create(file=(name, content), purpose="batch", expires_after=life)
    assert (file.bytes, file.purpose, file.status) == (len(content), "batch", "processed")
    assert file.expires_at is not None
    assert file.expires_at - file.created_at == 3600
    assert not set(file.filename) & set("/\\\r\n")
    assert client.files.wait_for_processing(file.id) == client.files.retrieve(file.id) == file
    with client.files.with_streaming_response.content(file.id) as streamed:
        assert b"".join(streamed.iter_bytes(65_536)) == content
    deleted = client.files.delete(file.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (file.id, True, "file")
    for again in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            again(file.id)


def test_what_is_somebody_elses_is_as_good_as_none(client: openai.OpenAI, somebody_else: openai.OpenAI) -> None:
    done = wait(client, create(client, [line("a", "demo", "hello")]))
    missing_file, missing_batch = "file-" + "0" * 32, "batch_" + "0" * 32
    for file_id in (done.input_file_id, done.output_file_id):
        for door in (somebody_else.files.retrieve, somebody_else.files.content, somebody_else.files.delete):
            assert refusal(door, file_id) == refusal(door, missing_file)
    for batch_door in (somebody_else.batches.retrieve, somebody_else.batches.cancel):
        assert refusal(batch_door, done.id) == refusal(batch_door, missing_batch)
    with pytest.raises(openai.BadRequestError):
        somebody_else.batches.create(input_file_id=done.input_file_id, endpoint=CHAT, completion_window="24h")
    assert [*somebody_else.files.list()] == [*somebody_else.batches.list()] == []
    assert client.files.content(done.input_file_id).text, "it is still there"


def refusal(door: Any, wanted: Any) -> tuple[type[openai.APIStatusError], str]:
    """The kind of an error, and all it says but the id that was asked for."""
    with pytest.raises(openai.NotFoundError) as caught:
        door(wanted)
    return type(caught.value), json.dumps(caught.value.body).replace(wanted, "…")


def test_the_same_key_makes_one_batch(client: openai.OpenAI) -> None:
    file = upload(client, [line("a", "demo", "hello")])
    made = [
        client.batches.create(
            input_file_id=file.id, endpoint=CHAT, completion_window="24h", extra_headers={"Idempotency-Key": file.id}
        )
        for _ in range(2)
    ]
    assert made[0].id == made[1].id
    assert [one.input_file_id for one in client.batches.list()].count(file.id) == 1
