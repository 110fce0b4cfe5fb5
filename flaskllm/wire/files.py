"""``/v1/files`` in OpenAI's dialect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flaskllm.domain.file import BATCH, BATCH_OUTPUT, LONGEST_LIFE_S, SHORTEST_LIFE_S, StoredFile
from flaskllm.errors import invalid
from flaskllm.wire import shapes
from flaskllm.wire.shapes import COUNT, STRING, Shape, one_of, record

PURPOSE, ANCHOR, SECONDS = "purpose", "expires_after[anchor]", "expires_after[seconds]"
UPLOAD: Shape = {
    "title": "FileUpload",
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary"},
        PURPOSE: {"const": BATCH},
        ANCHOR: {"const": "created_at"},
        SECONDS: {"type": "integer", "minimum": SHORTEST_LIFE_S, "maximum": LONGEST_LIFE_S},
    },
    "required": ["file", PURPOSE],
    "additionalProperties": False,
    "dependentRequired": {ANCHOR: [SECONDS], SECONDS: [ANCHOR]},
}
FILE = record(
    "File",
    id=STRING,
    object={"const": "file"},
    bytes=COUNT,
    created_at=COUNT,
    expires_at=COUNT,
    filename=STRING,
    purpose=one_of(BATCH, BATCH_OUTPUT),
    status={"const": "processed"},
    status_details=shapes.NULL,
)
DELETED = record("FileDeleted", id=STRING, object={"const": "file"}, deleted={"const": True})


def page_of(item: Shape) -> Shape:
    """A page of a list as OpenAI writes it."""
    return record(
        object={"const": "list"},
        data=shapes.several(item),
        first_id=shapes.maybe(STRING),
        last_id=shapes.maybe(STRING),
        has_more=shapes.FLAG,
    )


FILES = page_of(FILE)


def read_upload(fields: Mapping[str, str]) -> int:
    """The fields beside the file: how many seconds it is to be kept. Raises `InvalidRequest` naming the field."""
    for name in fields:
        if name not in (PURPOSE, ANCHOR, SECONDS):
            raise invalid(name[:80], "is not a known field")
    if fields.get(PURPOSE) != BATCH:
        raise invalid(PURPOSE, f"must be {BATCH!r}: files are kept here for batches only")
    if (ANCHOR in fields) != (SECONDS in fields):
        raise invalid("expires_after", "must have an anchor and seconds")
    if fields.get(ANCHOR, "created_at") != "created_at":
        raise invalid(ANCHOR, "must be 'created_at'")
    given = fields.get(SECONDS, str(LONGEST_LIFE_S))
    is_number = given.isascii() and given.isdigit() and len(given) < 10
    if not is_number or not SHORTEST_LIFE_S <= int(given) <= LONGEST_LIFE_S:
        raise invalid(SECONDS, f"must be a whole number from {SHORTEST_LIFE_S} to {LONGEST_LIFE_S}")
    return int(given)


def write_file(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": file.created_at // 1000,
        "expires_at": file.expires_at // 1000,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def write_page(rows: Sequence[Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Rows that have an ``id``, in OpenAI's envelope."""
    return {
        "object": "list",
        "data": rows,
        "first_id": rows[0]["id"] if rows else None,
        "last_id": rows[-1]["id"] if rows else None,
        "has_more": has_more,
    }
