"""The list of models as servers of OpenAI's wire write it, each with fields of its own beside ``id``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from flaskllm.adapters.base import ListedModel
from flaskllm.errors import ProviderError

CONTEXT = ("context_length", "context_window", "max_model_len", "max_context_length", "max_input_tokens", "n_ctx_train")
"""What servers call a model's context window."""
MOST_CONTEXT = 2**31 - 1
TYPES: Mapping[str, str | None] = {
    "chat": "chat", "language": "chat", "llm": "chat", "vlm": "chat", "code": "chat", "embedding": "embedding",
    "embeddings": "embedding", "image": "image", "audio": None, "moderation": None, "rerank": None, "transcribe": None,
}  # fmt: skip
"""What some tell under ``type``; a word that is not here tells nothing."""
NAMES: tuple[tuple[str | None, re.Pattern[str]], ...] = (
    (None, re.compile(r"whisper|tts|transcri|moderation|rerank|realtime|(?:^|[-_/])audio")),
    ("embedding", re.compile(r"embed|(?:^|[-_/])(?:bge|e5|gte)[-_]")),
    ("image", re.compile(r"dall-e|gpt-image|chatgpt-image|(?:^|[-_/])(?:flux|sdxl|imagen|stable-diffusion)")),
)


def models_in(raw: bytes) -> list[ListedModel]:
    """The models of a ``GET /models``, each name once; some servers leave the envelope out.

    Raises `ProviderError` for what is no such list.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise ProviderError("It answered something that is not JSON.", may_be_billed=False) from None
    rows = body.get("data") if isinstance(body, dict) else body
    if not isinstance(rows, list):
        raise ProviderError("It answered JSON that is no list of models.", may_be_billed=False)
    found = (_model(row) for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str))
    return list({model.name: model for model in found}.values())


def _model(row: Mapping[str, Any]) -> ListedModel:
    return ListedModel(row["id"], _type(row), _context(row))


def _type(row: Mapping[str, Any]) -> str | None:
    told = row.get("type")
    if isinstance(told, str) and told in TYPES:
        return TYPES[told]
    name = row["id"].lower()
    return next((kind for kind, pattern in NAMES if pattern.search(name)), "chat")


def _context(row: Mapping[str, Any]) -> int | None:
    meta = row.get("meta")
    places = (row, meta if isinstance(meta, dict) else {})
    told = (place.get(name) for place in places for name in CONTEXT)
    return next((size for size in told if type(size) is int and 0 < size <= MOST_CONTEXT), None)
