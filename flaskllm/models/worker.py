"""Workers: which processes look after batches."""

from __future__ import annotations

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from flaskllm.extensions import Model


class WorkerRow(Model):
    """One process (``host:pid``) and when it was last at work, in ms since 1970 by the database's clock."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(120), primary_key=True)
    seen_at: Mapped[int] = mapped_column(BigInteger)
