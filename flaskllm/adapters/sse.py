"""Server-sent events as providers send them: any line end, comments, multi-line data, packets cut anywhere."""

from __future__ import annotations

from dataclasses import dataclass

from flaskllm.errors import ProviderError

MOST_BUFFERED = 16 * 2**20
"""Bytes without an end of event: beyond it the stream is nonsense."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its name (empty where none was given) and its data, lines joined by line feeds."""

    name: str
    data: bytes


class SseParser:
    """Feed it packets, take events; holds what is not yet whole.

    Splitting is done on bytes, so that a character cut between two packets does no harm.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[bytes] = []

    def feed(self, packet: bytes) -> list[Event]:
        """The events that are whole with this packet. Raises `ProviderError` where one grows without end."""
        buffer = self._rest + packet
        held_back = b"\r" if buffer.endswith(b"\r") else b""
        buffer = buffer[: len(buffer) - len(held_back)]
        if b"\r" in buffer:
            buffer = buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = buffer.split(b"\n")
        self._rest = rest + held_back
        if len(self._rest) > MOST_BUFFERED:
            raise ProviderError("The provider's stream holds an event without an end.", may_be_billed=True)
        return [event for line in lines if (event := self._line(line))]

    @property
    def has_rest(self) -> bool:
        """Whether half an event is held: a stream that ends now was cut."""
        return bool(self._rest.strip() or self._data)

    def flush(self) -> list[Event]:
        """At the end of the body: the event whose last blank line was left out, if its lines are whole."""
        event = self._line(b"") if not self._rest.strip() else None
        return [event] if event else []

    def _line(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        if value.startswith(b" "):
            value = value[1:]
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._name = value.decode("utf-8", "replace")
        return None

    def _dispatch(self) -> Event | None:
        if not self._data:
            self._name = ""
            return None
        event = Event(self._name, b"\n".join(self._data))
        self._name, self._data = "", []
        return event
