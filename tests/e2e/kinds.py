"""What the tests with official SDKs ask, of which models."""

from __future__ import annotations

MODELS = {
    "openai": "openai/gpt-4o",
    "azure_openai": "azure_openai/gpt-4o",
    "anthropic": "claude-haiku-4-5",
    "gemini": "gemini/gemini-2.5-flash",
    "grok": "grok-4",
    "ngrok": "ngrok/gemini-2.5-flash",
    "llama": "llama/llama-7b-instruct",
    "demo": "demo",
}
"""A model of each provider that can do all of what is asked here."""
PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
