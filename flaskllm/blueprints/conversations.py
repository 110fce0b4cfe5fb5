"""Conversations (S1): ``/llm/*``."""

from __future__ import annotations

from flask import Blueprint, Response

from flaskllm.blueprints._calls import call_headers, new_call, stream_response
from flaskllm.blueprints._doc import PAGE, documented, parameter
from flaskllm.blueprints._guard import current_principal
from flaskllm.blueprints._http import json_body, json_response, no_content, page, query, success
from flaskllm.blueprints._once import once
from flaskllm.domain.conversation import MOST_SEARCH, read_cursor
from flaskllm.extensions import services
from flaskllm.wire import conversations as wire

bp = Blueprint("conversations", __name__)


@bp.post("/chat")
@documented(
    "Say something in a conversation, new or begun",
    body=wire.MessageSchema,
    answer=wire.REPLY,
    streams=True,
    errors=(409,),
    description="Streamed, the events are `delta` `{text}`, `done` with the data, `error`.",
)
@once
def chat() -> Response:
    said = wire.read_message(json_body())
    call = new_call("conversations")
    if said.stream:
        stream = services.conversations.say_streamed(said, call)
        return stream_response(wire.write_events(stream, call.request_id), stream)
    reply = services.conversations.say(said, call)
    response = success(wire.write_reply(reply))
    response.headers.update(call_headers(reply.answer))
    return response


@bp.get("/get-conversation-history")
@documented(
    "What was said in a conversation",
    answer=wire.HISTORY,
    query=(parameter("conversation_id", "The conversation", wire.NAME, required=True),),
    errors=(404,),
)
def read_history() -> Response:
    name = wire.read_conversation_id(query("conversation_id"))
    return success(wire.write_history(*services.conversations.read(name, current_principal())))


@bp.get("/conversations")
@documented(
    "One's own conversations, newest first",
    answer=wire.LIST,
    query=(*PAGE, parameter("search", "Words in the title", {"type": "string", "maxLength": MOST_SEARCH})),
)
def list_conversations() -> Response:
    limit, after, others = page("search")
    found = services.conversations.page(
        current_principal(),
        limit=limit,
        search=wire.read_search(others),
        after=read_cursor(after) if after else None,
    )
    return json_response(wire.write_list(found))


@bp.get("/conversations/<name>")
@documented("A conversation with all of it", answer=wire.CONVERSATION)
def read_conversation(name: str) -> Response:
    return success(wire.write_conversation(*services.conversations.read(name, current_principal())))


@bp.patch("/conversations/<name>")
@documented("Rename a conversation", body=wire.TitleSchema, answer=wire.SUMMARY)
def rename_conversation(name: str) -> Response:
    title = wire.read_title(json_body())
    return success(wire.write_summary(services.conversations.rename(name, title, current_principal())))


@bp.delete("/conversations/<name>")
@documented("Forget a conversation", status=204)
def delete_conversation(name: str) -> Response:
    services.conversations.delete(name, current_principal())
    return no_content()
