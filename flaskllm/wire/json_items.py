"""A large JSON object taken apart while it is read: the entries of some of its lists one by one, the rest as fields.

Only where values begin and end is looked for here; each is then read by the one strict decoder.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import BinaryIO, NamedTuple

from flaskllm.errors import InvalidRequest, PayloadTooLarge
from flaskllm.wire.json import decode_value

CHUNK = 262_144
LARGEST_VALUE = 20 * 1024 * 1024
"""Bytes of one value, which are held in memory."""
_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(rb"[ \t\r\n]*")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_NESTED = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]|"', re.DOTALL)
_SCALAR_ENDS = re.compile(rb"[,\]}\s]")


class Part(NamedTuple):
    """A field (``place`` None), or one entry of a list that is taken apart; ``raw``: its bytes."""

    name: str
    place: int | None
    raw: bytes


def parts_of(source: BinaryIO, lists: Collection[str]) -> Iterator[Part]:
    """The fields of one object; those named in ``lists``, where they are lists, entry by entry.

    Raises `InvalidRequest` where it is no JSON object, or a name stands twice.
    """
    reader = _Reader(source)
    reader.begin()
    seen: set[str] = set()
    more = reader.peek() != b"}"
    while more:
        name = _name(reader.value(), seen)
        reader.expect(b":")
        if name in lists and reader.peek() == b"[":
            yield from _entries(reader, name)
        else:
            yield Part(name, None, reader.value())
        more = reader.comma_or(b"}")
        if more and reader.peek() != b'"':
            raise _no_json()
    if not seen:
        reader.expect(b"}")
    reader.end()


def _name(raw: bytes, seen: set[str]) -> str:
    name = decode_value(raw)
    if not isinstance(name, str):
        raise _no_json()
    if name in seen:
        raise InvalidRequest(f"The body names {name[:80]!r} twice.")
    seen.add(name)
    return name


def _entries(reader: _Reader, name: str) -> Iterator[Part]:
    reader.expect(b"[")
    if reader.peek() == b"]":
        reader.expect(b"]")
        return
    index, more = 0, True
    while more:
        yield Part(name, index, reader.value())
        index, more = index + 1, reader.comma_or(b"]")


def _no_json() -> InvalidRequest:
    return InvalidRequest("The body is not JSON.")


class _Reader:
    """A window on the source that is moved on value by value."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._held = b""
        self._at = 0

    def begin(self) -> None:
        self._more()
        if self._held.startswith(_BOM):
            raise InvalidRequest("The body must be UTF-8 without a byte order mark.")
        if self.peek() != b"{":
            raise InvalidRequest("The body must be a JSON object.")
        self._at += 1

    def end(self) -> None:
        if self.peek():
            raise _no_json()

    def _more(self) -> bool:
        """Drop what is behind us and read on. False at the end."""
        chunk = self._source.read(CHUNK)
        self._held, self._at = self._held[self._at :] + chunk, 0
        return bool(chunk)

    def peek(self) -> bytes:
        """The next byte that is no space; nothing at the end."""
        while True:
            found = _SPACE.match(self._held, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._held):
                return self._held[self._at : self._at + 1]
            if not self._more():
                return b""

    def expect(self, byte: bytes) -> None:
        if self.peek() != byte:
            raise _no_json()
        self._at += 1

    def comma_or(self, closing: bytes) -> bool:
        """True behind a comma, False behind the closing bracket."""
        found = self.peek()
        if found not in (b",", closing):
            raise _no_json()
        self._at += 1
        return found == b","

    def value(self) -> bytes:
        """The bytes of the next value, whole."""
        first = self.peek()
        if first == b'"':
            size = self._string()
        elif first in (b"{", b"["):
            size = self._nested()
        else:
            size = self._scalar()
        raw = self._held[self._at : self._at + size]
        self._at += size
        return raw

    def _grow(self) -> None:
        if len(self._held) - self._at > LARGEST_VALUE:
            raise PayloadTooLarge(f"A value of the body has more than {LARGEST_VALUE} bytes.")
        if not self._more():
            raise _no_json()

    def _string(self) -> int:
        while (found := _STRING.match(self._held, self._at)) is None:
            self._grow()
        return found.end() - self._at

    def _nested(self) -> int:
        """Brackets are counted, strings stepped over; a string that is not whole yet is looked at again."""
        depth, done = 0, 0
        while True:
            for found in _NESTED.finditer(self._held, self._at + done):
                mark = found.group()
                if mark == b'"':
                    break
                done = found.end() - self._at
                if mark in (b"{", b"["):
                    depth += 1
                elif mark in (b"}", b"]"):
                    depth -= 1
                    if not depth:
                        return done
            self._grow()

    def _scalar(self) -> int:
        done = 0
        while (found := _SCALAR_ENDS.search(self._held, self._at + done)) is None:
            done = len(self._held) - self._at
            self._grow()
        if found.start() == self._at:
            raise _no_json()
        return found.start() - self._at
