"""The webhook's use case against the simulator: typed answers, one second asking, and who may use which template."""

from __future__ import annotations

import time
from typing import Any

import pytest
from flask import Flask

from flaskllm.domain.call import CallContext
from flaskllm.domain.principal import Principal
from flaskllm.domain.prompt import PromptAnswer, PromptAsk, PromptKind
from flaskllm.errors import Forbidden, InvalidRequest, NotFound, ProviderTimeout
from tests.conftest import MakeApp, provider_environment
from tests.upstream import Upstream, faults

GOOD: dict[PromptKind, tuple[str, Any]] = {
    PromptKind.SUMMARY: ("They hire less.", None),
    PromptKind.KEYWORDS: ('["hiring", "costs"]', ["hiring", "costs"]),
    PromptKind.SENTIMENT: ('{"label": "negative", "score": 0.9}', {"label": "negative", "score": 0.9}),
    PromptKind.ENTITIES: ('[{"text": "Ann", "type": "PERSON"}]', [{"text": "Ann", "type": "PERSON"}]),
    PromptKind.TRANSLATION: ("Sie stellen weniger ein.", None),
    PromptKind.CUSTOM: ("Done.", None),
}
NONSENSE, MORE_NONSENSE = "I would rather not say.", '{"still": "nonsense"'
TYPED = (PromptKind.KEYWORDS, PromptKind.SENTIMENT, PromptKind.ENTITIES)
TEXT = (PromptKind.SUMMARY, PromptKind.TRANSLATION, PromptKind.CUSTOM)


def context(*, seconds: float = 10, **principal: Any) -> CallContext:
    who = Principal(user_id="u1", username="u1", scopes=frozenset({"webhook"}), **principal)
    return CallContext(principal=who, request_id="r", door="webhook", deadline=time.monotonic() + seconds)


@pytest.fixture
def openai_gateway(make_app: MakeApp, upstream: Upstream) -> Flask:
    return make_app(**provider_environment(upstream, "openai"))


@pytest.fixture
def ask(openai_gateway: Flask, upstream: Upstream):
    """``ask(kind, *answers of the model)`` → `PromptAnswer`."""

    def run(kind: PromptKind | None, *answers: str, call: CallContext | None = None, **fields: Any) -> PromptAnswer:
        for words in answers:
            upstream.script(faults.text(words), times=1)
        fields.setdefault("variables", {"text": "We need to reduce hiring."})
        language = "de" if kind is PromptKind.TRANSLATION else None
        wanted = PromptAsk(**{"kind": kind, "language": language, **fields})
        return openai_gateway.extensions["flaskllm"].prompts.answer(wanted, call or context())

    return run


@pytest.mark.parametrize("kind", list(PromptKind))
def test_a_good_answer_is_text_and_its_typed_form(ask, upstream, kind):
    words, result = GOOD[kind]
    told = ask(kind, words)
    assert (told.text, told.result, told.kind) == (words, result, kind)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("kind", TYPED)
def test_a_malformed_answer_is_asked_for_once_more_with_the_fault_named(ask, upstream, kind):
    words, result = GOOD[kind]
    told = ask(kind, NONSENSE, words)
    assert (told.text, told.result) == (words, result)
    *_, said, reproach = upstream.requests[1].body["messages"]
    assert said == {"role": "assistant", "content": NONSENSE}
    assert "JSON" in reproach["content"]


@pytest.mark.parametrize("kind", TYPED)
def test_what_stays_malformed_is_text_without_a_typed_form(ask, upstream, kind):
    told = ask(kind, NONSENSE, MORE_NONSENSE)
    assert (told.text, told.result) == (MORE_NONSENSE, None)
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("kind", TEXT)
@pytest.mark.parametrize("words", [NONSENSE, MORE_NONSENSE])
def test_text_alone_cannot_be_malformed(ask, upstream, kind, words):
    told = ask(kind, words)
    assert (told.text, told.result) == (words, None)
    assert len(upstream.requests) == 1


