"""A body for each door, as the document shows it: what a newcomer may send as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HELLO = [{"role": "user", "content": "Say hello."}]
_TEXTS = {"input": ["a first text", "a second text"]}
_PICTURE = {"prompt": "A red kite over a lake", "size": "1024x1024"}
_OUTSIDE = {"url": "https://api.example.com/things", "params": {"page": "1"}}

BODIES: Mapping[str, Mapping[str, Any]] = {
    "auth.register": {"username": "ada.lovelace", "email": "ada@example.com", "password": "Password123"},
    "auth.login": {"username": "ada.lovelace", "password": "Password123"},
    "auth.change_profile": {"username": "ada"},
    "tokens.create_token": {"name": "spreadsheet", "scopes": ["webhook"], "budget": {"amount": 5, "period": "month"}},
    "tokens.change_token": {"requests_per_minute": 30},
    "tokens.rotate_token": {"grace_s": 3600},
    "conversations.chat": {"message": "Say hello.", "conversation_id": "greetings"},
    "conversations.rename_conversation": {"title": "Greetings"},
    "webhook.process_prompt": {"prompt": "The meeting moved to Friday.", "type": "summary"},
    "webhook.ask_range": {"rows": [{"id": "A2", "prompt": "The meeting moved to Friday."}], "type": "summary"},
    "templates.create_template": {"name": "headline", "user_text": "A headline for: {{text}}", "type": "custom"},
    "templates.change_template": {"description": "Short and plain"},
    "openai.create_chat_completion": {"messages": _HELLO},
    "openai.create_embeddings": _TEXTS,
    "openai.create_images": _PICTURE,
    "azure.create_chat_completion": {"messages": _HELLO},
    "azure.create_embeddings": _TEXTS,
    "azure.create_images": _PICTURE,
    "batch.submit": {"prompts": ["Say hello.", "Say goodbye."]},
    "messages.create_message": {"model": "demo", "max_tokens": 100, "messages": _HELLO},
    "messages.count_tokens": {"model": "demo", "messages": _HELLO},
    "responses.create_response": {"input": "Say hello."},
    "gate.chat": {"prompt": {"messages": _HELLO}},
    "gate.create_images": {"prompt": {"message": "A red kite over a lake", "parameter": {"size": "1024x1024"}}},
    "gate.create_embeddings": _TEXTS,
    "providers.create_provider": {
        "provider_id": "next_door",
        "provider_type": "openai_compatible",
        "display_name": "The server next door",
        "connection_params": {"base_url": "http://127.0.0.1:8080/v1"},
        "enabled": False,
    },
    "providers.change_provider": {"description": "For tests"},
    "providers.create_model": {"model_id": "small-one", "display_name": "Small one", "tier": "small"},
    "providers.change_model": {"tier": "medium"},
    "providers.check_provider": {"model": "small-one"},
    "providers.create_key": {"key_value": "sk-an-example-and-no-key"},
    "routes.create_route": {"name": "house", "strategy": "priority", "targets": [{"model": "demo/demo"}]},
    "routes.change_route": {"strategy": "fastest"},
    "administration.create_user": {"username": "grace", "email": "grace@example.com", "password": "Password123"},
    "administration.change_user": {"role": "user"},
    "administration.create_token": {"user_id": "7d0b1f1e-53a4-4d25-9c0e-0a6d8a4f7b11", "name": "reports"},
    "administration.change_token": {"tags": ["reports"]},
    "administration.rotate_token": {"grace_s": 0},
    "quotas.put_quota": {"budgets": [{"amount": 500, "period": "month", "kind": "soft", "alert_at": 0.8}]},
    "external.external_get": _OUTSIDE,
    "external.external_post": {**_OUTSIDE, "payload": {"name": "ada"}},
    "external.external_put": {**_OUTSIDE, "payload": {"name": "ada"}},
    "external.external_delete": _OUTSIDE,
}
"""By endpoint."""

PATHS: Mapping[str, str] = {
    "quotas.put_quota": "installation",
    "openai.read_model": "demo",
    "azure.create_chat_completion": "demo",
    "azure.create_embeddings": "demo",
    "azure.create_images": "demo",
    "excel.file": "functions.js",
    "chat_page.file": "api.js",
}
"""What may stand in a path, where it need not be made first."""
