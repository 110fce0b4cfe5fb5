"""What all views share: a body read strictly, a query read strictly, an answer written."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import orjson
from flask import Response, g, request
from werkzeug.exceptions import HTTPException

from flaskllm.blueprints._wsgi import KEY
from flaskllm.domain.text import can_be_held
from flaskllm.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType, invalid
from flaskllm.wire.json import decode

LONGEST_VALUE = 1000
READS = ("GET", "HEAD", "OPTIONS")
UNBOUNDED = 2**31
MOST_ROWS, USUAL_ROWS = 200, 50
_JSON_TYPE = re.compile(r"application/(json|[a-z0-9.-]+\+json)")


class Page(NamedTuple):
    """Where a list begins and how much of it is wanted; ``given`` holds the other parameters."""

    limit: int
    after: str | None
    given: dict[str, str]


def json_body(limit: int | None = None) -> dict[str, Any]:
    """The request's body as a JSON object. Over ``limit`` bytes it is refused before it is read."""
    if "body" in g:  # read before the view: by the guard for the token in it, or for an idempotency key
        return g.body
    if not _JSON_TYPE.fullmatch(request.mimetype) or not _is_utf8() or _is_encoded():
        raise UnsupportedMediaType("The body must be application/json in UTF-8, not compressed.")
    return decode(raw_body(limit))


def optional_json_body(limit: int | None = None) -> dict[str, Any]:
    """The same where a body may be left out altogether."""
    return json_body(limit) if request.content_length or _is_chunked() else {}


def raw_body(limit: int | None = None) -> bytes:
    """The body's bytes, at most ``limit`` where that is less than what the application takes.

    Raises `PayloadTooLarge`: for a length that is announced before a byte is read, for a chunked body one byte after
    the last that would have been taken (werkzeug alone would cut it there without a word). Raises `InvalidRequest` for
    a body that is not framed as it should be, or ends before its announced length.
    """
    most = min(known for known in (limit, request.max_content_length, UNBOUNDED) if known is not None)
    if (request.content_length or 0) <= most:
        request.max_content_length = most + 1
        body = _whole_body()
        if len(body) <= most:
            return body
    raise PayloadTooLarge("The body is larger than this path takes.")


def _whole_body() -> bytes:
    try:
        body = request.get_data(cache=False)
    except HTTPException:
        raise
    except Exception:  # noqa: BLE001  (each server has its own tree for a chunk that is none)
        raise InvalidRequest("The body's framing is broken.") from None
    if len(body) < (request.content_length or 0):
        raise InvalidRequest("The body ends before its announced length.")
    return body


def _is_utf8() -> bool:
    return request.mimetype_params.get("charset", "utf-8").lower() in ("utf-8", "utf8")


def _is_encoded() -> bool:
    return request.headers.get("Content-Encoding", "identity").lower() != "identity"


def _is_chunked() -> bool:
    return "chunked" in request.headers.get("Transfer-Encoding", "").lower()


def query(*names: str) -> dict[str, str]:
    """The query's parameters, which have to be among these and stand once each."""
    if KEY in request.environ and not takes_query_token():
        raise invalid("api_token", "is not taken as a parameter here")
    for name, values in request.args.lists():
        if name not in names:
            raise invalid(name[:80], "is not a known parameter")
        if len(values) > 1:
            raise invalid(name, "stands more than once")
        if len(values[0]) > LONGEST_VALUE or not can_be_held(values[0]):
            raise invalid(name, f"must have at most {LONGEST_VALUE} characters, and no NUL")
    return request.args.to_dict()


def takes_query_token() -> bool:
    """Only S3's paths do; nothing that an administrator can do hangs on an address."""
    path = request.path
    return path.startswith("/api/v1/") and (not path.startswith("/api/v1/templates") or request.method in READS)


def page(*names: str) -> Page:
    """``?limit`` (1 to 200) and ``?after``, besides these."""
    given = query("limit", "after", *names)
    limit = whole(given.pop("limit", str(USUAL_ROWS)), "limit", least=1, most=MOST_ROWS)
    return Page(limit, given.pop("after", None), given)


def whole(text: str, name: str, *, least: int, most: int) -> int:
    """A number from the query, by its form: ``int()`` would also take ``1_000`` and other scripts' digits."""
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not least <= int(text) <= most:
        raise invalid(name, f"must be a whole number from {least} to {most}")
    return int(text)


def json_response(document: Any, status: int = 200, *, no_store: bool = False) -> Response:
    """A document as JSON; ``no_store`` where a secret stands in it."""
    response = Response(orjson.dumps(document), status=status, content_type="application/json")
    if no_store:
        response.headers["Cache-Control"] = "no-store"
    return response


def success(data: Any, status: int = 200, *, no_store: bool = False) -> Response:
    """S1's envelope."""
    return json_response({"status": "success", "data": data}, status=status, no_store=no_store)


def listing(rows: list[Any], next_page: str | None) -> Response:
    """One page of a list of ours."""
    return json_response({"data": rows, "next": next_page})


def no_content() -> Response:
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response
