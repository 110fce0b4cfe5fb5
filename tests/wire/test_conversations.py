"""S1's shapes: what is taken, what is refused by name, and how it is written."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from flaskllm.domain.conversation import Conversation, Cursor, Page, Reply, Turn
from flaskllm.domain.usage import Usage
from flaskllm.errors import InvalidRequest, Unavailable
from flaskllm.wire import conversations as wire

AT = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
HELD = Conversation("my-notes", "Hello", 2, AT, AT)
REPLY = Reply("my-notes", "Hi there!", "gemini-pro", "gemini", Usage(input=100, output=50), 1_500_000)


def test_the_seeds_message_is_taken():
    said = wire.read_message({"message": "Hello, how are you?", "conversation_id": "optional-conversation-id"})
    assert (said.message, said.conversation_id) == ("Hello, how are you?", "optional-conversation-id")
    assert (said.params, said.model, said.stream) == ({}, None, False)


def test_everything_that_may_stand_in_a_message():
    said = wire.read_message(
        {
            "message": "hi",
            "model": "gpt-4o",
            "provider": "openai",
            "system": "be kind",
            "temperature": 0.5,
            "max_tokens": 10,
            "stream": True,
        }
    )
    assert (said.model, said.provider, said.system, said.stream) == ("gpt-4o", "openai", "be kind", True)
    assert said.params == {"temperature": 0.5, "max_tokens": 10}


def test_a_tier_is_a_choice_of_model():
    assert wire.read_message({"message": "hi", "tier": "small"}).model == "small"


def test_null_is_as_if_left_out():
    fields = ("conversation_id", "model", "provider", "tier", "system", "temperature", "max_tokens", "stream")
    assert wire.read_message({"message": "hi", **dict.fromkeys(fields)}) == wire.read_message({"message": "hi"})


@pytest.mark.parametrize(
    "body, field",
    [
        ({}, "message"),
        ({"message": None}, "message"),
        ({"message": ""}, "message"),
        ({"message": " \n"}, "message"),
        ({"message": 5}, "message"),
        ({"message": ["hi"]}, "message"),
        ({"message": "a\x00b"}, "message"),
        ({"message": "hi", "conversation_id": 5}, "conversation_id"),
        ({"message": "hi", "temperature": "0.5"}, "temperature"),
        ({"message": "hi", "temperature": True}, "temperature"),
        ({"message": "hi", "temperature": 2.1}, "temperature"),
        ({"message": "hi", "max_tokens": 0}, "max_tokens"),
        ({"message": "hi", "max_tokens": 1.5}, "max_tokens"),
        ({"message": "hi", "max_tokens": True}, "max_tokens"),
        ({"message": "hi", "stream": "true"}, "stream"),
        ({"message": "hi", "stream": 1}, "stream"),
        ({"message": "hi", "tier": "huge"}, "tier"),
        ({"message": "hi", "tier": "small", "model": "gpt-4o"}, "tier"),
        ({"message": "hi", "model": ""}, "model"),
        ({"message": "hi", "system": ["be kind"]}, "system"),
        ({"message": "hi", "user_id": "somebody"}, "user_id"),
    ],
)
def test_what_is_wrong_is_named(body, field):
    with pytest.raises(InvalidRequest) as refused:
        wire.read_message(body)
    assert field in [detail["field"] for detail in refused.value.details]


@pytest.mark.parametrize("title", ["", "  ", "x" * 201, "a\x00", None, 5])
def test_a_title_is_some_text_of_bounded_length(title):
    with pytest.raises(InvalidRequest, match="title"):
        wire.read_title({"title": title})


@pytest.mark.parametrize("search", ["a\x00", "x" * 201])
def test_a_search_is_bounded_text(search):
    with pytest.raises(InvalidRequest, match="search"):
        wire.read_search({"search": search})


def test_an_empty_search_is_none():
    assert wire.read_search({"search": ""}) is None
    assert wire.read_search({}) is None


def test_a_history_needs_an_id():
    with pytest.raises(InvalidRequest, match="conversation_id"):
        wire.read_conversation_id({})


def test_a_reply_has_the_seeds_four_fields_and_what_it_took():
    written = wire.write_reply(REPLY)
    assert {name: written[name] for name in ("text", "conversation_id", "model", "tokens_used")} == {
        "text": "Hi there!",
        "conversation_id": "my-notes",
        "model": "gemini-pro",
        "tokens_used": 150,
    }
    assert (written["provider"], written["cost"]) == ("gemini", 0.0015)
    assert written["usage"]["prompt_tokens"] == 100


def test_a_cost_that_nobody_knows_is_null():
    reply = Reply("a", "b", "m", "p", Usage(), None)
    assert wire.write_reply(reply)["cost"] is None


def test_a_history_is_the_seeds():
    turns = [Turn("user", "Hello"), Turn("assistant", "Hi there!")]
    assert wire.write_history(HELD, turns) == {
        "conversation_id": "my-notes",
        "messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi there!"}],
    }


def test_what_was_cut_short_says_so():
    assert wire.write_history(HELD, [Turn("assistant", "Hi", True)])["messages"][0]["interrupted"] is True


def test_a_conversation_as_a_document():
    assert wire.write_conversation(HELD, []) == {
        "id": "my-notes",
        "title": "Hello",
        "length": 2,
        "created_at": "2026-11-21T09:30:00Z",
        "updated_at": "2026-11-21T09:30:00Z",
        "system": None,
        "messages": [],
    }


def test_a_list_names_where_the_next_one_begins():
    listed = wire.write_list(Page((HELD,), Cursor(5, "my-notes")))
    assert (listed["status"], listed["next"], len(listed["data"])) == ("success", "5.my-notes", 1)
    assert wire.write_list(Page(()))["next"] is None


def test_a_stream_is_events():
    events = list(wire.write_events(["Hi\n", None, "中"], "r"))
    assert events == [
        b'event: delta\ndata: {"text":"Hi\\n"}\n\n',
        b": ping\n\n",
        'event: delta\ndata: {"text":"中"}\n\n'.encode(),
    ]


def test_a_stream_ends_with_what_an_unstreamed_answer_holds():
    (event,) = wire.write_events([REPLY], "r")
    head, data = event.decode().strip().split("\n")
    assert head == "event: done"
    assert json.loads(data.removeprefix("data: ")) == wire.write_reply(REPLY)


def test_a_stream_that_fails_ends_with_the_error():
    (event,) = wire.write_events([Unavailable("away")], "req-1")
    head, data = event.decode().strip().split("\n")
    assert head == "event: error"
    assert json.loads(data.removeprefix("data: ")) == {
        "status": "error",
        "error": {"code": "unavailable", "message": "away", "details": [], "request_id": "req-1"},
    }
