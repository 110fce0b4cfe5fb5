"""The gateway in the same process, under S5's names: no server, the same routing, budgets, ledger and fall-back.

It is the whole application, built from the same settings and on the same database as a running gateway; calls are
those of the built-in service user. Needs the package's ``server`` extra.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from flask import Flask

from flaskllm import wiring
from flaskllm.app import create_app
from flaskllm.client.errors import BY_CODE, GatewayError, Unavailable
from flaskllm.config import Settings
from flaskllm.domain.answer import Answer
from flaskllm.domain.call import CallContext
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.pricing import to_dollars
from flaskllm.errors import DomainError
from flaskllm.services import Services
from flaskllm.services import provider_factory as factories

DOOR = "python"
_END = object()


class ConfigLoader:
    """Reads the settings as the gateway does: the environment, and ``.env`` in ``root`` (``docs/api.md``)."""

    def __init__(self, root: Path | str | None = None, environ: Mapping[str, str] | None = None) -> None:
        self._root, self._environ = root, environ

    def load_config_as_object(self) -> Settings:
        """Raises `flaskllm.config.SettingsError` with everything that is wrong in them."""
        return Settings.load(self._environ, root=self._root)


class ProviderFactory:
    """How providers are spoken to. What is given here goes before the settings: ``verify``, ``ca_file``, ``pool_size``.

    The arguments are those of `flaskllm.services.provider_factory.ProviderFactory`.
    """

    def __init__(self, **different: Any) -> None:
        factories.ProviderFactory(**different)  # an unknown name is told here and not at the first call
        self._different = different

    def __call__(self, **by_settings: Any) -> factories.ProviderFactory:
        return factories.ProviderFactory(**{**by_settings, **self._different})


@dataclass(frozen=True, slots=True)
class LLMConfig:
    """Which model, and how it is asked. ``params``: what else ``/v1/chat/completions`` takes, such as ``tools``."""

    model_identifier: str | None = None
    system_prompt: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InterventionContext:
    """What the request belongs to: ``session_id`` stands in its usage row; ``history`` are messages before it."""

    session_id: str | None = None
    history: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class LLMRequest:
    """``prompt_content``: the user's text, or a list of content parts."""

    prompt_content: str | Sequence[Mapping[str, Any]]
    config: LLMConfig = LLMConfig()
    initial_context: InterventionContext = InterventionContext()

    def to_chat(self) -> ChatRequest:
        config = self.config
        messages: list[dict[str, Any]] = []
        if config.system_prompt:
            messages.append({"role": "system", "content": config.system_prompt})
        messages += [dict(message) for message in self.initial_context.history]
        content = self.prompt_content
        messages.append({"role": "user", "content": content if isinstance(content, str) else list(content)})
        own = {"temperature": config.temperature, "max_tokens": config.max_tokens, **config.params}
        given = {name: value for name, value in own.items() if value is not None}
        return ChatRequest(model=config.model_identifier, messages=messages, params=given)


@dataclass(frozen=True, slots=True)
class LLMResponse:
    """One answer. ``cost``: US dollars, None where the price is unknown. ``body``: OpenAI's whole document."""

    generated_content: str
    model: str
    provider: str
    usage: Mapping[str, Any]
    cost: float | None
    finish_reason: str | None
    request_id: str
    body: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, answer: Answer, request_id: str) -> LLMResponse:
        return cls(
            generated_content=answer.text,
            model=answer.model,
            provider=answer.candidate.provider.id,
            usage=answer.usage.to_openai(),
            cost=to_dollars(answer.cost),
            finish_reason=answer.result.finish_reason,
            request_id=request_id,
            body=answer.result.body,
        )


class LLMGatewayClient:
    """S5's client. May be shared by threads and tasks; close it when done, or use it as a context."""

    def __init__(self, gateway_config: Settings, provider_factory: ProviderFactory | None = None) -> None:
        self._settings = gateway_config
        self._factory = provider_factory or ProviderFactory()
        self._lock = threading.Lock()
        self._app: Flask | None = None

    async def generate(self, request: LLMRequest) -> LLMResponse:
        """Ask, in a thread of its own. Raises a `flaskllm.client.GatewayError`."""
        return await asyncio.to_thread(self.generate_sync, request)

    def generate_sync(self, request: LLMRequest) -> LLMResponse:
        """The same, waited for."""
        services, call = self._begin(request)
        try:
            return LLMResponse.of(services.chat.complete(request.to_chat(), call), call.request_id)
        except DomainError as error:
            raise _told(error, call) from None

    async def stream(self, request: LLMRequest) -> AsyncIterator[str]:
        """The text, piece by piece. Raises a `flaskllm.client.GatewayError`."""
        pieces = self.stream_sync(request)
        try:
            while (piece := await asyncio.to_thread(next, pieces, _END)) is not _END:
                yield str(piece)
        finally:
            await asyncio.to_thread(pieces.close)  # type: ignore[attr-defined]

    def stream_sync(self, request: LLMRequest) -> Iterator[str]:
        """The same for a plain loop; leaving the loop ends the call."""
        services, call = self._begin(request)
        try:
            stream = services.chat.stream(request.to_chat(), call)
        except DomainError as error:
            raise _told(error, call) from None
        try:
            for item in stream:
                if isinstance(item, DomainError):
                    raise _told(item, call)
                if item is not None and item.text:
                    yield item.text
        finally:
            stream.close()

    def _begin(self, request: LLMRequest) -> tuple[Services, CallContext]:
        services: Services = self._application().extensions["flaskllm"]
        services.housekeeper.wake()
        session = request.initial_context.session_id
        started = time.monotonic()
        return services, CallContext(
            principal=services.tokens.service_principal(),
            request_id=str(uuid4()),
            door=DOOR,
            deadline=started + self._settings.request_timeout,
            started=started,
            metadata={"session_id": session[:512]} if session else {},
        )

    def _application(self) -> Flask:
        """Built with the first call; a SQLite file that does not exist is made, any other database only looked at."""
        with self._lock:
            if self._app is None:
                made = create_app(self._settings, make_factory=self._factory, logs=False)
                file = self._settings.database_file
                if file and not file.exists():
                    wiring.prepare_database(made)
                elif not wiring.database_is_current(made):
                    raise Unavailable("The database is behind this version; run: flask --app wsgi db upgrade")
                self._app = made
            return self._app

    def close(self) -> None:
        """End open calls and give connections back."""
        with self._lock:
            made, self._app = self._app, None
        if made is not None:
            services: Services = made.extensions["flaskllm"]
            services.shutdown.stop()
            services.factory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)


def _told(error: DomainError, call: CallContext) -> GatewayError:
    """The same class that a client over HTTP would be given."""
    kind = BY_CODE.get(error.code, GatewayError)
    return kind(
        error.message,
        status=error.status,
        code=error.code,
        details=error.details,
        request_id=call.request_id,
        retry_after=error.retry_after,
    )
