"""Guesses have to be of the right order, in every script, and never zero for something."""

from __future__ import annotations

import pytest

from flaskllm.domain.estimate import (
    IMAGE,
    LOW_IMAGE,
    estimate_tokens,
    message_estimate,
    prompt_estimate,
    tokens_of_chars,
)


def test_nothing_is_no_token():
    assert estimate_tokens("") == 0


@pytest.mark.parametrize("text", ["a", " ", "é", "好", "я", "🙂", "\n"])
def test_a_text_is_at_least_one_token(text):
    assert estimate_tokens(text) >= 1


@pytest.mark.parametrize(
    "text, words",
    [
        ("The company plans to reduce hiring to cut costs. ", 9),
        ("Die Firma plant, weniger Leute einzustellen, um Kosten zu sparen. ", 10),
        ("Компания планирует сократить найм, чтобы снизить расходы. ", 7),
    ],
)
def test_a_word_is_between_one_token_and_five(text, words):
    assert words <= estimate_tokens(text) <= 5 * words


def test_a_chinese_character_is_a_token():
    assert estimate_tokens("公司计划减少招聘以降低成本") == 13


def test_mixed_scripts_add_up():
    assert estimate_tokens("Hello 你好") == estimate_tokens("Hello ") + 2


def test_known_length_is_enough_for_latin():
    assert tokens_of_chars(len("Hello, how are you?")) == estimate_tokens("Hello, how are you?")


def test_each_message_costs_four_more():
    assert prompt_estimate([{"role": "user", "content": "abcd"}] * 3) == 3 * 5


def test_an_image_is_weighed_by_its_detail_and_not_by_its_bytes():
    low = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 90_000, "detail": "low"}}
    high = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    assert message_estimate({"role": "user", "content": [low, high]}) == 4 + LOW_IMAGE + IMAGE


def test_sound_and_files_are_weighed_by_size():
    part = {"type": "input_audio", "input_audio": {"data": "A" * 10_000, "format": "wav"}}
    assert 100 < message_estimate({"role": "user", "content": [part]}) < 400


def test_calls_of_tools_count():
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    assert message_estimate({"role": "assistant", "content": None, "tool_calls": [call]}) > 20


@pytest.mark.parametrize("content", [None, 7, [None], [[]], {"text": 3}, [{"text": None}]])
def test_nonsense_does_not_break_the_guess(content):
    assert message_estimate({"role": "user", "content": content}) >= 4
