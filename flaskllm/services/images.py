"""Images that a model cannot fetch by itself, fetched by us and put into the messages.

Providers that take addresses are given them as they are; for the others the orchestrator asks here, so that adapters
fetch nothing (``docs/api.md``, "External calls").
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import Any

from flaskllm.errors import Detail, ExternalError, ForbiddenTarget, InvalidRequest, invalid
from flaskllm.net.egress import PublicSession

MOST_BYTES = 20 * 2**20
MOST_IMAGES = 16
MOST_TOGETHER = 64 * 2**20
"""Bytes of one request's images: each is held three times on its way to a provider."""
_PLACES = {"image_url": ("url",), "file": ("file_url", "file_data")}
"""By a part's type: which members of the object of that name may be an address."""


class ImageInliner:
    """Which addresses in messages become data, and what counts as an image.

    ``most_bytes``: of one image. ``most_images``: of one request. ``most_together``: bytes of one request.
    """

    def __init__(
        self,
        session: PublicSession,
        *,
        most_bytes: int = MOST_BYTES,
        most_images: int = MOST_IMAGES,
        most_together: int = MOST_TOGETHER,
    ) -> None:
        self._session = session
        self._most_bytes = most_bytes
        self._most_images = most_images
        self._most_together = most_together

    def inline(
        self,
        messages: list[dict[str, Any]],
        deadline: float,
        *,
        secure_stays: bool = False,
        images_stay: bool = False,
    ) -> list[dict[str, Any]]:
        """The messages with each address replaced by a data URL, until ``deadline`` (monotonic seconds).

        ``secure_stays``: an https address is left to the provider, which takes no other. ``images_stay``: it fetches
        images, whatever their address, and no files.

        What changes is copied, the caller's objects stay as they are, and an address that stands there twice is
        fetched once. Raises `InvalidRequest` or `ForbiddenTarget` naming the field.
        """
        wanted = [
            (field, url, is_file)
            for field, url, is_file in _addresses(messages)
            if not (secure_stays and url.startswith("https://")) and (is_file or not images_stay)
        ]
        if len(wanted) > self._most_images:
            raise invalid(wanted[self._most_images][0], f"is one image more than the {self._most_images} of a request")
        fetched: dict[str, str] = {}
        room = self._most_together
        for field, url, is_file in wanted:
            if url not in fetched:
                data = self._fetch(field, url, room, deadline)
                room -= len(data)
                fetched[url] = _data_url(field, data, is_file)
        return [_replaced(message, fetched) for message in messages] if fetched else list(messages)

    def _fetch(self, field: str, url: str, room: int, deadline: float) -> bytes:
        try:
            answer = self._session.request(
                "GET", url, timeout_s=deadline - time.monotonic(), cap=min(self._most_bytes, room), max_retries=1
            )
        except ForbiddenTarget as refusal:
            raise ForbiddenTarget(f"{field}: {_words(refusal)}", details=_renamed(refusal, field)) from None
        except (InvalidRequest, ExternalError) as failure:
            raise invalid(field, f"could not be fetched: {_words(failure)}") from None
        if answer.status != 200:
            raise invalid(field, f"could not be fetched: its server answered {answer.status}")
        return answer.body


def _words(error: ForbiddenTarget | InvalidRequest | ExternalError) -> str:
    return error.details[0]["message"] if error.details else error.message


def _renamed(error: ForbiddenTarget, field: str) -> list[Detail]:
    return [{"field": field, "message": detail["message"]} for detail in error.details]


def _addresses(messages: list[dict[str, Any]]) -> Iterator[tuple[str, str, bool]]:
    """Field, address and whether it is a file's, of every part that names an address."""
    for m, message in enumerate(messages):
        content = message.get("content")
        for c, part in enumerate(content if isinstance(content, list) else ()):
            if place := _place(part):
                kind, name = place
                yield f"messages[{m}].content[{c}].{kind}.{name}", part[kind][name], kind == "file"


def _place(part: Any) -> tuple[str, str] | None:
    """Kind of a part, and the member of it that is an address."""
    if not isinstance(part, dict):
        return None
    for kind, names in _PLACES.items():
        value = part.get(kind) if part.get("type") == kind else None
        if isinstance(value, dict):
            return next(((kind, name) for name in names if _is_address(kind, value.get(name))), None)
    return None


def _is_address(kind: str, value: Any) -> bool:
    """An image's is all that holds no data, so that another scheme is refused by name; a file may be bare base64."""
    if not isinstance(value, str):
        return False
    start = value[:8].lower()
    return start.startswith(("http://", "https://")) if kind == "file" else not start.startswith("data:")


def _replaced(message: dict[str, Any], fetched: dict[str, str]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [_part(part, fetched) for part in content]}


def _part(part: Any, fetched: dict[str, str]) -> Any:
    """A copy with the data in it; a file's stands in ``file_data``, which wants a ``filename`` beside it."""
    if (place := _place(part)) is None:
        return part
    kind, name = place
    data = fetched.get(part[kind][name])
    if data is None:
        return part
    if kind != "file":
        return {**part, kind: {**part[kind], name: data}}
    kept = {key: value for key, value in part["file"].items() if key not in _PLACES["file"]}
    return {**part, "file": {"filename": "document.pdf", **kept, "file_data": data}}


def _data_url(field: str, data: bytes, is_file: bool) -> str:
    """The type is read from the bytes: a header says what its server likes."""
    kind = media_type(data)
    if kind is None or (kind == "application/pdf") is not is_file:
        raise invalid(field, "must be a PDF" if is_file else "must be a PNG, JPEG, GIF or WebP image")
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def media_type(data: bytes) -> str | None:
    """What the first bytes say; None for everything that no provider takes.

    >>> media_type(b"%PDF-1.7"), media_type(b"<svg>")
    ('application/pdf', None)
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    starts = {
        b"\x89PNG\r\n\x1a\n": "image/png",
        b"\xff\xd8\xff": "image/jpeg",
        b"GIF87a": "image/gif",
        b"GIF89a": "image/gif",
        b"%PDF-": "application/pdf",
    }
    return next((kind for start, kind in starts.items() if data.startswith(start)), None)
