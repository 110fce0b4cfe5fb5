"""`AsyncGatewayClient`: the same calls, awaited. Each runs in a thread of its own, so the loop never waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

from flaskllm.client.answers import ChunkStream, Generated, TextStream
from flaskllm.client.batches import Batches
from flaskllm.client.gateway import GatewayClient, Message, Providers

T = TypeVar("T")
_END = object()


class AsyncGatewayClient:
    """The arguments of `GatewayClient`, and its methods, awaited; streams are read with ``async for``.

    ``client``: one that there is already, instead of a new one.
    """

    def __init__(self, url: str, token: str | None = None, *, client: GatewayClient | None = None, **more: Any) -> None:
        self._client = client or GatewayClient(url, token, **more)
        self.providers = AsyncProviders(self._client.providers)
        self.batches = AsyncBatches(self._client.batches)

    @classmethod
    async def log_in(cls, url: str, username: str, password: str, **more: Any) -> Self:
        client = await asyncio.to_thread(GatewayClient.log_in, url, username, password, **more)
        return cls(url, client=client)

    async def generate(self, prompt: str, **params: Any) -> Generated:
        return await asyncio.to_thread(self._client.generate, prompt, **params)

    async def chat(self, messages: Sequence[Message], **params: Any) -> Generated:
        return await asyncio.to_thread(self._client.chat, messages, **params)

    def stream(self, prompt: str, **params: Any) -> AsyncTextStream:
        """The call goes out when the first piece is asked for."""
        return AsyncTextStream(lambda: self._client.stream(prompt, **params))

    def chat_stream(self, messages: Sequence[Message], **params: Any) -> AsyncTextStream:
        """OpenAI's chunks; the call goes out when the first one is asked for."""
        return AsyncTextStream(lambda: self._client.chat_stream(messages, **params))

    async def embed(self, texts: str | Sequence[str], **params: Any) -> list[list[float]]:
        return await asyncio.to_thread(self._client.embed, texts, **params)

    async def draw(self, prompt: str, **params: Any) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._client.draw, prompt, **params)

    async def batch(self, prompts: Sequence[str] | None = None, **job: Any) -> list[dict[str, Any]]:
        """``on_progress`` is called from another thread."""
        return await asyncio.to_thread(self._client.batch, prompts, **job)

    async def models(self) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._client.models)

    async def usage(self, **query: str) -> dict[str, Any]:
        return await asyncio.to_thread(self._client.usage, **query)

    async def close(self) -> None:
        await asyncio.to_thread(self._client.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncTextStream:
    """A stream of the other client, read piece by piece in threads; leaving it early closes the connection.

    ``stream``: that stream, once the first piece has been asked for: it knows ``usage``, ``cost``, ``finish_reason``.
    """

    def __init__(self, begin: Callable[[], TextStream | ChunkStream]) -> None:
        self._begin = begin
        self.stream: TextStream | ChunkStream | None = None

    async def __aiter__(self) -> AsyncIterator[Any]:
        stream = self.stream = await asyncio.to_thread(self._begin)
        pieces = iter(stream)
        try:
            while (piece := await asyncio.to_thread(next, pieces, _END)) is not _END:
                yield piece
        finally:
            stream.close()

    @property
    def usage(self) -> Mapping[str, Any]:
        return self.stream.usage if self.stream else {}

    @property
    def cost(self) -> float | None:
        return self.stream.cost if self.stream else None


class AsyncBatches:
    """``client.batches``, awaited; results are read with ``async for``."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    async def submit(self, prompts: Sequence[str] | None = None, **job: Any) -> dict[str, Any]:
        return await asyncio.to_thread(self._batches.submit, prompts, **job)

    async def estimate(self, prompts: Sequence[str] | None = None, **job: Any) -> dict[str, Any]:
        return await asyncio.to_thread(self._batches.estimate, prompts, **job)

    async def list(self) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._batches.list)

    async def get(self, job_id: str) -> dict[str, Any]:
        return await asyncio.to_thread(self._batches.get, job_id)

    async def cancel(self, job_id: str) -> dict[str, Any]:
        return await asyncio.to_thread(self._batches.cancel, job_id)

    async def retry(self, job_id: str) -> dict[str, Any]:
        return await asyncio.to_thread(self._batches.retry, job_id)

    async def results(self, job_id: str) -> AsyncIterator[dict[str, Any]]:
        found = self._batches.results(job_id)
        while (result := await asyncio.to_thread(next, found, None)) is not None:
            yield result

    async def wait(self, job_id: str, **how: Any) -> dict[str, Any]:
        """``on_progress`` is called from another thread."""
        return await asyncio.to_thread(self._batches.wait, job_id, **how)


class AsyncProviders:
    """``client.providers``, awaited."""

    def __init__(self, providers: Providers) -> None:
        self._providers = providers

    async def list(self) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._providers.list)

    async def get(self, provider_id: str) -> dict[str, Any]:
        return await asyncio.to_thread(self._providers.get, provider_id)

    async def create(self, document: dict[str, Any]) -> dict[str, Any]:
        return await asyncio.to_thread(self._providers.create, document)

    async def update(self, provider_id: str, changes: dict[str, Any]) -> dict[str, Any]:
        return await asyncio.to_thread(self._providers.update, provider_id, changes)

    async def delete(self, provider_id: str) -> None:
        await asyncio.to_thread(self._providers.delete, provider_id)

    async def test(self, provider_id: str) -> dict[str, Any]:
        return await asyncio.to_thread(self._providers.test, provider_id)
