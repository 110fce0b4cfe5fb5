"""Buckets: whatever a provider writes, no token is in two of them and none is negative."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaskllm.adapters import anthropic_answers, gemini_answers
from flaskllm.domain.usage import BUCKETS, MOST_TOKENS, Usage, is_possible, usage_from_openai
from flaskllm.services.price_book import vendor_price

COUNTS = st.integers(0, MOST_TOKENS)
NONSENSE = st.sampled_from([None, -1, "many", 1.5, True, [], {}, float("nan"), 2**60])
SAID = COUNTS | NONSENSE


def _fields(**named: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=named)


OPENAI = _fields(
    prompt_tokens=COUNTS,
    completion_tokens=COUNTS,
    prompt_tokens_details=_fields(cached_tokens=SAID, audio_tokens=SAID) | NONSENSE,
    completion_tokens_details=_fields(reasoning_tokens=SAID, audio_tokens=SAID) | NONSENSE,
)
ANTHROPIC = _fields(
    input_tokens=COUNTS,
    output_tokens=COUNTS,
    cache_read_input_tokens=COUNTS,
    cache_creation_input_tokens=COUNTS,
    cache_creation=_fields(ephemeral_1h_input_tokens=SAID, ephemeral_5m_input_tokens=SAID) | NONSENSE,
    output_tokens_details=_fields(thinking_tokens=SAID) | NONSENSE,
    server_tool_use=_fields(web_search_requests=SAID) | NONSENSE,
)
MODALITIES = st.lists(
    st.fixed_dictionaries({"modality": st.sampled_from(["TEXT", "AUDIO", "IMAGE"]), "tokenCount": SAID}), max_size=4
)
GEMINI = _fields(
    promptTokenCount=COUNTS,
    candidatesTokenCount=COUNTS,
    cachedContentTokenCount=SAID,
    thoughtsTokenCount=COUNTS,
    toolUsePromptTokenCount=COUNTS,
    promptTokensDetails=MODALITIES | NONSENSE,
    candidatesTokensDetails=MODALITIES | NONSENSE,
)


def hold(usage: Usage, *, prompt: int, completion: int) -> None:
    assert all(getattr(usage, name) >= 0 for name in BUCKETS)
    assert (usage.prompt_tokens, usage.completion_tokens) == (prompt, completion)
    assert usage.total_tokens == sum(usage.buckets().values()) - usage.web_searches


@given(OPENAI)
def test_of_openais_counts_each_part_is_taken_out_of_the_whole(raw: dict[str, Any]) -> None:
    usage = usage_from_openai(raw)
    assert (usage is None) == ("prompt_tokens" not in raw)
    if usage is not None:
        hold(usage, prompt=raw["prompt_tokens"], completion=raw.get("completion_tokens", 0))


@given(ANTHROPIC)
def test_anthropics_caches_stand_beside_the_input(raw: dict[str, Any]) -> None:
    usage = anthropic_answers.usage_of(raw)
    assert (usage is None) == (not {"input_tokens", "output_tokens"} <= set(raw))
    if usage is not None:
        caches = raw.get("cache_read_input_tokens", 0) + raw.get("cache_creation_input_tokens", 0)
        hold(usage, prompt=raw["input_tokens"] + caches, completion=raw["output_tokens"])


@given(GEMINI)
def test_geminis_thoughts_stand_beside_the_candidates(raw: dict[str, Any]) -> None:
    usage = gemini_answers.usage_of(raw)
    assert (usage is None) == ("promptTokenCount" not in raw)
    if usage is not None:
        prompt = raw["promptTokenCount"] + raw.get("toolUsePromptTokenCount", 0)
        hold(usage, prompt=prompt, completion=raw.get("candidatesTokenCount", 0) + raw.get("thoughtsTokenCount", 0))


@pytest.mark.parametrize(
    "usage, window, estimate, pieces, possible",
    [
        (Usage(input=256_000, output=256_000), 128_000, 10, 1, True),
        (Usage(input=256_001), 128_000, 10, 1, False),
        (Usage(input=1, reasoning=256_001), 128_000, 10, 1, False),
        (Usage(output=1_000_000), 128_000, 10, 4, True),
        (Usage(input=256_000), 4096, 10, 1, True),  # an administrator's word on the window may be wrong
        (Usage(input=400_000), 128_000, 100_000, 1, True),  # as long as the question itself
        (Usage(input=4_000_000, output=4_000_000), None, 10, 1, True),
        (Usage(input=4_000_001), None, 10, 1, False),
        (Usage(output=2**53 - 1), None, 10, 1, False),
        (Usage(web_searches=10), None, 10, 1, True),
        (Usage(web_searches=2**40), None, 10, 1, False),
    ],
)
def test_no_call_takes_more_than_its_windows_hold(
    usage: Usage, window: int | None, estimate: int, pieces: int, possible: bool
) -> None:
    assert is_possible(usage, window=window, prompt_estimate=estimate, pieces=pieces) is possible


def test_searches_that_anthropic_makes_are_counted_and_have_a_price() -> None:
    raw = {
        "input_tokens": 5,
        "output_tokens": 1,
        "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1},
    }
    usage, price = anthropic_answers.usage_of(raw), vendor_price("anthropic", "claude-haiku-4-5")
    assert (usage, price and price.web_searches) == (Usage(input=5, output=1, web_searches=2), 10**13)
