"""FlaskLLM from Python.

Over HTTP, with nothing of the server installed::

    from flaskllm.client import GatewayClient
    client = GatewayClient("http://localhost:5000", token="fl_…")
    print(client.generate("Hello, world!").text)

In the same process, without a server (`LLMGatewayClient` and its kin): needs the package's ``server`` extra, which is
imported only when one of those names is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flaskllm.client.answers import Generated, TextStream
from flaskllm.client.asynchronous import AsyncGatewayClient, AsyncTextStream
from flaskllm.client.errors import (
    BudgetExceeded,
    Conflict,
    ContentFiltered,
    ContextLengthExceeded,
    ExternalError,
    Forbidden,
    ForbiddenTarget,
    GatewayError,
    GatewayUnreachable,
    IdempotencyConflict,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    TokenExpired,
    TokenRevoked,
    Unauthenticated,
    Unavailable,
    UnpricedModel,
    UnsupportedMediaType,
)
from flaskllm.client.gateway import GatewayClient

if TYPE_CHECKING:
    from flaskllm.client.embedded import (
        ConfigLoader,
        InterventionContext,
        LLMConfig,
        LLMGatewayClient,
        LLMRequest,
        LLMResponse,
        ProviderFactory,
    )

EMBEDDED = frozenset({
    "ConfigLoader", "InterventionContext", "LLMConfig", "LLMGatewayClient", "LLMRequest", "LLMResponse",
    "ProviderFactory",
})  # fmt: skip

__all__ = [
    "AsyncGatewayClient",
    "AsyncTextStream",
    "BudgetExceeded",
    "ConfigLoader",
    "Conflict",
    "ContentFiltered",
    "ContextLengthExceeded",
    "ExternalError",
    "Forbidden",
    "ForbiddenTarget",
    "GatewayClient",
    "GatewayError",
    "GatewayUnreachable",
    "Generated",
    "IdempotencyConflict",
    "InternalError",
    "InterventionContext",
    "InvalidRequest",
    "LLMConfig",
    "LLMGatewayClient",
    "LLMRequest",
    "LLMResponse",
    "MethodNotAllowed",
    "NotFound",
    "PayloadTooLarge",
    "ProviderError",
    "ProviderFactory",
    "ProviderTimeout",
    "RateLimited",
    "TextStream",
    "TokenExpired",
    "TokenRevoked",
    "Unauthenticated",
    "Unavailable",
    "UnpricedModel",
    "UnsupportedMediaType",
]


def __getattr__(name: str) -> Any:
    if name in EMBEDDED:
        from flaskllm.client import embedded

        return getattr(embedded, name)
    raise AttributeError(name)
