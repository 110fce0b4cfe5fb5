"""The one decoder: what two readers could understand differently is refused."""

from __future__ import annotations

import contextlib
import json
import time

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaskllm.errors import InvalidRequest
from flaskllm.wire.json import LARGEST, MOST_NAMES, decode

WHOLE = st.integers(-(2**63), 2**64 - 1)
ANYTHING = st.recursive(
    st.none() | st.booleans() | WHOLE | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


@given(st.dictionaries(st.text(), ANYTHING), st.booleans())
def test_every_sound_object_comes_through_unchanged(value: dict, escaped: bool):
    assert decode(json.dumps(value, ensure_ascii=escaped).encode()) == value


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**300, 10**4000, -(10**4000)])
def test_a_number_beyond_64_bits_can_be_written_on(number: int):
    found = decode(f'{{"a": [{number}]}}'.encode())
    assert found == {"a": [float(max(-LARGEST, min(number, LARGEST)))]}
    assert orjson.loads(orjson.dumps(found)) == found


@pytest.mark.parametrize(
    "body", [b"", b"   ", b"{", b"{}{}", b"{'a':1}", b'{"a":1,}', b'{"a":01}', b'{"a":+1}', b"\x00{}", b'{"a":"\x01"}']
)
def test_what_is_not_json_is_refused(body: bytes):
    with pytest.raises(InvalidRequest, match="not JSON"):
        decode(body)


@pytest.mark.parametrize("body", [b"null", b"true", b'"x"', b"7", b"[1]", b"[]"])
def test_the_root_is_an_object(body: bytes):
    with pytest.raises(InvalidRequest, match="object"):
        decode(body)


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
def test_what_is_no_number_is_refused(name: str):
    with pytest.raises(InvalidRequest, match="number"):
        decode(f'{{"a": [{name}]}}'.encode())


def test_a_number_of_thousands_of_digits_is_refused():
    with pytest.raises(InvalidRequest):
        decode(b'{"a": ' + b"9" * 5000 + b"}")


def test_integers_keep_their_64_bits_and_more():
    assert decode(b'{"a": 9223372036854775808, "b": -18446744073709551616}') == {"a": 2**63, "b": -(2**64)}


@pytest.mark.parametrize(
    "body", [b'{"model":1,"model":2}', b'{"x":{"model":1,"a":2,"model":1}}', b'{"model":1,"mode\\u006c":2}']
)
def test_a_key_that_stands_twice_is_named(body: bytes):
    with pytest.raises(InvalidRequest) as refused:
        decode(body)
    assert refused.value.param == "model"


@pytest.mark.parametrize(
    "body",
    [
        bytes.fromhex(raw)
        for raw in ("fffe7b007d00", "1f8b0800", "7b22c0ae22", "7b2261223a22eda08022", "efbbbf7b7d", "7b22ff")
    ]
    + [
        '{"a":"ä"}'.encode("latin-1"),
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-16-be"),
        '{"a":1}'.encode("utf-32"),
    ],
)
def test_only_utf_8_without_a_mark_is_read(body: bytes):
    with pytest.raises(InvalidRequest):
        decode(body)


@pytest.mark.parametrize("text", [r"\ud800", r"a\uDFFFb", r"\udc00\ud800", r"\uD83Dx", r"\ud800\\udc00"])
@pytest.mark.parametrize("form", ['{"a": "%s"}', '{"%s": 1}', '{"a": [{"b": "%s"}]}'])
def test_half_a_character_is_refused(text: str, form: str):
    with pytest.raises(InvalidRequest, match="half"):
        decode((form % text).encode())


def test_a_whole_character_may_be_escaped():
    assert decode(rb'{"a": "\ud83d\ude00 \\ud800"}') == {"a": "😀 \\ud800"}


def nested(levels: int, opening: str = "[", closing: str = "]") -> bytes:
    return ('{"a": ' + opening * (levels - 1) + "1" + closing * (levels - 1) + "}").encode()


def test_64_levels_are_read_and_65_are_not():
    assert decode(nested(64))
    for deep in (nested(65), nested(5000), nested(65, '{"a":', "}"), nested(200_000, '{"a":', "}")):
        with pytest.raises(InvalidRequest, match="levels"):
            decode(deep)


def test_brackets_in_texts_are_no_levels():
    text = '[{"' * 200
    assert decode(json.dumps({"a": text, "b": "\\" * 7 + '"' + "[" * 100}).encode())["a"] == text


def test_many_brackets_beside_each_other_are_no_levels():
    assert len(decode(json.dumps({"a": [{}] * 1000}).encode())["a"]) == 1000


@pytest.mark.parametrize(
    "body",
    [b'{"a":"' + b'\\"' * 2_000_000, b'{"a":"' + b"[" * 100 + b"\\" * 4_000_001, b"[" * 4_000_000,
     b'{"a":[' + b"{}," * 300_000 + b"1]}", b"{" + b",".join(b'"k%d":1' % n for n in range(300_000)) + b"}",
     b'{"a":"' + b"\\u0041" * 700_000 + b'"}', b'"' * 4_000_001 + b"[" * 65],
    ids=["quotes", "backslashes", "depth", "objects", "keys", "escapes", "strings"],
)  # fmt: skip
def test_hostile_bodies_are_decided_soon(body: bytes):
    started = time.thread_time()  # what we took of the machine, whoever else is on it
    with contextlib.suppress(InvalidRequest):
        decode(body)
    assert time.thread_time() - started < 2


def with_names(count: int) -> bytes:
    return b'{"a":"' + b'\\":' * 600_000 + b'","b":[' + b'{"k":0},' * (count - 3) + b'{"k":0}]}'


def test_the_names_of_a_body_are_counted_before_it_is_read_and_those_in_texts_are_none():
    assert len(decode(with_names(MOST_NAMES))["b"]) == MOST_NAMES - 2
    with pytest.raises(InvalidRequest, match="more than 500000 fields"):
        decode(with_names(MOST_NAMES + 1) + b"no JSON any more")


@given(st.binary(max_size=200))
def test_whatever_is_sent_is_read_or_refused(body: bytes):
    try:
        assert isinstance(decode(body), dict)
    except InvalidRequest as refused:
        assert refused.message.isprintable()  # noqa: PT017  it may be either


def test_a_refusal_does_not_repeat_the_body():
    with pytest.raises(InvalidRequest) as refused:
        decode(b'{"password": "Password123" oops}')
    assert "Password123" not in refused.value.message
