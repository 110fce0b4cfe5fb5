"""A ledger as years of work leave it: calls of some users, tokens and models, more by day than at night."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import Engine

from flaskllm.domain.usage import PARTS
from flaskllm.repositories.ledger import ID_SHIFT

PROVIDERS = ("openai", "anthropic", "gemini", "azure_openai", "llama")
MODELS = [(PROVIDERS[number % 5], f"model-{number}") for number in range(20)]
USERS = [f"user-{number}" for number in range(50)]
TAGS = ("sales", "emea", "research", "support", "website")
TOKENS = [
    (f"token-{number}", USERS[number % 50], [TAGS[number % 5], TAGS[number % 3]] if number % 4 else [])
    for number in range(100)
]
YEAR = timedelta(days=365)
BATCH = 10_000


def calls_until(now: datetime, count: int, *, seed: int = 1, within: timedelta = YEAR) -> Iterator[dict[str, Any]]:
    """So many calls in the order of their time, the last at ``now``, as rows of ``calls``."""
    chance = random.Random(seed)
    first, last = (int(each.timestamp() * 1000) for each in (now - within, now))
    for number in range(count):
        at = first + (last - first) * (number + 1) // count
        token, user, tags = TOKENS[min(99, int(chance.expovariate(0.04)))]
        provider, model = chance.choice(MODELS)
        status = 200 if chance.random() < 0.97 else chance.choice((429, 502, 504))
        is_cached, latency = chance.random() < 0.05, int(chance.lognormvariate(7, 0.8))
        streamed = chance.random() < 0.6
        yield {
            "id": at << ID_SHIFT | number & 0x3FFFFF,
            "request_id": f"r{number}",
            "user_id": user,
            "token_id": token,
            "door": "openai",
            "model": model,
            "backend_model": model,
            "provider": provider,
            "started_at": at - latency,
            "finished_at": at,
            "latency_ms": latency,
            "prompt_tokens": chance.randrange(4000),
            "completion_tokens": chance.randrange(1000),
            "cost": 0 if is_cached else chance.randrange(50_000_000),
            "saved": chance.randrange(50_000_000) if is_cached else None,
            "status": status,
            "error_code": None if status == 200 else "provider_error",
            "attempts": 0 if is_cached else 1,
            "streamed": streamed,
            "estimated": False,
            "tags": json.dumps(sorted(set(tags)), separators=(",", ":")) if tags else None,
            "first_token_ms": latency // 4 if streamed and status == 200 else None,
            **dict.fromkeys(PARTS),
        }


def write_ledger(engine: Engine, calls: Iterator[dict[str, Any]]) -> None:
    """By the quickest way that each database has."""
    while rows := list(islice(calls, BATCH)):
        names = list(rows[0])
        raw = engine.raw_connection()
        try:
            if engine.dialect.name == "sqlite":
                marks = ", ".join(f":{name}" for name in names)
                raw.cursor().executemany(f"INSERT INTO calls ({', '.join(names)}) VALUES ({marks})", rows)
            else:
                with raw.cursor().copy(f"COPY calls ({', '.join(names)}) FROM STDIN") as copy:  # type: ignore[attr-defined]
                    for row in rows:
                        copy.write_row(list(row.values()))
            raw.commit()
        finally:
            raw.close()
