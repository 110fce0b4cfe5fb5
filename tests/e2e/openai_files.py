"""Batches as files through the official OpenAI SDK: made, waited for, read."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import openai
from openai.types import Batch, FileObject

from tests.e2e.servers import Gateway

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
ENDS_IN_S = 120
"""A batch here takes seconds; a machine on which much else runs has time for it too."""
OVER = ("completed", "failed", "cancelled", "expired")


@contextmanager
def sdk(gateway: Gateway, token: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=token, max_retries=0) as made:
        yield made


def line(custom_id: str, model: str, content: str, **body: Any) -> dict[str, Any]:
    asked = {"model": model, "messages": [{"role": "user", "content": content}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": asked}


def upload(client: openai.OpenAI, lines: Sequence[Any], name: str = "in.jsonl") -> FileObject:
    """Lines that are bytes go as they are."""
    content = b"".join(one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in lines)
    return client.files.create(file=(name, io.BytesIO(content)), purpose="batch")


def create(client: openai.OpenAI, lines: Sequence[Any] | FileObject, endpoint: Any = CHAT, **more: Any) -> Batch:
    """Of lines that are uploaded first, or of a file that is there."""
    file = lines if isinstance(lines, FileObject) else upload(client, lines)
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)


def wait(client: openai.OpenAI, batch: Batch, *, done: int | None = None, seconds: float = ENDS_IN_S) -> Batch:
    """The batch once it is over, or (``done``) so many of its requests are answered."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        batch = client.batches.retrieve(batch.id)
        counts = batch.request_counts
        if batch.status in OVER or (done is not None and counts is not None and counts.completed >= done):
            return batch
        time.sleep(0.1)
    raise AssertionError(f"the batch is not over in {seconds} s: {batch}")


def lines_of(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    return [json.loads(one) for one in client.files.content(file_id).text.splitlines()]


def counts_of(batch: Batch) -> tuple[int, int, int]:
    assert batch.request_counts is not None
    return batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed
