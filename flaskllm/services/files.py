"""Files: kept whole or not at all, read piece by piece, forgotten when their time is over.

Their bytes stand in the database, for that is what all machines of an installation share, and what is backed up.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any
from uuid import uuid4

from flaskllm.domain.file import LONGEST_LIFE_S, StoredFile, plain_name
from flaskllm.domain.principal import Principal
from flaskllm.errors import NotFound, PayloadTooLarge, invalid
from flaskllm.repositories import files as repository
from flaskllm.repositories.database import Database
from flaskllm.repositories.ledger import now_ms

PIECE = 1024 * 1024
"""Bytes of a piece: one transaction each."""
MOST_KEPT = 10 * 1024**3
"""Bytes that one user's files may have together, so that nobody fills the disk for all."""
BROKEN_MS = 3600 * 1000
"""A file that is still incoming after that has broken off."""


class FileService:
    """Everything about files is their owner's alone: somebody else's is as good as none."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(
        self, user_id: str, filename: str, purpose: str, content: Iterable[bytes], *, life_s: int = LONGEST_LIFE_S
    ) -> StoredFile:
        """Keep a file, and show it to its owner. Raises `PayloadTooLarge`."""
        file = self.write(user_id, filename, purpose, content, life_s=life_s)
        with self._db.transaction() as session:
            repository.open_file(session, file.id, file.size)
        return file

    def write(
        self,
        user_id: str,
        filename: str,
        purpose: str,
        content: Iterable[bytes],
        *,
        life_s: int = LONGEST_LIFE_S,
        most: int | None = MOST_KEPT,
    ) -> StoredFile:
        """Write a file that nobody sees before somebody opens it (`repositories.files.open_file`).

        ``most``: bytes that this user's files may have together with it; None: any, for results that are paid for.
        """
        at = now_ms()
        name, expires_at = plain_name(filename), at + life_s * 1000
        file = StoredFile(f"file-{uuid4().hex}", name, purpose, 0, at, expires_at)
        with self._db.transaction() as session:
            kept = repository.bytes_kept(session, user_id)
            repository.add_file(session, file, user_id)
        size = 0
        for idx, data in enumerate(_pieces(content)):
            size += len(data)
            if most is not None and kept + size > most:
                self._delete(file.id)
                raise PayloadTooLarge(f"Your files would have more than {most} bytes together; delete some.")
            with self._db.transaction() as session:
                repository.add_piece(session, file.id, idx, data)
        return StoredFile(file.id, name, purpose, size, at, expires_at)

    def get(self, principal: Principal, file_id: str) -> StoredFile:
        """Raises `NotFound`, for somebody else's too."""
        with self._db.reading() as session:
            file = repository.find_file(session, file_id, principal.user_id, at=now_ms())
        if file is None:
            raise _missing(file_id)
        return file

    def list(
        self,
        principal: Principal,
        *,
        limit: int,
        after: str | None = None,
        purpose: str | None = None,
        newest: bool = True,
    ) -> tuple[list[StoredFile], bool]:
        """A page of this user's files, and whether there are more."""
        at = now_ms()
        with self._db.reading() as session:
            start = repository.find_file(session, after, principal.user_id, at=at) if after else None
            if after is not None and start is None:
                raise invalid("after", "is not the id of a file of yours")
            found = repository.list_files(
                session, principal.user_id, at=at, purpose=purpose, limit=limit + 1, after=start, newest=newest
            )
        return found[:limit], len(found) > limit

    def content(self, file: StoredFile) -> Iterator[bytes]:
        """Its bytes, piece by piece; no session is held between two. Raises `NotFound` where it goes meanwhile."""
        sent, idx = 0, 0
        while sent < file.size:
            with self._db.reading() as session:
                data = repository.read_piece(session, file.id, idx)
            if data is None:
                raise _missing(file.id)
            yield data
            sent, idx = sent + len(data), idx + 1

    def open(self, file: StoredFile) -> io.BufferedReader:
        """The same to be read line by line."""
        return io.BufferedReader(_Pieces(self.content(file)), PIECE)

    def delete(self, principal: Principal, file_id: str) -> None:
        """Raises `NotFound`."""
        with self._db.transaction() as session:
            found = repository.hide_file(session, file_id, principal.user_id, at=now_ms())
        if not found:
            raise _missing(file_id)
        self._delete(file_id)

    def drop(self, file: StoredFile) -> None:
        """Forget what `write` wrote and nobody opened."""
        self._delete(file.id)

    def sweep(self) -> None:
        """Forget files whose time is over, and those whose writer broke off."""
        at = now_ms()
        with self._db.reading() as session:
            ids = repository.old_files(session, expired_at=at, incoming_before=at - BROKEN_MS)
        for file_id in ids:
            self._delete(file_id)

    def _delete(self, file_id: str) -> None:
        more = True
        while more:
            with self._db.transaction() as session:
                more = repository.delete_some(session, file_id)


def _missing(file_id: str) -> NotFound:
    return NotFound(f"No such File object: {file_id[:80]}")


def _pieces(content: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of one size, but for the last."""
    held = bytearray()
    for data in content:
        held += data
        while len(held) >= PIECE:
            yield bytes(held[:PIECE])
            del held[:PIECE]
    if held:
        yield bytes(held)


class _Pieces(io.RawIOBase):
    """Pieces as a stream of bytes."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        if not self._held:
            self._held = memoryview(next(self._pieces, b""))
        size = min(len(target), len(self._held))
        target[:size] = self._held[:size]
        self._held = self._held[size:]
        return size
