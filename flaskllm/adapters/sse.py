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
        self._pieces: list[bytes] = []
        self._size = 0
        self._name = ""
        self._data: list[bytes] = []

    def feed(self, packet: bytes) -> list[Event]:
        """The events that are whole with this packet. Raises `ProviderError` where one grows without end."""
        self._size += len(packet)
        if self._size > MOST_BUFFERED:
            raise ProviderError("The provider's stream holds an event without an end.", may_be_billed=True)
        self._pieces.append(packet)
        if b"\n" not in packet and b"\r" not in packet and not self._pieces[0].endswith(b"\r"):
            return []
        return self._whole(b"".join(self._pieces))

    def _whole(self, buffer: bytes) -> list[Event]:
        held_back = b"\r" if buffer.endswith(b"\r") else b""
        buffer = buffer[: len(buffer) - len(held_back)]
        if b"\r" in buffer:
            buffer = buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = buffer.split(b"\n")
        self._pieces = [rest + held_back] if rest or held_back else []
        events = [event for line in lines if (event := self._line(line))]
        if events:
            self._size = len(rest) + sum(len(line) for line in self._data)
        return events

    def flush(self) -> list[Event]:
        """At the end of the body: the last event, where line ends are missing after it. One that was cut is no JSON."""
        last = self._line(b"".join(self._pieces).removesuffix(b"\r"))
        self._pieces = []
        event = last or self._line(b"")
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
