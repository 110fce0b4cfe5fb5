"""S1's outgoing call: what to send, and what came back."""

from __future__ import annotations

import codecs
import re
from base64 import b64encode
from typing import Any

import orjson
from marshmallow import Schema, fields

from flaskllm.domain.external import ExternalAnswer, ExternalCall
from flaskllm.errors import InvalidRequest
from flaskllm.wire.fields import Flag, Text, load
from flaskllm.wire.json import decode_value

MOST_URL = 2048
MOST_VALUES = 1_000_000
"""Of a JSON answer: 10 MB of ``[],[],…`` would take hundreds of megabytes while they are looked through."""

_JSON = re.compile(r"application/(?:[a-z0-9!#$&^_.-]+\+)?json")
_BINARY = re.compile(r"(?:image|audio|video|font)/(?!svg\+xml).*|application/(?:octet-stream|pdf|zip|gzip)")
_CHARSET = re.compile(r';\s*charset="?([A-Za-z0-9._:-]{1,40})"?', re.IGNORECASE)
_CHARSETS = re.compile(
    r"utf-8|utf-16(-[lb]e)?|utf-32(-[lb]e)?|ascii|iso8859-\d+|cp125\d|cp932|koi8-[ru]|shift_jis|euc_(jp|kr)|gb2312|gbk"
    r"|gb18030|big5"
)
"""Of all the codecs that Python knows by a name, those that are texts."""


class CallSchema(Schema):
    """``POST /api/external/{get, delete}``."""

    url = Text(required=True, least=1, most=MOST_URL)
    headers = fields.Dict(allow_none=True)
    params = fields.Dict(allow_none=True)


class CallWithBodySchema(CallSchema):
    """``POST /api/external/{post, put}``."""

    payload = fields.Raw(allow_none=True)
    use_json = Flag(load_default=True)


ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["status", "data"],
    "additionalProperties": False,
    "properties": {
        "status": {"const": "success"},
        "data": {
            "type": "object",
            "required": ["status_code", "headers", "body", "body_encoding", "elapsed_ms"],
            "additionalProperties": False,
            "properties": {
                "status_code": {"type": "integer", "minimum": 200, "maximum": 999},
                "headers": {"type": "object", "additionalProperties": {"type": "string"}},
                "body": {"description": "any JSON value where body_encoding is json, else a string"},
                "body_encoding": {"enum": ["json", "text", "base64"]},
                "elapsed_ms": {"type": "integer", "minimum": 0},
            },
        },
    },
}


def read_call(method: str, body: dict[str, Any]) -> ExternalCall:
    """S1's body. Raises `InvalidRequest` naming each field at fault."""
    schema = CallWithBodySchema() if method in {"POST", "PUT"} else CallSchema()
    given = {name: value for name, value in load(schema, body).items() if value is not None}
    return ExternalCall(method, **given)


def write_answer(answer: ExternalAnswer) -> dict[str, Any]:
    """S1's ``data``; the body as JSON where it is that by its type, else as text, else as base64."""
    encoding, body = _readable(answer.body, answer.content_type.lower())
    return {
        "status_code": answer.status_code,
        "headers": dict(answer.headers),
        "body": body,
        "body_encoding": encoding,
        "elapsed_ms": answer.elapsed_ms,
    }


def _readable(body: bytes, content_type: str) -> tuple[str, Any]:
    kind = content_type.partition(";")[0].strip()
    if _JSON.fullmatch(kind) and (found := _json(body)) is not None:
        return "json", found
    if not (body and _BINARY.fullmatch(kind)):
        try:
            return "text", body.decode(_charset(content_type))
        except UnicodeDecodeError:
            pass
    return "base64", b64encode(body).decode("ascii")


def _json(body: bytes) -> orjson.Fragment | None:
    """The bytes themselves, once it is known that they are JSON: no digit of a number is lost on the way."""
    if sum(map(body.count, (b",", b"[", b"{"))) > MOST_VALUES:
        return None
    try:
        decode_value(body)
    except InvalidRequest:
        return None
    return orjson.Fragment(body)


def _charset(content_type: str) -> str:
    """What the type names, if it is a text's; else UTF-8, whatever else the answer may say of itself."""
    named = _CHARSET.search(content_type)
    try:
        name = codecs.lookup(named[1]).name if named else "utf-8"
    except LookupError:
        return "utf-8"
    return name if _CHARSETS.fullmatch(name) else "utf-8"
