"""Azure OpenAI: OpenAI's wire at Azure's addresses, its regions endpoints of one provider."""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import quote, urlencode

from flaskllm.adapters.base import TIMES, Field
from flaskllm.adapters.openai import OpenAIAdapter
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.chat import ChatRequest

DEFAULT_VERSION = "2024-10-21"


class AzureOpenAIAdapter(OpenAIAdapter):
    """The classic path names the deployment and an ``api-version``; without one the newer ``/openai/v1`` is used."""

    kind = "azure_openai"
    TITLE = "Azure OpenAI"
    DEFAULT_BASE = ""
    CONNECTION: ClassVar[tuple[Field, ...]] = (
        Field("api_base", help="The resource's address, https://NAME.openai.azure.com."),
        Field("api_version", default=DEFAULT_VERSION, help="Empty chooses the /openai/v1 path."),
        Field("deployments", dict, help="Model name to deployment name, where they differ."),
        *TIMES,
    )

    def called(self, candidate: Candidate) -> str:
        """The deployment."""
        names = self.provider.connection.get("deployments") or {}
        return str(names.get(candidate.model.name) or candidate.model.backend_model)

    def at(self, candidate: Candidate, path: str) -> str:
        base = candidate.endpoint.base_url.rstrip("/").removesuffix("/openai/v1").removesuffix("/openai")
        version = self.provider.connection.get("api_version", DEFAULT_VERSION)
        if not version:
            return f"{base}/openai/v1/{path}"
        deployment = quote(self.called(candidate), safe="")
        return f"{base}/openai/deployments/{deployment}/{path}?{urlencode({'api-version': version})}"

    def headers(self, candidate: Candidate, request: ChatRequest) -> dict[str, str]:
        return {"api-key": candidate.key.value} if candidate.key else {}
