"""What the programs share: checks by name, each for every model of its kind, one line of JSON for each."""

from __future__ import annotations

import base64
import json
import struct
import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\xff\0\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


PIXEL = base64.b64encode(_png()).decode()
IMAGE = f"data:image/png;base64,{PIXEL}"


@dataclass
class Plan:
    """The models of each kind."""

    chat: list[str] = field(default_factory=list)
    embed: list[str] = field(default_factory=list)
    draw: list[str] = field(default_factory=list)
    once: list[str] = field(default_factory=lambda: ["-"])


CHECKS: list[tuple[str, Callable[[str], None]]] = []


def check(kind: str) -> Callable[[Callable[[str], None]], Callable[[str], None]]:
    def keep(function: Callable[[str], None]) -> Callable[[str], None]:
        CHECKS.append((kind, function))
        return function

    return keep


def run(plan: Plan) -> None:
    for kind, function in CHECKS:
        for model in getattr(plan, kind):
            told: dict[str, Any] = {"check": function.__name__.strip("_"), "model": model, "fault": None}
            try:
                function(model)
            except Exception:  # noqa: BLE001  (told, and judged by the test)
                told["fault"] = traceback.format_exc()[-3000:]
            print(json.dumps(told), flush=True)
