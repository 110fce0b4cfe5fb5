"""Token counts in disjoint buckets, so that nothing is priced twice.

OpenAI counts cached tokens inside ``prompt_tokens`` and reasoning inside ``completion_tokens``; Anthropic adds caches
to ``input_tokens``; Gemini leaves thoughts out of ``candidatesTokenCount``. Adapters turn each into these buckets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

BUCKETS = (
    "input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "reasoning", "audio_input", "audio_output",
    "image_input", "image_output", "images", "web_searches",
)  # fmt: skip
PIECES = ("images", "web_searches")
"""The buckets that hold no tokens."""
PARTS = tuple(name for name in BUCKETS if name not in ("input", "output", "web_searches"))
"""What is counted apart within a prompt or an answer: the rest of each is ``input`` and ``output``."""
MOST_SEARCHES = 1000
WIDEST_WINDOW, LEAST_WINDOW = 2_000_000, 128_000
"""Tokens: what a model whose window nobody told is thought to have, and what any may have (a catalogue may err)."""
GENEROUS = 2
MOST_TOKENS = 2**53 - 1
"""Counts beyond what a JSON number holds exactly are nonsense and are clamped."""


def count(value: Any) -> int | None:
    """A token count as a provider wrote it: a whole number of tokens, or None for nonsense."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:17])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0 or value > MOST_TOKENS:
        return None
    return value


@dataclass(frozen=True, slots=True)
class Usage:
    """What one answer took, in tokens, and in ``images`` where those are paid by the piece; every bucket apart.

    ``web_searches``: those that the provider made by itself, and bills beside the tokens.
    """

    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    audio_input: int = 0
    audio_output: int = 0
    image_input: int = 0
    image_output: int = 0
    images: int = 0
    web_searches: int = 0
    estimated: bool = False

    @property
    def prompt_tokens(self) -> int:
        return (
            self.input
            + self.cache_read
            + self.cache_write_5m
            + self.cache_write_1h
            + self.audio_input
            + self.image_input
        )

    @property
    def completion_tokens(self) -> int:
        return self.output + self.reasoning + self.audio_output + self.image_output

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def buckets(self) -> dict[str, int]:
        """The buckets that hold something, by name."""
        return {name: held for name in BUCKETS if (held := getattr(self, name))}

    def to_openai(self) -> dict[str, Any]:
        """OpenAI's ``usage`` object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cache_read, "audio_tokens": self.audio_input},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning, "audio_tokens": self.audio_output},
        }


def is_possible(usage: Usage, *, window: int | None, prompt_estimate: int, pieces: int = 1) -> bool:
    """Whether one call can have taken that much, generously: twice its window for each of its ``pieces`` (choices,
    inputs, images) in each direction; where our own estimate of the prompt is larger than the window, that counts.
    """
    most = GENEROUS * pieces * max(window or WIDEST_WINDOW, LEAST_WINDOW)
    if usage.web_searches > MOST_SEARCHES:
        return False
    return usage.prompt_tokens <= max(most, 2 * GENEROUS * prompt_estimate) and usage.completion_tokens <= most


def sum_of(usages: Iterable[Usage]) -> Usage:
    """What several answers took together."""
    held = list(usages)
    return Usage(
        **{name: sum(getattr(one, name) for one in held) for name in BUCKETS},
        estimated=any(one.estimated for one in held),
    )


def usage_from_openai(raw: Any) -> Usage | None:
    """OpenAI's ``usage`` in our buckets; None where it is missing or nonsense."""
    if not isinstance(raw, dict):
        return None
    prompt, completion = count(raw.get("prompt_tokens")), count(raw.get("completion_tokens", 0))
    if prompt is None or completion is None:
        return None
    inward, outward = _details(raw, "prompt_tokens_details"), _details(raw, "completion_tokens_details")
    cached = min(count(inward.get("cached_tokens")) or 0, prompt)
    audio_in = min(count(inward.get("audio_tokens")) or 0, prompt - cached)
    reasoning = min(count(outward.get("reasoning_tokens")) or 0, completion)
    audio_out = min(count(outward.get("audio_tokens")) or 0, completion - reasoning)
    return Usage(
        input=prompt - cached - audio_in,
        cache_read=cached,
        output=completion - reasoning - audio_out,
        reasoning=reasoning,
        audio_input=audio_in,
        audio_output=audio_out,
    )


def _details(raw: dict[str, Any], name: str) -> dict[str, Any]:
    found = raw.get(name)
    return found if isinstance(found, dict) else {}
