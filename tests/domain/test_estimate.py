"""Guesses have to be of the right order, in every script, and never zero for something."""

from __future__ import annotations

import pytest

from flaskllm.domain.estimate import (
    IMAGE,
    JSON_CHAR,
    LOW_IMAGE,
    answer_chars,
    answer_tokens,
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


PROSE = {
    "Four score and seven years ago our fathers brought forth on this continent, a new nation, conceived in Liberty, "
    "and dedicated to the proposition that all men are created equal. Now we are engaged in a great civil war, testing "
    "whether that nation, or any nation so conceived and so dedicated, can long endure. We are met on a great "
    "battle-field of that war. We have come to dedicate a portion of that field, as a final resting place for those "
    "who here gave their lives that that nation might live. It is altogether fitting and proper that we should do "
    "this.": (115, 115),
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a "
    "wife. However little known the feelings or views of such a man may be on his first entering a neighbourhood, "
    "this truth is so well fixed in the minds of the surrounding families, that he is considered the rightful "
    "property of some one or other of their daughters.": (76, 76),
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or "
    "twice she had peeped into the book her sister was reading, but it had no pictures or conversations in it, "
    '"and what is the use of a book," thought Alice "without pictures or conversations?" So she was considering in '
    "her own mind (as well as she could, for the hot day made her feel very sleepy and stupid), whether the pleasure "
    "of making a daisy-chain would be worth the trouble of getting up and picking the daisies, when suddenly a White "
    "Rabbit with pink eyes ran close by her.": (131, 130),
    "Sure! Here is a short overview. Photosynthesis is the process by which green plants, algae and some bacteria "
    "convert light energy into chemical energy. Chlorophyll absorbs sunlight, mostly in the blue and red parts of the "
    "spectrum, and uses it to split water molecules. The oxygen that is released in this step is what we breathe. In "
    "the second stage, known as the Calvin cycle, the captured energy is used to build sugars from carbon dioxide. If "
    "you would like more detail about either stage, just let me know.": (105, 104),
}
"""English prose, and its tokens by ``cl100k_base`` and ``o200k_base``, as tiktoken counts them."""
OTHERS = {
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und "
    "sollen einander im Geist der Brüderlichkeit begegnen. Jeder hat Anspruch auf die in dieser Erklärung verkündeten "
    "Rechte und Freiheiten ohne irgendeinen Unterschied, etwa nach Rasse, Hautfarbe, Geschlecht, Sprache, Religion, "
    "politischer oder sonstiger Überzeugung, nationaler oder sozialer Herkunft, Vermögen, Geburt oder sonstigem "
    "Stand.": (122, 99),
    "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。人人有资格享有本宣言所载的一切权利和自由，不分种族、"
    "肤色、性别、语言、宗教、政治或其他见解。": (100, 73),
    "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и должны "
    "поступать в отношении друг друга в духе братства.": (74, 41),
}
"""German, Chinese, Russian: the two tokenizers differ by more than we miss them."""


@pytest.mark.parametrize("text", PROSE)
@pytest.mark.parametrize("tokenizer", [0, 1], ids=["cl100k", "o200k"])
def test_of_an_answer_in_english_prose_the_tokens_are_guessed_within_15_percent(text, tokenizer):
    assert answer_tokens(answer_chars(text)) == pytest.approx(PROSE[text][tokenizer], rel=0.15)


@pytest.mark.parametrize("text", OTHERS, ids=["german", "chinese", "russian"])
def test_in_other_languages_the_guess_lies_between_the_tokenizers_or_near_one(text):
    guess, (old, new) = answer_tokens(answer_chars(text)), OTHERS[text]
    assert 0.9 * new <= guess <= old


def test_json_is_more_tokens_than_prose_of_its_length():
    text = '{"city": "Paris", "days": 3}'
    assert answer_tokens(JSON_CHAR * answer_chars(text)) > answer_tokens(answer_chars(text))
