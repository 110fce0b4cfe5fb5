"""Large bodies: to disk as they come, so that they cost bounded memory."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from flask import request
from werkzeug.exceptions import HTTPException

from flaskllm.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType, invalid

LARGEST = 200 * 1024 * 1024
"""Bytes of a batch or a file (``docs/api.md``)."""
OF_A_FORM = 1024 * 1024
"""What a form may hold beside its file."""
IN_MEMORY = 1024 * 1024
CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class Upload:
    """A body on disk. ``digest``: of all of it, and of its type. Of a form, ``fields`` and its file's name."""

    file: BinaryIO
    media: str
    fields: dict[str, str]
    digest: str
    filename: str = ""


@contextlib.contextmanager
def uploaded(*media: str, part: str = "file") -> Iterator[Upload]:
    """The body of this request, whose type must be one of these, or the file of a form, under the name ``part``.

    Raises `UnsupportedMediaType`, `PayloadTooLarge` or `InvalidRequest`.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("The body must not be compressed.")
    if request.mimetype_params.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("The body must be UTF-8.")
    is_form = request.mimetype == "multipart/form-data"
    if not is_form and request.mimetype not in media:
        raise UnsupportedMediaType(f"The body must be {' or '.join([*media, 'multipart/form-data'])}.")
    if (request.content_length or 0) > LARGEST + (OF_A_FORM if is_form else 0):
        raise _too_large()
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as file:
        yield _of_form(file, part) if is_form else _of_body(file)


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge(f"The body has more than {LARGEST} bytes.")


def _of_body(file: Any) -> Upload:
    request.max_content_length = LARGEST + 1
    size, digest = _copy(request.stream, file, request.mimetype)
    if size < (request.content_length or 0):
        raise InvalidRequest("The body ends before its announced length.")
    return Upload(file, request.mimetype, {}, digest)


def _copy(source: Any, file: Any, *parts: str) -> tuple[int, str]:
    """To the file, which is put back to its beginning: how many bytes, and their digest with those parts before."""
    size, digest = 0, hashlib.sha256(repr(parts).encode())
    while chunk := _read(source):
        size += len(chunk)
        if size > LARGEST:
            raise _too_large()
        digest.update(chunk)
        file.write(chunk)
    file.seek(0)
    return size, digest.hexdigest()


def _read(source: Any) -> bytes:
    try:
        return bytes(source.read(CHUNK))
    except HTTPException:
        raise
    except Exception:  # noqa: BLE001  (each server has its own tree for a chunk that is none)
        raise InvalidRequest("The body's framing is broken.") from None


def _of_form(file: Any, part: str) -> Upload:
    """werkzeug puts a large file on disk itself; it is copied once more, where it is counted and hashed."""
    if not request.mimetype_params.get("boundary"):
        raise InvalidRequest("The form has no boundary.")
    request.max_content_length = LARGEST + OF_A_FORM
    found = request.files.get(part)
    if found is None:
        raise invalid(part, "is missing: the form must have a file of that name")
    if len(request.files.getlist(part)) > 1 or len(request.files) > 1:
        raise invalid(part, "must be the only file")
    if any(len(values) > 1 for _, values in request.form.lists()):
        raise InvalidRequest("A field of the form stands more than once.")
    fields = request.form.to_dict()
    with contextlib.closing(found):
        _, digest = _copy(found.stream, file, repr(sorted(fields.items())))
    return Upload(file, request.mimetype, fields, digest, found.filename or "")
