"""The few things that all views share: bodies and queries read strictly, answers written."""

from __future__ import annotations

import re
from typing import Any

import orjson
from flask import Response, g, request
from werkzeug.exceptions import RequestEntityTooLarge

from flaskllm.errors import PayloadTooLarge, UnsupportedMediaType, invalid
from flaskllm.wire.json import decode

DEFAULT_PAGE, MOST_PAGE = 50, 200
_NUMBER = re.compile(r"[0-9]{1,9}")


def raw_body(limit: int | None = None) -> bytes:
    """The body's bytes, at most ``limit`` where that is less than what the application takes.

    Raises `PayloadTooLarge`; a length that is announced is refused before a byte is read.
    """
    if limit is not None and (request.content_length or 0) > limit:
        raise PayloadTooLarge(f"The body is larger than {limit} bytes.")
    if limit is not None:
        request.max_content_length = min(limit, request.max_content_length or limit)
    try:
        return request.get_data(cache=True)
    except RequestEntityTooLarge:
        raise PayloadTooLarge("The body is larger than this path takes.") from None


def json_body(limit: int | None = None) -> dict[str, Any]:
    """The JSON object of the request.

    Raises `UnsupportedMediaType` for another content type, `PayloadTooLarge`, `InvalidRequest`.
    """
    if "body" in g:  # the guard has read it for the token in it
        return dict(g.body)
    if request.mimetype != "application/json" and not request.mimetype.endswith("+json"):
        raise UnsupportedMediaType("The content type must be application/json.")
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("The charset must be UTF-8.")
    return decode(raw_body(limit))


def optional_json_body(limit: int | None = None) -> dict[str, Any]:
    """The same, for a call whose body may be left out: an empty object then."""
    return json_body(limit) if raw_body(limit) else {}


def query(*names: str) -> dict[str, str]:
    """The query's parameters, each once and only these. Raises `InvalidRequest` naming another."""
    found = {}
    for name, values in request.args.lists():
        if name not in names:
            raise invalid(name[:64], "is no parameter of this call")
        if len(values) > 1:
            raise invalid(name, "stands more than once")
        if "\0" in values[0]:
            raise invalid(name, "must not hold NUL")
        found[name] = values[0]
    return found


def page(*others: str) -> tuple[int, str | None, dict[str, str]]:
    """``?limit`` (1 to 200, else 50) and ``?after`` of a list, and its other parameters."""
    found = query("limit", "after", *others)
    limit = found.pop("limit", str(DEFAULT_PAGE))
    if not _NUMBER.fullmatch(limit) or not 1 <= int(limit) <= MOST_PAGE:
        raise invalid("limit", f"must be a whole number from 1 to {MOST_PAGE}")
    return int(limit), found.pop("after", None) or None, found


def json_response(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status=status, content_type="application/json")


def success(data: Any, status: int = 200) -> Response:
    """Our own envelope: ``{"status": "success", "data": …}``."""
    return json_response({"status": "success", "data": data}, status)


def no_content() -> Response:
    return Response(status=204)


