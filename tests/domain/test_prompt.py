"""Templates substitute and do nothing else."""

from __future__ import annotations

import time

import pytest

from flaskllm.domain.prompt import PromptAsk, PromptKind, read_template, render
from flaskllm.errors import InvalidRequest

GADGETS = [
    "{{7*7}}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{% include 'secrets' %}",
    "{{ request.environ }}",
    "{{ x|attr('__class__') }}",
    "{{ config }}",
    "{0.__class__}",
    "%(text)s",
    "$text ${text}",
    "{{ text }}",
    "\\1 \\g<0>",
]


@pytest.mark.parametrize("gadget", GADGETS)
def test_a_value_is_put_in_literally(gadget):
    assert render("<{{ text }}>", {"text": gadget}) == f"<{gadget}>"


@pytest.mark.parametrize("gadget", [one for one in GADGETS if one != "{{ text }}"])
def test_a_template_is_text_but_for_declared_variables(gadget):
    assert render(gadget, {"text": "hello"}) == gadget


def test_a_value_is_not_looked_at_for_variables():
    assert render("{{ a }}{{ b }}", {"a": "{{ b }}", "b": "{{ a }}"}) == "{{ b }}{{ a }}"


def test_spaces_inside_the_braces_do_not_matter():
    assert render("{{a}}{{  a  }}{{\na }}", {"a": "1"}) == "111"


def test_many_braces_take_no_time():
    started = time.monotonic()
    render("{{ " * 200_000, {"a": "b"})
    assert time.monotonic() - started < 1


def template(**changes):
    document = {"type": "custom", "user": "{{ text }}", "variables": {"text": None}, **changes}
    return read_template("t", document)


def test_a_missing_variable_is_named():
    with pytest.raises(InvalidRequest) as refused:
        template(user="{{ a }}", variables={"a": None}).messages({})
    assert refused.value.details[0]["field"] == "variables.a"


def test_a_missing_text_is_named_as_the_prompt():
    with pytest.raises(InvalidRequest) as refused:
        template().messages({})
    assert refused.value.details[0]["field"] == "prompt"


def test_what_was_not_declared_is_refused_by_name():
    with pytest.raises(InvalidRequest, match=r"variables\.other"):
        template().messages({"text": "a", "other": "b"})


def test_a_default_fills_what_was_not_given():
    made = template(user="{{ text }} in {{ tone }}", variables={"text": None, "tone": "plain words"})
    assert made.messages({"text": "a"})[0]["content"] == "a in plain words"


def test_a_template_that_uses_what_it_does_not_declare_is_refused():
    with pytest.raises(InvalidRequest):
        template(user="{{ text }} {{ more }}")


def test_custom_goes_to_the_model_as_it_is():
    ask = PromptAsk({"text": "Do it."})
    assert ask.messages(template()) == [{"role": "user", "content": "Do it."}]
    assert ask.template_name == "custom"


def test_a_language_is_asked_for_where_the_template_has_no_place_for_it():
    messages = PromptAsk({"text": "a"}, language="de").messages(template())
    assert messages[0] == {"role": "system", "content": "Answer in German."}


def test_a_language_goes_where_the_template_has_a_place_for_it():
    made = template(system="In {{ language }}.", variables={"text": None, "language": "any"})
    assert PromptAsk({"text": "a"}, language="fr").messages(made)[0]["content"] == "In French."


def test_a_translation_needs_a_language():
    made = template(type="translation")
    with pytest.raises(InvalidRequest) as refused:
        PromptAsk({"text": "a"}).messages(made)
    assert refused.value.details[0]["field"] == "language"


def test_type_and_template_must_agree():
    with pytest.raises(InvalidRequest, match="type"):
        PromptAsk({"text": "a"}, kind=PromptKind.SUMMARY, template="t").messages(template())


def test_a_variable_that_stands_there_a_thousand_times_makes_no_gigabyte() -> None:
    made = template(user="{{a}}" * 20_000, variables={"a": None})
    assert len(made.messages({"a": "x" * 100})[-1]["content"]) == 2_000_000
    with pytest.raises(InvalidRequest, match="variables"):
        made.messages({"a": "x" * 100_000})
