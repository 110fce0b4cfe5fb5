"""Conversations (S1): ``/llm/*``, in S1's envelope."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson
from marshmallow import Schema, ValidationError

from flaskllm.domain.catalogue import TIERS
from flaskllm.domain.conversation import MOST_SEARCH, MOST_TITLE, Conversation, Page, Reply, Said, Turn
from flaskllm.domain.pricing import to_dollars
from flaskllm.domain.text import can_be_held
from flaskllm.errors import DomainError, invalid
from flaskllm.wire import errors, shapes
from flaskllm.wire.fields import Choice, Flag, Number, Text, Whole, iso, load

PING = b": ping\n\n"
MOST_MESSAGE = 2**24
"""Characters; the body's own limit is the one that is met, this one only says so by name."""


@shapes.of_form(pattern=shapes.NOT_BLANK)
def not_blank(value: str) -> None:
    if not value.strip():
        raise ValidationError("must not be empty")


class MessageSchema(Schema):
    """``POST /llm/chat``."""

    message = Text(required=True, most=MOST_MESSAGE, validate=not_blank)
    conversation_id = Text(allow_none=True, most=256)
    model = Text(allow_none=True, least=1, most=256)
    provider = Text(allow_none=True, least=1, most=64)
    tier = Choice(*TIERS, allow_none=True)
    system = Text(allow_none=True, most=MOST_MESSAGE)
    temperature = Number(allow_none=True, least=0, most=2)
    max_tokens = Whole(allow_none=True, least=1)
    stream = Flag(allow_none=True)


class TitleSchema(Schema):
    """``PATCH /llm/conversations/{id}``."""

    title = Text(required=True, most=MOST_TITLE, validate=not_blank)


NAME = {"type": "string", "minLength": 1, "maxLength": 1000, "description": "a UUID, or a name of one's own"}
_TURN = shapes.record("Turn", role=shapes.STRING, content=shapes.STRING, optional={"interrupted": {"const": True}})
_HEAD = {
    "id": shapes.STRING,
    "title": shapes.STRING,
    "length": shapes.COUNT,
    "created_at": shapes.MOMENT,
    "updated_at": shapes.MOMENT,
}
_SUMMARY = shapes.record("ConversationHead", **_HEAD)
REPLY = shapes.success(
    shapes.record(
        "Reply",
        text=shapes.STRING,
        conversation_id=shapes.STRING,
        model=shapes.STRING,
        tokens_used=shapes.COUNT,
        provider=shapes.STRING,
        usage=shapes.USAGE,
        cost=shapes.COST,
    )
)
HISTORY = shapes.success(shapes.record(conversation_id=shapes.STRING, messages=shapes.several(_TURN)))
SUMMARY = shapes.success(_SUMMARY)
CONVERSATION = shapes.success(
    shapes.record("Conversation", **_HEAD, system=shapes.maybe(shapes.STRING), messages=shapes.several(_TURN))
)
LIST = shapes.record(status={"const": "success"}, data=shapes.several(_SUMMARY), next=shapes.maybe(shapes.STRING))
"""The answers' forms, for ``/openapi.json``."""


def read_message(body: dict[str, Any]) -> Said:
    """S1's message. Raises `InvalidRequest` naming the fields."""
    given = {name: value for name, value in load(MessageSchema(), body).items() if value is not None}
    if "tier" in given and "model" in given:
        raise invalid("tier", "stands beside model; give one of them")
    return Said(
        message=given["message"],
        params={name: given[name] for name in ("temperature", "max_tokens") if name in given},
        conversation_id=given.get("conversation_id"),
        model=given.get("model") or given.get("tier"),
        provider=given.get("provider"),
        system=given.get("system"),
        stream=given.get("stream", False),
    )


def read_title(body: dict[str, Any]) -> str:
    return str(load(TitleSchema(), body)["title"])


def read_conversation_id(query: Mapping[str, str]) -> str:
    """The one query parameter of S1's history."""
    if not (found := query.get("conversation_id")):
        raise invalid("conversation_id", "is required")
    return found


def read_search(query: Mapping[str, str]) -> str | None:
    """What is looked for in titles."""
    search = query.get("search") or None
    if search is not None and (len(search) > MOST_SEARCH or not can_be_held(search)):
        raise invalid("search", f"must be text of at most {MOST_SEARCH} characters")
    return search


def write_reply(reply: Reply) -> dict[str, Any]:
    """S1's four fields, and what it took."""
    return {
        "text": reply.text,
        "conversation_id": reply.conversation_id,
        "model": reply.model,
        "tokens_used": reply.usage.total_tokens,
        "provider": reply.provider,
        "usage": reply.usage.to_openai(),
        "cost": to_dollars(reply.cost),
    }


def write_history(conversation: Conversation, turns: Iterable[Turn]) -> dict[str, Any]:
    """S1's history."""
    return {"conversation_id": conversation.id, "messages": [_write_turn(turn) for turn in turns]}


def _write_turn(turn: Turn) -> dict[str, Any]:
    """S1's two fields; ``interrupted`` only where the caller had hung up."""
    mark = {"interrupted": True} if turn.interrupted else {}
    return {"role": turn.role, "content": turn.content, **mark}


def write_summary(conversation: Conversation) -> dict[str, Any]:
    """A conversation without its messages."""
    return {
        "id": conversation.id,
        "title": conversation.title,
        "length": conversation.length,
        "created_at": iso(conversation.created_at),
        "updated_at": iso(conversation.updated_at),
    }


def write_conversation(conversation: Conversation, turns: Iterable[Turn]) -> dict[str, Any]:
    """A conversation with all of it."""
    messages = [_write_turn(turn) for turn in turns]
    return {**write_summary(conversation), "system": conversation.system, "messages": messages}


def write_list(page: Page) -> dict[str, Any]:
    """``{status, data: […], next}``."""
    following = str(page.next) if page.next else None
    return {"status": "success", "data": [write_summary(one) for one in page.found], "next": following}


def write_events(stream: Iterable[str | Reply | DomainError | None], request_id: str) -> Iterator[bytes]:
    """Server-sent events: ``delta`` for each piece, at the end ``done`` with S1's data, or ``error``."""
    for item in stream:
        if item is None:
            yield PING
        elif isinstance(item, str):
            yield _event("delta", {"text": item})
        elif isinstance(item, DomainError):
            yield _event("error", errors.house(item, request_id))
        else:
            yield _event("done", write_reply(item))


def _event(name: str, data: Mapping[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"
