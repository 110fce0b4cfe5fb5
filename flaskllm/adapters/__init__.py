"""The exits. A kind is a string in a row; here it becomes a class, ours or somebody else's."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from flaskllm.adapters.base import ProviderAdapter
from flaskllm.errors import invalid

ADAPTERS: dict[str, str] = {
    "openai": "flaskllm.adapters.openai:OpenAIAdapter",
    "azure_openai": "flaskllm.adapters.azure_openai:AzureOpenAIAdapter",
    "anthropic": "flaskllm.adapters.anthropic:AnthropicAdapter",
    "gemini": "flaskllm.adapters.gemini:GeminiAdapter",
    "grok": "flaskllm.adapters.openai:GrokAdapter",
    "ngrok": "flaskllm.adapters.openai:NgrokAdapter",
    "openai_compatible": "flaskllm.adapters.openai:CompatibleAdapter",
    "demo": "flaskllm.adapters.demo:DemoAdapter",
}
ENTRY_POINTS = "flaskllm.adapters"


def kinds() -> list[str]:
    """Every kind that can be loaded, ours first."""
    return [*ADAPTERS, *(point.name for point in entry_points(group=ENTRY_POINTS) if point.name not in ADAPTERS)]


@cache
def load_adapter(kind: str) -> type[ProviderAdapter]:
    """The class of a kind, imported on first use. Raises `InvalidRequest` for an unknown one."""
    if kind in ADAPTERS:
        module, _, name = ADAPTERS[kind].partition(":")
        return getattr(import_module(module), name)
    for point in entry_points(group=ENTRY_POINTS, name=kind):
        return point.load()
    raise invalid("provider_type", f"is none of {', '.join(kinds())}")
