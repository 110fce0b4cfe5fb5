"""Conversations against the simulator: what is sent, what is stored, and what a hang-up leaves."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask

from flaskllm.domain.call import CallContext
from flaskllm.domain.conversation import Reply, Said, new_name
from flaskllm.domain.principal import Principal
from flaskllm.errors import ContextLengthExceeded, DomainError, InvalidRequest, NotFound, ProviderError, Unavailable
from flaskllm.services import Services
from flaskllm.services.conversations import ConversationService
from tests.conftest import MakeApp, provider_environment
from tests.upstream import Upstream, faults


def context(user: str = "u1", *, seconds: float = 10) -> CallContext:
    who = Principal(user_id=user, username=user, scopes=frozenset({"chat"}))
    return CallContext(principal=who, request_id="r", door="conversations", deadline=time.monotonic() + seconds)


def said(message: str = "Hello", conversation_id: str | None = "notes", **fields: Any) -> Said:
    return Said(**{"message": message, "params": {}, "conversation_id": conversation_id, **fields})


pytestmark = pytest.mark.usefixtures("drained")


@pytest.fixture
def services(make_app: MakeApp, upstream: Upstream) -> Services:
    app: Flask = make_app(**provider_environment(upstream, "openai"))
    return app.extensions["flaskllm"]


@pytest.fixture
def talks(services: Services) -> ConversationService:
    return services.conversations


def history(talks: ConversationService, name: str = "notes", user: str = "u1") -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in talks.read(name, context(user).principal)[1]]


def answers(upstream: Upstream, *texts: str) -> None:
    for words in texts:
        upstream.script(faults.text(words), times=1)


def sent(upstream: Upstream) -> list[Any]:
    return [(message["role"], message["content"]) for message in upstream.requests[-1].body["messages"]]


def test_a_message_and_its_answer_are_stored(talks, upstream):
    answers(upstream, "Hi there!")
    reply = talks.say(said(), context())
    assert (reply.text, reply.conversation_id, reply.provider) == ("Hi there!", "notes", "openai")
    assert history(talks) == [("user", "Hello"), ("assistant", "Hi there!")]


def test_the_whole_conversation_goes_to_the_model(talks, upstream):
    answers(upstream, "Hi there!", "Ann.")
    talks.say(said("I am Ann."), context())
    talks.say(said("Who am I?"), context())
    assert sent(upstream) == [("user", "I am Ann."), ("assistant", "Hi there!"), ("user", "Who am I?")]


def test_without_an_id_a_new_one_begins(talks):
    first, second = (talks.say(said(conversation_id=None), context()) for _ in range(2))
    assert first.conversation_id != second.conversation_id
    assert len(history(talks, first.conversation_id)) == 2
    talks.say(said(conversation_id=first.conversation_id.upper()), context())
    assert len(history(talks, first.conversation_id)) == 4


def test_an_id_that_we_did_not_give_out_begins_nothing(talks, upstream):
    with pytest.raises(NotFound):
        talks.say(said(conversation_id=new_name()), context())
    assert upstream.requests == []


def test_somebody_elses_id_begins_nothing_either(talks, upstream):
    theirs = talks.say(said(conversation_id=None), context("other")).conversation_id
    with pytest.raises(NotFound):
        talks.say(said(conversation_id=theirs), context())
    assert len(history(talks, theirs, "other")) == 2


def test_two_people_may_use_one_name(talks, upstream):
    answers(upstream, "yours", "theirs")
    talks.say(said("a"), context("u1"))
    talks.say(said("b"), context("u2"))
    assert history(talks, user="u1") == [("user", "a"), ("assistant", "yours")]
    assert history(talks, user="u2") == [("user", "b"), ("assistant", "theirs")]


@pytest.mark.parametrize("name", ["", "a b", "conv:*", "x" * 65])
def test_what_no_conversation_can_be_called_is_refused(talks, upstream, name):
    with pytest.raises(InvalidRequest, match="conversation_id"):
        talks.say(said(conversation_id=name), context())
    with pytest.raises(NotFound):
        talks.read(name, context().principal)
    assert upstream.requests == []


def test_the_system_message_stays_until_another_one_comes(talks, upstream):
    talks.say(said("one", system="be kind"), context())
    talks.say(said("two"), context())
    assert sent(upstream)[0] == ("system", "be kind")
    talks.say(said("three", system="be brief"), context())
    assert sent(upstream)[0] == ("system", "be brief")
    assert ("system", "be kind") not in sent(upstream)


def test_parameters_go_to_the_model(talks, upstream):
    talks.say(said(params={"temperature": 0.5, "max_tokens": 7}, model="gpt-4o"), context())
    body = upstream.requests[-1].body
    assert (body["model"], body["temperature"]) == ("gpt-4o", 0.5)


def test_a_failure_leaves_no_half_turn(talks, upstream):
    upstream.script(faults.status(500))
    with pytest.raises(ProviderError):
        talks.say(said(), context())
    with pytest.raises(NotFound):
        history(talks)


def test_a_failure_leaves_what_was_there(talks, upstream):
    talks.say(said(), context())
    before = history(talks)
    upstream.script(faults.status(400))
    with pytest.raises(DomainError):
        talks.say(said("again"), context())
    assert history(talks) == before


def test_two_messages_at_once_both_end_up_in_it(talks, upstream):
    talks.say(said("first"), context())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: talks.say(said(f"question {n}"), context()), range(4)))
    told = history(talks)
    assert [role for role, _ in told] == ["user", "assistant"] * 5
    assert {text for role, text in told if role == "user"} == {"first", *(f"question {n}" for n in range(4))}


def test_one_deleted_while_it_was_answered_stays_deleted(talks, services, upstream):
    name = talks.say(said(conversation_id=None), context()).conversation_id
    upstream.script(faults.first_delay(0.5), times=1)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(talks.say, said("late", conversation_id=name), context())
        time.sleep(0.2)
        talks.delete(name, context().principal)
        assert late.result().text
    with pytest.raises(NotFound):
        history(talks, name)


def test_a_conversation_is_trimmed_to_the_models_window(services, upstream):
    talks = ConversationService(services.conversations._store, services.chat, window=lambda *_: 6_000)
    for number in range(6):
        answers(upstream, f"{number} " + "b" * 4_000)
        talks.say(said(f"{number} " + "a" * 4_000, system="be kind"), context())
    messages = sent(upstream)
    assert messages[0] == ("system", "be kind")
    assert messages[1][0] == "user"
    assert messages[-1][1].startswith("5 ")
    assert 3 < len(messages) < 8
    assert len(history(talks)) == 12


def too_long() -> Any:
    error = {"type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}
    return faults.raw({"error": {"message": "too long", **error}}, code=400)


def test_a_model_that_finds_it_too_long_is_sent_half(talks, upstream):
    for number in range(4):
        talks.say(said(f"{number} " + "a" * 400), context())
    upstream.script(too_long(), times=1)
    talks.say(said("last"), context())
    full, half = (len(one.body["messages"]) for one in upstream.requests[-2:])
    assert half < full
    assert sent(upstream)[-1] == ("user", "last")


def test_one_message_that_is_too_long_is_told_at_once(talks, upstream):
    upstream.script(too_long())
    with pytest.raises(DomainError) as refused:
        talks.say(said(system="be kind"), context())
    assert refused.value.code == ContextLengthExceeded.code
    assert len(upstream.requests) == 1


# -- streamed ---------------------------------------------------------------------------------------------------------


def test_a_stream_gives_pieces_and_at_the_end_the_whole(talks, upstream):
    answers(upstream, "one two three")
    stream = talks.say_streamed(said(stream=True), context())
    *pieces, reply = [item for item in stream if item is not None]
    assert "".join(pieces) == "one two three"
    assert isinstance(reply, Reply)
    assert (reply.text, reply.conversation_id, reply.provider) == ("one two three", "notes", "openai")
    assert reply.usage.total_tokens > 0
    stream.close()


def test_the_turn_is_stored_before_the_end_is_told(talks, upstream):
    answers(upstream, "one two three")
    for item in talks.say_streamed(said(stream=True), context()):
        if isinstance(item, Reply):
            assert history(talks) == [("user", "Hello"), ("assistant", "one two three")]


def test_a_hang_up_stores_what_was_said_and_marks_it(talks, upstream):
    answers(upstream, "one two three four five six")
    stream = talks.say_streamed(said(stream=True), context())
    heard = [next(stream), next(stream)]
    stream.close()
    stream.close()
    _, turns = talks.read("notes", context().principal)
    assert [turn.content for turn in turns] == ["Hello", "".join(heard)]
    assert [turn.interrupted for turn in turns] == [False, True]
    assert list(stream) == []


def test_a_hang_up_before_the_first_word_stores_nothing(talks):
    talks.say_streamed(said(stream=True), context()).close()
    with pytest.raises(NotFound):
        history(talks)


def test_a_whole_stream_is_stored_once(talks):
    stream = talks.say_streamed(said(stream=True), context())
    list(stream)
    stream.close()
    assert len(history(talks)) == 2


def test_a_provider_that_breaks_off_leaves_no_half_turn(talks, upstream):
    upstream.script(faults.text("one two three four") + faults.reset_after(3))
    stream = talks.say_streamed(said(stream=True), context())
    items = list(stream)
    stream.close()
    assert isinstance(items[-1], DomainError)
    with pytest.raises(NotFound):
        history(talks)


def test_a_stream_that_cannot_begin_raises(talks, upstream):
    upstream.script(faults.status(500))
    with pytest.raises(ProviderError):
        talks.say_streamed(said(stream=True), context())


def test_a_stream_tells_what_the_headers_need(talks):
    stream = talks.say_streamed(said(stream=True), context())
    assert stream.candidate is not None
    assert (stream.attempts, stream.dropped) == (1, ())
    assert stream.rates
    stream.close()


# -- the store away ---------------------------------------------------------------------------------------------------


@pytest.fixture
def without_redis(make_app: MakeApp, upstream: Upstream) -> ConversationService:
    app = make_app(**provider_environment(upstream, "openai"), REDIS_URL="redis://127.0.0.1:9/0")
    return app.extensions["flaskllm"].conversations


@pytest.mark.alone
@pytest.mark.parametrize("way", ["say", "say_streamed"])
def test_with_redis_away_nothing_is_spent_and_nothing_begins_elsewhere(without_redis, upstream, way):
    started = time.monotonic()
    with pytest.raises(Unavailable):
        getattr(without_redis, way)(said(), context())
    assert time.monotonic() - started < 1
    assert upstream.requests == []