def test_both_askings_are_counted_and_paid_for(ask, upstream):
    told = ask(PromptKind.KEYWORDS, NONSENSE, '["a", "b"]')
    upstream.wait_idle()
    first, second = upstream.bill
    assert told.usage.prompt_tokens == first.input + second.input
    assert told.usage.completion_tokens == first.output + second.output
    assert told.answer.attempts == 2
    assert told.cost is not None
    assert told.cost > 0


def test_a_second_asking_that_fails_leaves_the_first_text(ask, upstream):
    upstream.script(faults.text(NONSENSE), times=1)
    upstream.script(faults.status(400), times=1)
    told = ask(PromptKind.KEYWORDS)
    assert (told.text, told.result) == (NONSENSE, None)


@pytest.mark.parametrize("words", ['{"keywords": 5}', "[" * 10_000, '["' + "x" * 1_000_000 + '"]'])
def test_hostile_answers_are_bounded(ask, words):
    started = time.monotonic()
    assert ask(PromptKind.KEYWORDS, words, words).result is None
    assert time.monotonic() - started < 5


def test_a_prompt_without_a_type_goes_to_the_model_as_it_is(ask, upstream):
    ask(None, "Done.")
    assert upstream.requests[0].body["messages"] == [{"role": "user", "content": "We need to reduce hiring."}]


def test_the_text_stands_apart_from_what_is_asked(ask, upstream):
    ask(PromptKind.SUMMARY, "ok", source="meeting", language="fr")
    system, user = upstream.requests[0].body["messages"]
    assert user == {"role": "user", "content": "We need to reduce hiring."}
    assert "meeting" in system["content"]
    assert "in French" in system["content"]


def test_what_was_left_out_reads_well(ask, upstream):
    ask(PromptKind.SUMMARY, "ok")
    system = upstream.requests[0].body["messages"][0]["content"]
    assert "in the language of the text" in system
    assert "{{" not in system


@pytest.mark.parametrize("value", ["{{7*7}}", "{{ language }}", "{% include 'secrets' %}", "{{ x|attr('__class__') }}"])
def test_a_variables_content_is_never_run(ask, upstream, value):
    ask(PromptKind.SUMMARY, "ok", variables={"text": value})
    assert upstream.requests[0].body["messages"][-1]["content"] == value


def test_the_callers_model_is_asked(ask, upstream):
    ask(None, "ok", model="gpt-4o-mini")
    assert upstream.requests[0].model == "gpt-4o-mini"


@pytest.mark.parametrize("name", ["nope", "../../secret", "Summary", "__init__"])
def test_a_template_is_a_name_and_nothing_else(ask, upstream, name):
    with pytest.raises(NotFound):
        ask(None, template=name)
    assert upstream.requests == []


def test_a_translation_needs_a_language(ask, upstream):
    with pytest.raises(InvalidRequest, match="language"):
        ask(PromptKind.TRANSLATION, language=None)
    assert upstream.requests == []


def test_what_the_template_does_not_declare_is_refused(ask, upstream):
    with pytest.raises(InvalidRequest, match=r"variables\.tone"):
        ask(PromptKind.SUMMARY, variables={"text": "a", "tone": "b"})
    assert upstream.requests == []


def test_a_workbook_token_uses_its_own_templates(ask):
    assert ask(PromptKind.KEYWORDS, "- a\n- b", call=context(templates=("keywords",))).result == ["a", "b"]


@pytest.mark.parametrize("fields", [{}, {"kind": PromptKind.SUMMARY}, {"template": "summary"}, {"template": "nope"}])
def test_a_workbook_token_uses_no_others(ask, upstream, fields):
    with pytest.raises(Forbidden):
        ask(fields.pop("kind", None), call=context(templates=("keywords",)), **fields)
    assert upstream.requests == []


def test_seconds_are_those_of_the_call(ask, upstream):
    upstream.script(faults.delay(0.3) + faults.text("ok"), times=1)
    assert 0.3 <= ask(None).seconds < 3


def test_a_provider_that_stays_silent_is_a_time_out(ask, upstream):
    upstream.script(faults.hang())
    with pytest.raises(ProviderTimeout):
        ask(None, call=context(seconds=1))
