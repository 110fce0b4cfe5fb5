"""Files: a row for what is told of each, and its bytes in pieces, so that no statement holds a large one whole."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from flaskllm.extensions import Model


class FileRow(Model):
    """One file. ``state``: ``incoming`` while its bytes are being written, and nobody sees it; then ``ready``."""

    __tablename__ = "files"
    __table_args__ = (
        Index("ix_files_user", "user_id", "created_at"),
        Index("ix_files_expires", "expires_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    user_id: Mapped[str] = mapped_column(String(36))
    filename: Mapped[str] = mapped_column(String(255))
    purpose: Mapped[str] = mapped_column(String(16))
    size: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(8))
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int] = mapped_column(BigInteger)


class FilePieceRow(Model):
    """Bytes of a file, in the order of ``idx``."""

    __tablename__ = "file_pieces"

    file_id: Mapped[str] = mapped_column(String(40), ForeignKey("files.id", ondelete="CASCADE"), primary_key=True)
    idx: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    data: Mapped[bytes] = mapped_column(LargeBinary)
