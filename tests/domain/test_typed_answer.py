"""Typed answers are read as models write them, and nonsense is not."""

from __future__ import annotations

import json
import time

import pytest

from flaskllm.domain.prompt import PromptKind
from flaskllm.domain.typed_answer import LABELS, Malformed, expected_form, parse


@pytest.mark.parametrize(
    "text",
    [
        '["hiring", "costs"]',
        '```json\n["hiring", "costs"]\n```',
        '```\n["hiring", "costs"]```',
        'Here are the keywords:\n\n["hiring", "costs"]\n\nLet me know if you need more!',
        '["hiring", "costs",]',
        "['hiring', 'costs']",
        "[“hiring”, “costs”]",
        '{"keywords": ["hiring", "costs"]}',
        '{"Keywords": ["hiring", "costs",],}',
        '{"result": {"keywords": ["hiring", "costs"]}}',
        "See [1]: [\"hiring\", 'costs']",
        "- hiring\n- costs",
        "Keywords:\n1. hiring\n2. costs",
        "* **hiring**\n* `costs`",
        "hiring\ncosts",
        "hiring, costs",
        "Keywords: hiring, costs",
        '["hiring", " costs ", "hiring", ""]',
        '\ufeff["hiring", "costs"]',
    ],
)
def test_keywords_however_they_are_written(text):
    assert parse(PromptKind.KEYWORDS, text) == ["hiring", "costs"]


def test_no_keywords_is_an_answer_too():
    assert parse(PromptKind.KEYWORDS, "[]") == []


@pytest.mark.parametrize(
    "text, expected",
    [
        ('["it\'s", "a \\"quote\\"", "a]b", "1,2"]', ["it's", 'a "quote"', "a]b", "1,2"]),
        ("['say \"hi\"', 'it\\'s']", ['say "hi"', "it's"]),
        ('["a\nb"]', ["a\nb"]),
        ('["中文", "\\u00e9"]', ["中文", "é"]),
        ('["\\ud800", "a\\u0000b"]', ["\ufffd", "a\ufffdb"]),
    ],
)
def test_what_stands_inside_strings_is_left_alone(text, expected):
    assert parse(PromptKind.KEYWORDS, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I'm sorry, but I can't help with that.",
        "The text is about hiring. It is also about costs.",
        "hiring",
        '{"keywords": 5}',
        '{"keywords": 5, "more": 6}',
        '{"keywords": null}',
        "[1, 2]",
        '[["a"]]',
        '["a", null]',
        '["a"',
        '["a")',
        "[demo] Summarize this",
        "null",
        json.dumps(["x" * 201]),
        json.dumps([str(number) for number in range(201)]),
        '["a"]' + " " * 64_000,
        "[" * 10_000 + "]" * 10_000,
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        "[NaN]",
    ],
)
def test_nonsense_is_no_list_of_keywords(text):
    with pytest.raises(Malformed):
        parse(PromptKind.KEYWORDS, text)


@pytest.mark.parametrize(
    "text, label, score",
    [
        ('{"label": "positive", "score": 0.97}', "positive", 0.97),
        ('{"sentiment": "Negative", "confidence": "90%"}', "negative", 0.9),
        ("Sure! {'label': 'neutral', 'score': 1,}", "neutral", 1.0),
        ('```json\n{"label": "mixed", "score": "0.5"}\n```', "mixed", 0.5),
        ('{"sentiment": {"label": "positive", "score": 0}}', "positive", 0.0),
        ('{"Label": " POSITIVE ", "Score": 0.5, "why": "nice"}', "positive", 0.5),
    ],
)
def test_sentiment_however_it_is_written(text, label, score):
    assert parse(PromptKind.SENTIMENT, text) == {"label": label, "score": score}


@pytest.mark.parametrize(
    "text",
    [
        "positive",
        '{"label": "positive"}',
        '{"score": 0.5}',
        '{"label": "great", "score": 0.5}',
        '{"label": "positive", "score": 1.5}',
        '{"label": "negative", "score": -0.5}',
        '{"label": "positive", "score": true}',
        '{"label": "positive", "score": NaN}',
        '{"label": "positive", "score": 1e400}',
        '{"label": 1, "score": 1}',
        '{"label": "positive", "score": "high"}',
        '[{"label": "positive", "score": 0.5}, {"label": "negative", "score": 0.5}',
    ],
)
def test_nonsense_is_no_sentiment(text):
    if text.startswith("["):
        assert parse(PromptKind.SENTIMENT, text)["label"] in LABELS  # a cut list still holds a whole one
        return
    with pytest.raises(Malformed):
        parse(PromptKind.SENTIMENT, text)


ANN = [{"text": "Ann", "type": "PERSON"}]


@pytest.mark.parametrize(
    "text",
    [
        '[{"text": "Ann", "type": "PERSON"}]',
        '{"entities": [{"text": "Ann", "type": "PERSON",},]}',
        "Found: [{'name': 'Ann', 'label': 'PERSON'}].",
        '{"PERSON": ["Ann"]}',
        '{"entities": {"PERSON": ["Ann"], "DATE": []}}',
        '```json\n[{"Entity": " Ann ", "Category": "PERSON", "start": 0}]\n```',
    ],
)
def test_entities_however_they_are_written(text):
    assert parse(PromptKind.ENTITIES, text) == ANN


def test_no_entities_is_an_answer_too():
    assert parse(PromptKind.ENTITIES, "[]") == []


@pytest.mark.parametrize(
    "text", ["Ann", '["Ann"]', '[{"text": "Ann"}]', '[{"text": "", "type": "A"}]', "{}", '{"a": 1}', "[null]"]
)
def test_nonsense_is_no_list_of_entities(text):
    with pytest.raises(Malformed):
        parse(PromptKind.ENTITIES, text)


@pytest.mark.parametrize("kind", [PromptKind.SUMMARY, PromptKind.TRANSLATION, PromptKind.CUSTOM])
def test_text_alone_has_no_typed_form(kind):
    assert parse(kind, '["a"]') is None


@pytest.mark.parametrize("kind", [PromptKind.KEYWORDS, PromptKind.SENTIMENT, PromptKind.ENTITIES])
@pytest.mark.parametrize(
    "noise", ["[" * 60_000, "[{" * 30_000, "'" * 60_000, '["' * 30_000, "[a" * 30_000, "\\" * 60_000]
)
def test_noise_takes_no_time(kind, noise):
    started = time.monotonic()
    with pytest.raises(Malformed):
        parse(kind, noise)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("kind", [PromptKind.KEYWORDS, PromptKind.SENTIMENT, PromptKind.ENTITIES])
def test_the_fault_says_what_was_expected(kind):
    with pytest.raises(Malformed, match="JSON") as fault:
        parse(kind, "nonsense")
    assert expected_form(kind) in str(fault.value)
