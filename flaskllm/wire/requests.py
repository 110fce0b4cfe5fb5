"""Single calls as people look at them: the ledger's rows, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from flaskllm.domain.period import iso
from flaskllm.domain.pricing import MILLION, dollars_text
from flaskllm.domain.usage import PARTS


def write_call(line: Any) -> dict[str, Any]:
    """Of a `services.requests.CallLine`."""
    row = line.row
    return {
        "id": str(row.id),
        "at": iso(row.started_at),
        "user": line.username or row.user_id,
        "user_id": row.user_id,
        "token": line.token_name or row.token_id,
        "token_id": row.token_id,
        "door": row.door,
        "asked": row.model,
        "model": row.backend_model or row.model,
        "provider": row.provider,
        "status": row.status,
        "error": row.error_code,
        "failed": row.status >= 400,
        "tokens_in": row.prompt_tokens,
        "tokens_out": row.completion_tokens,
        "cost": row.cost,
        "saved": row.saved,
        "latency": row.latency_ms,
        "request_id": row.request_id,
    }


def write_facts(call: Any) -> dict[str, Any]:
    """What the page of one call tells besides, without what is empty."""
    row = call.line.row
    told = {
        "Request": row.request_id,
        "Correlation": row.correlation_id,
        "User as the caller named them": row.claimed_user,
        "Client": row.client_id,
        "Tags": ", ".join(json.loads(row.tags)) if row.tags else None,
        "Metadata": ", ".join(f"{name}: {value}" for name, value in _metadata(row.call_metadata).items()),
        "Streamed": "yes" if row.streamed else "no",
        "First token after": None if row.first_token_ms is None else f"{row.first_token_ms:,} ms",
        "Attempts": row.attempts or ("none: from the cache" if row.saved is not None else "none"),
        "Cost": f"${dollars_text(row.cost)}" if row.cost is not None else "unknown: the model has no price",
        "Saved": f"${dollars_text(row.saved)}" if row.saved is not None else None,
        **{words: _number(getattr(row, name)) for name, words in _PARTS.items()},
        "Tokens are": "estimated: no provider told them" if row.estimated else None,
    }
    found: dict[str, Any] = {name: value for name, value in told.items() if value not in (None, "")}
    return {"told": found, "job_id": call.job_id, "ended": iso(row.finished_at)}


_PARTS = {
    name: f"{name.replace('_', ' ').capitalize()} {'' if name == 'images' else 'tokens'}".strip() for name in PARTS
}


def _number(count: int | None) -> str | None:
    return f"{count:,}" if count else None


def _metadata(text: str | None) -> dict[str, Any]:
    return json.loads(text) if text else {}


def write_attempts(call: Any) -> Iterator[dict[str, Any]]:
    """Each attempt with its place in the call: ``begins`` and ``takes`` in ms, ``x`` and ``width`` of a thousand."""
    row = call.line.row
    ends = [one.settled_at or one.started_at for one in call.attempts]
    begin = min([row.started_at, *(one.started_at for one in call.attempts)])
    whole = max(1, max([row.finished_at, *ends]) - begin)
    for one, end in zip(call.attempts, ends, strict=True):
        begins, takes = one.started_at - begin, max(0, end - one.started_at)
        yield {
            "number": one.number,
            "state": one.state,
            "model": one.backend_model,
            "provider": one.provider,
            "endpoint": one.endpoint,
            "error": one.error_code,
            "begins": begins,
            "takes": takes,
            "x": 1000 * begins // whole,
            "width": max(4, 1000 * takes // whole),
            "cost": one.cost,
            "priced": one.priced,
            "reserved": one.reserved,
            "price_version": one.price_version,
            "estimated": one.estimated,
            "buckets": list(_buckets(one.usage)),
        }


def _buckets(usage: str | None) -> Iterator[dict[str, Any]]:
    """What it took of each bucket, and dollars for a million of it."""
    for name, part in (json.loads(usage) if usage else {}).items():
        yield {
            "name": name.replace("_", " "),
            "count": part["tokens"],
            "cost": part["tokens"] * part["rate"] // MILLION,
        }
