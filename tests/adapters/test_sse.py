"""Server-sent events as providers send them, cut into packets anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaskllm.adapters.sse import MOST_BUFFERED, Event, SseParser
from flaskllm.errors import ProviderError


def events_of(*packets: bytes) -> list[Event]:
    parser = SseParser()
    return [event for packet in packets for event in parser.feed(packet)] + parser.flush()


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_is_one(newline: bytes) -> None:
    stream = newline.join([b"data: one", b"", b"data: two", b"", b""])
    assert events_of(stream) == [Event("", b"one"), Event("", b"two")]


def test_lines_of_one_event_are_joined() -> None:
    assert events_of(b"data: one\ndata: two\n\n") == [Event("", b"one\ntwo")]


def test_comments_ids_and_retry_are_left_out() -> None:
    assert events_of(b": ping\nid: 7\nretry: 10\ndata: x\n\n: ping\n\n") == [Event("", b"x")]


def test_a_name_belongs_to_its_event_only() -> None:
    assert events_of(b"event: start\ndata: 1\n\ndata: 2\n\n") == [Event("start", b"1"), Event("", b"2")]


def test_a_name_without_data_is_no_event() -> None:
    assert events_of(b"event: start\n\ndata: 2\n\n") == [Event("", b"2")]


def test_only_one_space_after_the_colon_is_not_data() -> None:
    assert events_of(b"data:  x\n\ndata:y\n\n") == [Event("", b" x"), Event("", b"y")]


def test_the_last_event_counts_without_its_line_ends() -> None:
    assert events_of(b"data: [DONE]") == [Event("", b"[DONE]")]
    assert events_of(b"data: [DONE]\r\n") == [Event("", b"[DONE]")]


@given(st.lists(st.text(alphabet="aé世🙂 :", max_size=9), max_size=4), st.sampled_from(["\n", "\r\n", "\r"]), st.data())
def test_where_packets_are_cut_does_not_matter(texts: list[str], newline: str, data: st.DataObject) -> None:
    stream = "".join(f": note{newline}data: {text}{newline}{newline}" for text in texts).encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    packets = [stream[low:high] for low, high in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert events_of(*packets) == events_of(stream) == [Event("", text.encode()) for text in texts]


@pytest.mark.parametrize("piece", [b"x" * 65536, b"data: " + b"x" * 65529 + b"\n"])
def test_an_event_without_end_is_given_up(piece: bytes) -> None:
    with pytest.raises(ProviderError):
        events_of(*[piece] * (MOST_BUFFERED // len(piece) + 2))


def test_a_long_stream_of_short_events_is_not_given_up() -> None:
    parser = SseParser()
    frame = b"data: " + b"x" * 60000 + b"\n\n"
    assert sum(len(parser.feed(frame)) for _ in range(300)) == 300
