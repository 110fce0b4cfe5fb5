"""How many tokens a text will come to, without anybody's tokenizer: for limits, bounds and windows, never for bills.

A tokenizer costs megabytes and exists for some models only; by script the guess is good enough to say whether there is
room. It runs before every call, so plain ASCII takes one look at the length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

CHARS_PER_TOKEN = 4
"""For bounds and windows: rather too few than too many."""
PROSE_CHARS_PER_TOKEN = 4.8
"""Of English prose, by the tokenizers `cl100k_base` and `o200k_base`, which agree."""
WIDE_CHAR, DENSE_CHAR, JSON_CHAR = 4.0, 1.6, 1.5
"""A character of those scripts, and of JSON, in characters of English prose, between the same two."""
MESSAGE_TOKENS = 4
"""What a message costs beside its text: its role and what fences it off."""
LOW_IMAGE, IMAGE = 85, 765
"""OpenAI's figures: an image at low detail, and one of a megapixel at high detail."""
DATA_CHARS_PER_TOKEN = 100
"""Base64 of sound and files, which models hear and read rather than spell."""

_WIDE = re.compile(
    "[\u1100-\u11ff\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00010000-\U0010ffff]+"
)
"""Chinese, Japanese, Korean and emoji: a token a character, about."""
_DENSE = re.compile("[\u0370-\u10ff\u1200-\u1dff]+")
"""Greek to Georgian, Devanagari, Thai …: about two characters a token."""


def estimate_tokens(text: str) -> int:
    """About how many tokens this text is; at least one where there is any.

    >>> estimate_tokens("Hello, how are you?"), estimate_tokens("你好吗"), estimate_tokens("")
    (5, 3, 0)
    """
    if text.isascii():
        return tokens_of_chars(len(text))
    wide = sum(map(len, _WIDE.findall(text)))
    dense = sum(map(len, _DENSE.findall(text)))
    return wide + (dense + 1) // 2 + tokens_of_chars(len(text) - wide - dense)


def tokens_of_chars(chars: int) -> int:
    """The same where only the length is known.

    >>> tokens_of_chars(0), tokens_of_chars(1), tokens_of_chars(9)
    (0, 1, 3)
    """
    return -(-chars // CHARS_PER_TOKEN)


def answer_chars(text: str) -> float:
    """The length of an answer, as so many characters of English prose as come to the same number of tokens."""
    if not isinstance(text, str) or text.isascii():
        return len(text)
    wide, dense = sum(map(len, _WIDE.findall(text))), sum(map(len, _DENSE.findall(text)))
    return len(text) + (WIDE_CHAR - 1) * wide + (DENSE_CHAR - 1) * dense


def answer_tokens(chars: float) -> int:
    """About how many tokens an answer was, by its `answer_chars`: for what is paid, so neither above nor below.

    >>> answer_tokens(0), answer_tokens(1), answer_tokens(48)
    (0, 1, 10)
    """
    return ceil(chars / PROSE_CHARS_PER_TOKEN)


def prompt_estimate(messages: Iterable[Mapping[str, Any]]) -> int:
    """About how many tokens OpenAI's message objects are, images, calls and results of tools included."""
    return sum(message_estimate(message) for message in messages)


def message_estimate(message: Mapping[str, Any]) -> int:
    """One message of them."""
    tokens = MESSAGE_TOKENS + _content_estimate(message.get("content"))
    for name in ("name", "refusal", "reasoning_content"):
        if isinstance(value := message.get(name), str):
            tokens += estimate_tokens(value)
    if calls := message.get("tool_calls"):
        tokens += estimate_tokens(json.dumps(calls, ensure_ascii=False, default=str))
    return tokens


def _content_estimate(content: Any) -> int:
    if isinstance(content, str):
        return estimate_tokens(content)
    if isinstance(content, list):
        return sum(_part_estimate(part) for part in content)
    return 0


def _part_estimate(part: Any) -> int:
    if isinstance(part, str):
        return estimate_tokens(part)
    if not isinstance(part, Mapping):
        return 0
    for name in ("text", "refusal"):
        if isinstance(value := part.get(name), str):
            return estimate_tokens(value)
    if part.get("type") == "image_url":
        return _image_estimate(part.get("image_url"))
    return LOW_IMAGE + len(json.dumps(part, default=str)) // DATA_CHARS_PER_TOKEN


def _image_estimate(image: Any) -> int:
    return LOW_IMAGE if isinstance(image, Mapping) and image.get("detail") == "low" else IMAGE
