"""API tokens as text."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from flaskllm.domain import api_token


def test_a_token_has_the_form_that_scanners_know():
    assert re.fullmatch(r"fl_[0-9A-Za-z]{49}", api_token.make())


def test_a_fresh_token_looks_valid():
    assert all(api_token.looks_valid(api_token.make()) for _ in range(200))


def test_no_two_tokens_are_alike():
    assert len({api_token.make() for _ in range(500)}) == 500


@given(position=st.integers(3, 51), letter=st.sampled_from(api_token.ALPHABET))
def test_one_wrong_letter_is_told(position: int, letter: str):
    token = api_token.make()
    typo = token[:position] + letter + token[position + 1 :]
    assert api_token.looks_valid(typo) is (typo == token)


@given(st.text(max_size=80))
def test_text_is_no_token(text: str):
    assert not api_token.looks_valid(text)


def test_a_token_cut_or_lengthened_is_told():
    token = api_token.make()
    assert not any(map(api_token.looks_valid, (token[:-1], token + "0", token + "\n", " " + token, token[3:], "")))


def test_the_checksum_covers_the_prefix():
    token = api_token.make()
    assert api_token.checksum(token[:46]) == token[46:]


def test_the_hash_tells_nothing_of_the_token_and_is_no_token():
    token = api_token.make()
    assert re.fullmatch(r"[0-9a-f]{64}", api_token.hash_of(token))
    assert not api_token.looks_valid(api_token.hash_of(token))


def test_a_refresh_token_is_no_api_token_and_is_masked_like_one():
    refresh = api_token.make_refresh()
    assert api_token.looks_like_refresh(refresh)
    assert not api_token.looks_valid(refresh)
    assert re.search(r"fl_[0-9A-Za-z]{20,}", refresh)
    assert not api_token.looks_like_refresh(api_token.make())


def test_only_both_ends_are_shown():
    token = api_token.make()
    assert (api_token.shown_start(token), api_token.last4(token)) == (token[:8], token[-4:])
