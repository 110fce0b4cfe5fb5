"""Files and their pieces. An ``incoming`` file is nobody's yet; whoever reads or lists does not see it."""

from __future__ import annotations

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from flaskllm.domain.file import StoredFile
from flaskllm.models.file import FilePieceRow, FileRow

INCOMING, READY = "incoming", "ready"
PIECES_AT_ONCE = 16
"""Pieces deleted in one transaction."""
_COLUMNS = (FileRow.id, FileRow.filename, FileRow.purpose, FileRow.size, FileRow.created_at, FileRow.expires_at)


def add_file(session: Session, file: StoredFile, user_id: str) -> None:
    """Still without bytes, and unseen until `open_file`."""
    values = {name: getattr(file, name) for name in ("id", "filename", "purpose", "size", "created_at", "expires_at")}
    session.add(FileRow(**values, user_id=user_id, state=INCOMING))


def add_piece(session: Session, file_id: str, idx: int, data: bytes) -> None:
    session.add(FilePieceRow(file_id=file_id, idx=idx, data=data))


def open_file(session: Session, file_id: str, size: int) -> None:
    """All its bytes are there: its owner sees it from now on."""
    session.execute(update(FileRow).where(FileRow.id == file_id).values(state=READY, size=size))


def find_file(session: Session, file_id: str, user_id: str, *, at: int) -> StoredFile | None:
    """Of this user, and not expired at that time (milliseconds since 1970)."""
    row = FileRow
    mine = (row.id == file_id) & (row.user_id == user_id) & (row.state == READY) & (row.expires_at > at)
    found = session.execute(select(*_COLUMNS).where(mine)).one_or_none()
    return None if found is None else StoredFile(*found)


def list_files(
    session: Session, user_id: str, *, at: int, purpose: str | None, limit: int, after: StoredFile | None, newest: bool
) -> list[StoredFile]:
    """A page of this user's files; ``after``: the one that the page before ended with."""
    row = FileRow
    query = select(*_COLUMNS).where(row.user_id == user_id, row.state == READY, row.expires_at > at)
    if purpose is not None:
        query = query.where(row.purpose == purpose)
    if after is not None:
        later = row.created_at < after.created_at if newest else row.created_at > after.created_at
        beside = row.id < after.id if newest else row.id > after.id
        query = query.where(later | ((row.created_at == after.created_at) & beside))
    keys = (row.created_at, row.id)
    query = query.order_by(*((key.desc() for key in keys) if newest else keys)).limit(limit)
    return [StoredFile(*found) for found in session.execute(query)]


def bytes_kept(session: Session, user_id: str) -> int:
    """Of all the files of this user, those that are still coming in included."""
    return int(session.scalar(select(func.coalesce(func.sum(FileRow.size), 0)).where(FileRow.user_id == user_id)) or 0)


def read_piece(session: Session, file_id: str, idx: int) -> bytes | None:
    """None behind the last one."""
    piece = FilePieceRow
    return session.scalar(select(piece.data).where(piece.file_id == file_id, piece.idx == idx))


def hide_file(session: Session, file_id: str, user_id: str, *, at: int) -> bool:
    """Nobody sees it any more; its bytes go with `delete_some`. False where there is no such file of this user."""
    row = FileRow
    mine = (row.id == file_id) & (row.user_id == user_id) & (row.state == READY) & (row.expires_at > at)
    gone = session.execute(update(row).where(mine).values(state=INCOMING, created_at=0))
    return bool(gone.rowcount)  # type: ignore[attr-defined]


def old_files(session: Session, *, expired_at: int, incoming_before: int) -> list[str]:
    """Files that have expired, were deleted, or whose writer broke off."""
    row = FileRow
    broken = (row.state == INCOMING) & (row.created_at < incoming_before)
    return list(session.scalars(select(row.id).where((row.expires_at <= expired_at) | broken).limit(50)))


def delete_some(session: Session, file_id: str) -> bool:
    """Some pieces of a file, and the file with the last of them. True where there is more to do."""
    piece = FilePieceRow
    places = session.scalars(select(piece.idx).where(piece.file_id == file_id).limit(PIECES_AT_ONCE)).all()
    if places:
        session.execute(delete(piece).where(piece.file_id == file_id, piece.idx.in_(places)))
        return True
    session.execute(delete(FileRow).where(FileRow.id == file_id))
    return False
