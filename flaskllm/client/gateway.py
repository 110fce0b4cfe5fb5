"""`GatewayClient`: the gateway over HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self
from urllib.parse import quote

import urllib3

from flaskllm.client.answers import ChunkStream, Generated, TextStream
from flaskllm.client.batches import Batches, Progress
from flaskllm.client.transport import Session, Transport, unreachable

Message = Mapping[str, Any]


class GatewayClient:
    """Calls of one gateway; may be shared by threads.

    ``token``: an API token (``fl_…``) or an access token. ``timeout``: seconds without a byte from the gateway, which
    sends one at least every ten seconds while it streams. ``retries``: most further tries where the gateway asks for
    patience (``Retry-After``); nothing else is tried twice.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 120.0, retries: int = 2) -> None:
        self._http = Transport(url, token=token, timeout=timeout, retries=retries)
        self.providers = Providers(self._http)
        self.batches = Batches(self._http)

    @classmethod
    def log_in(cls, url: str, username: str, password: str, **more: Any) -> Self:
        """A client that speaks as a person; its session is renewed when it runs out. Raises `Unauthenticated`."""
        client = cls(url, **more)
        document, _ = client._http.call("POST", "/api/auth/login", {"username": username, "password": password})
        client._http.session = Session(document["data"])
        return client

    # -- chat ---------------------------------------------------------------------------------------------------------

    def generate(self, prompt: str, *, model: str | None = None, system: str | None = None, **params: Any) -> Generated:
        """Ask one thing. ``params``: whatever ``/v1/chat/completions`` takes, such as ``temperature``."""
        return self.chat(_messages(prompt, system), model=model, **params)

    def stream(self, prompt: str, *, model: str | None = None, system: str | None = None, **params: Any) -> TextStream:
        """Ask one thing and read the text as it comes."""
        return TextStream(self.chat_stream(_messages(prompt, system), model=model, **params))

    def chat(self, messages: Sequence[Message], *, model: str | None = None, **params: Any) -> Generated:
        """A conversation, with tools and all, in OpenAI's shape."""
        body, headers = self._http.call("POST", "/v1/chat/completions", _chat(messages, model, params))
        return Generated.of(body, headers)

    def chat_stream(self, messages: Sequence[Message], *, model: str | None = None, **params: Any) -> ChunkStream:
        """The same as OpenAI's chunks, as they come."""
        options = {"include_usage": True, **(params.pop("stream_options", None) or {})}
        body = _chat(messages, model, {**params, "stream": True, "stream_options": options})
        response = self._http.open("POST", "/v1/chat/completions", body, stream=True)
        return ChunkStream(_pieces(response), response.headers, response.close)

    # -- the other kinds ----------------------------------------------------------------------------------------------

    def embed(self, texts: str | Sequence[str], *, model: str | None = None, **params: Any) -> list[list[float]]:
        """One vector for each text, in order."""
        body = _given({"model": model, "input": texts, **params})
        document, _ = self._http.call("POST", "/v1/embeddings", body)
        rows = sorted(document["data"], key=lambda row: row["index"])
        return [row["embedding"] for row in rows]

    def draw(self, prompt: str, *, model: str | None = None, **params: Any) -> list[dict[str, Any]]:
        """Images: each with ``url`` or ``b64_json``."""
        document, _ = self._http.call(
            "POST", "/v1/images/generations", _given({"model": model, "prompt": prompt, **params})
        )
        return document["data"]

    def batch(
        self,
        prompts: Sequence[str] | None = None,
        *,
        requests: Sequence[Mapping[str, Any]] | None = None,
        on_progress: Progress | None = None,
        timeout: float | None = None,
        **job: Any,
    ) -> list[dict[str, Any]]:
        """Ask many things and wait for all of them: the results in order, each with ``status``, ``text``, ``error``.

        ``on_progress`` is given the job whenever it has moved on; ``job``: ``model``, ``max_concurrency``, …. Raises
        `TimeoutError` after ``timeout`` seconds.
        """
        job_id = self.batches.submit(prompts, requests=requests, **job)["job_id"]
        self.batches.wait(job_id, on_progress=on_progress, timeout=timeout)
        return list(self.batches.results(job_id))

    def models(self) -> list[dict[str, Any]]:
        """The models that this caller may use."""
        document, _ = self._http.call("GET", "/v1/models")
        return document["data"]

    def usage(self, **query: str) -> dict[str, Any]:
        """The caller's own usage; ``query``: ``from``, ``to``, ``group_by``."""
        document, _ = self._http.call("GET", "/api/usage", query=query)
        return document["data"]

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Providers:
    """``client.providers``: provider management, for administrators (S5)."""

    def __init__(self, http: Transport) -> None:
        self._http = http

    def list(self) -> list[dict[str, Any]]:
        return self._http.call("GET", "/providers")[0]

    def get(self, provider_id: str) -> dict[str, Any]:
        return self._http.call("GET", _at(provider_id))[0]

    def create(self, document: Mapping[str, Any]) -> dict[str, Any]:
        return self._http.call("POST", "/providers", document)[0]

    def update(self, provider_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        return self._http.call("PUT", _at(provider_id), changes)[0]

    def delete(self, provider_id: str) -> None:
        self._http.call("DELETE", _at(provider_id))

    def test(self, provider_id: str) -> dict[str, Any]:
        return self._http.call("POST", f"{_at(provider_id)}/test")[0]


def _at(provider_id: str) -> str:
    return f"/providers/{quote(provider_id, safe='')}"


def _messages(prompt: str, system: str | None) -> list[Message]:
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": prompt}]


def _chat(messages: Sequence[Message], model: str | None, params: Mapping[str, Any]) -> dict[str, Any]:
    return _given({"model": model, "messages": list(messages), **params})


def _given(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _pieces(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    try:
        yield from response.stream(decode_content=False)
    except urllib3.exceptions.HTTPError as error:
        raise unreachable(error) from None
