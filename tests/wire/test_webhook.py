"""S3's shapes: what is taken, what is refused by name, and how it is written."""

from __future__ import annotations

import pytest

from flaskllm.domain.answer import Answer
from flaskllm.domain.catalogue import Candidate, Endpoint, Model, Provider
from flaskllm.domain.chat import ChatResult
from flaskllm.domain.prompt import PromptAnswer, PromptKind
from flaskllm.domain.usage import Usage
from flaskllm.errors import InvalidRequest
from flaskllm.repositories.prompts import shipped
from flaskllm.wire import templates
from flaskllm.wire import webhook as wire

LONGEST = 4000


def read(**body):
    return wire.read_prompt(body, longest=LONGEST)


def test_the_seeds_prompt_is_taken():
    ask = read(prompt="Summarize this meeting.", source="meeting", language="en", type="summary")
    assert (ask.variables, ask.source, ask.language) == ({"text": "Summarize this meeting."}, "meeting", "en")
    assert (ask.kind, ask.template_name) == (PromptKind.SUMMARY, "summary")


def test_a_prompt_alone_goes_to_the_model_as_it_is():
    assert read(prompt="Do it.").template_name == "custom"


def test_variables_may_hold_the_text():
    assert read(template="summary", variables={"text": "{{7*7}}"}).variables == {"text": "{{7*7}}"}


def test_a_number_is_text_too():
    assert read(prompt="a", variables={"count": 3, "share": 0.5}).variables["count"] == "3"


def test_null_is_as_if_left_out():
    fields = ("source", "language", "type", "model", "template", "variables")
    assert read(prompt="a", **dict.fromkeys(fields)) == read(prompt="a")


def test_a_language_may_be_written_large():
    assert read(prompt="a", language="EN").language == "en"


@pytest.mark.parametrize("prompt", ["x" * LONGEST, "😀" * LONGEST])
def test_the_longest_prompt_is_counted_in_characters(prompt):
    assert read(prompt=prompt).variables["text"] == prompt


@pytest.mark.parametrize(
    "body, field",
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"prompt": {"a": "b"}}, "prompt"),
        ({"prompt": "a\x00"}, "prompt"),
        ({"prompt": "x" * 4001}, "prompt"),
        ({"prompt": "😀" * 4001}, "prompt"),
        ({"prompt": "hi", "type": "nope"}, "type"),
        ({"prompt": "hi", "type": "Summary"}, "type"),
        ({"prompt": "hi", "source": "fax"}, "source"),
        ({"prompt": "hi", "language": "xx"}, "language"),
        ({"prompt": "hi", "language": "xx-invalid"}, "language"),
        ({"prompt": "hi", "language": "english"}, "language"),
        ({"prompt": "hi", "language": ""}, "language"),
        ({"prompt": "hi", "language": 1}, "language"),
        ({"prompt": "hi", "model": ["gpt-4"]}, "model"),
        ({"prompt": "hi", "template": 5}, "template"),
        ({"prompt": "hi", "variables": ["a"]}, "variables"),
        ({"prompt": "hi", "variables": {"a": {"b": "c"}}}, "variables.a"),
        ({"prompt": "hi", "variables": {"a": None}}, "variables.a"),
        ({"prompt": "hi", "variables": {"a": True}}, "variables.a"),
        ({"prompt": "hi", "variables": {"a": "x" * 4001}}, "variables.a"),
        ({"prompt": "hi", "variables": {"a b": "c"}}, "variables"),
        ({"prompt": "hi", "variables": {f"a{n}": "c" for n in range(33)}}, "variables"),
        ({"prompt": "hi", "variables": {"text": "c"}}, "variables.text"),
        ({"variables": {"text": " "}}, "variables.text"),
        ({"variables": {"text": "x" * 4001}}, "variables.text"),
        ({"prompt": "hi", "api_base": "http://evil.example"}, "api_base"),
    ],
)
def test_what_is_wrong_is_named(body, field):
    with pytest.raises(InvalidRequest) as refused:
        read(**body)
    assert field in [detail["field"] for detail in refused.value.details]


def told(**changes) -> PromptAnswer:
    candidate = Candidate(Provider("openai", "openai"), Model("m", "openai", "gpt-4", "gpt-4"), Endpoint("main", ""))
    result = ChatResult({"model": "gpt-4", "choices": []}, None)
    answer = Answer(result, candidate, Usage(input=10, output=5), 1000)
    return PromptAnswer(
        **{"text": "a", "result": None, "kind": PromptKind.SUMMARY, "answer": answer, "seconds": 1.25004, **changes}
    )


def test_an_answer_is_the_seeds_and_more():
    assert wire.write_answer(told(text="The company plans to reduce hiring to cut costs."), "r-1") == {
        "summary": "The company plans to reduce hiring to cut costs.",
        "processing_time": 1.25,
        "type": "summary",
        "model": "gpt-4",
        "result": None,
        "usage": Usage(input=10, output=5).to_openai(),
        "request_id": "r-1",
    }


def test_the_typed_form_stands_beside_the_text():
    written = wire.write_answer(told(text='["a"]', result=["a"], kind=PromptKind.KEYWORDS), "r")
    assert (written["summary"], written["result"], written["type"]) == ('["a"]', ["a"], "keywords")


def test_the_usage_row_remembers_what_kind_of_prompt_it_was():
    assert wire.write_metadata(read(prompt="a", type="summary", source="email")) == {
        "template": "summary",
        "source": "email",
    }


def test_health_is_the_seeds():
    assert wire.write_health("1.0.0", "production") == {"status": "ok", "version": "1.0.0", "environment": "production"}


def test_the_six_types_are_templates():
    listed = templates.write_templates(shipped().values())
    assert [one["name"] for one in listed["data"]] == [kind.value for kind in PromptKind]
    assert all(one["name"] == one["type"] and one["shipped"] for one in listed["data"])
    assert listed["next"] is None
