"""What `demo` makes beside words: unit vectors and flat pictures, the same for the same question."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
import zlib

from flaskllm.domain.embedding import EmbedRequest, EmbedResult
from flaskllm.domain.image import USUAL_SIZE, ImageRequest, ImageResult, size_of
from flaskllm.domain.usage import Usage
from flaskllm.errors import invalid

DIMENSIONS, MOST_DIMENSIONS, MOST_NUMBERS = 64, 4096, 2**20
"""Of a vector, and numbers of all vectors of one call: they are made by this process, for nothing."""
MOST_SIDE = 2048


def embedded(request: EmbedRequest, model: str) -> EmbedResult:
    """A unit vector for each input, made of its hash; a token a word."""
    size = request.params.get("dimensions") or DIMENSIONS
    if size > MOST_DIMENSIONS:
        raise invalid("dimensions", f"must be at most {MOST_DIMENSIONS} for the demo model")
    if size * len(request.inputs) > MOST_NUMBERS:
        raise invalid("dimensions", f"must be at most {MOST_NUMBERS // len(request.inputs)} for so many texts here")
    texts = [one if isinstance(one, str) else " ".join(map(str, one)) for one in request.inputs]
    words = sum(len(text.split()) for text in texts)
    return EmbedResult([_unit(text, size) for text in texts], Usage(input=max(words, 1)), model)


def _unit(text: str, size: int) -> list[float]:
    raw = hashlib.shake_256(text.encode()).digest(2 * size)
    values = [value + 0.5 for value in struct.unpack(f"<{size}h", raw)]  # never all zero
    length = math.sqrt(sum(value * value for value in values))
    return [value / length for value in values]


def drawn(request: ImageRequest) -> ImageResult:
    """Flat pictures in colours made of the prompt's hash; a token a word."""
    asked = request.params.get("size")
    width, height = size_of(asked) or USUAL_SIZE
    if max(width, height) > MOST_SIDE:
        raise invalid("size", f"must be at most {MOST_SIDE}x{MOST_SIDE} for the demo model")
    images = [{"b64_json": _picture(request.prompt, number, width, height)} for number in range(request.count)]
    return ImageResult(images, Usage(input=max(len(request.prompt.split()), 1)), 0, size=f"{width}x{height}")


def _picture(prompt: str, number: int, width: int, height: int) -> str:
    colour = hashlib.sha256(f"{number}:{prompt}".encode()).digest()[:3]
    return base64.b64encode(flat_png(colour, width, height)).decode()


def flat_png(colour: bytes, width: int, height: int) -> bytes:
    """A PNG of one colour (red, green, blue)."""
    rows = (b"\0" + colour * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
