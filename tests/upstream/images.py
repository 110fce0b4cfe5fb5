"""The small image server: a real PNG, a page that is none, and one that is too large."""

from __future__ import annotations

import struct
import zlib


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*, padding: int = 0) -> bytes:
    """One red pixel; `padding` bytes of comment make the file as large as wanted."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    comment = _chunk(b"tEXt", b"Comment\0" + b"x" * padding) if padding else b""
    return (
        b"\x89PNG\r\n\x1a\n" + header + comment + _chunk(b"IDAT", zlib.compress(b"\0\xff\0\0")) + _chunk(b"IEND", b"")
    )


PIXEL = png()
HUGE = 64 * 1024 * 1024
"""Bytes of comment in /images/huge.png."""


def fetch(path: str) -> tuple[int, str, bytes]:
    """Status, media type and bytes of a path under /images."""
    if path == "/pixel.png":
        return 200, "image/png", PIXEL
    if path == "/huge.png":
        return 200, "image/png", png(padding=HUGE)
    if path == "/page.html":
        return 200, "text/html; charset=utf-8", b"<!DOCTYPE html><html><body>not an image</body></html>"
    return 404, "text/plain", b"not found"
