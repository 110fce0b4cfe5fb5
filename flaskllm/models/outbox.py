"""What is to be told to somebody outside, written in the transaction that it tells of."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index, Integer, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from flaskllm.extensions import Model

IS_WAITING = text("next_at IS NOT NULL")


class OutboxRow(Model):
    """One event (`domain.event.Event`) and how far its delivery is. Times in ms since 1970 by the database's clock.

    ``next_at``: when it is to be sent, or sent again; who sends it moves it to the end of their lease. None: it was
    taken (``sent_at``), or is given up. ``tries``: how often somebody took it up.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        Index("ix_outbox_waiting", "lane", "next_at", sqlite_where=IS_WAITING, postgresql_where=IS_WAITING),
        Index("ix_outbox_made_at", "made_at"),
    )

    id: Mapped[str] = mapped_column(String(160), primary_key=True)
    lane: Mapped[str] = mapped_column(String(36))
    type: Mapped[str] = mapped_column(String(32))
    url: Mapped[str | None] = mapped_column(Text)
    body: Mapped[str] = mapped_column(Text)
    made_at: Mapped[int] = mapped_column(BigInteger)
    tries: Mapped[int] = mapped_column(Integer, default=0)
    next_at: Mapped[int | None] = mapped_column(BigInteger)
    sent_at: Mapped[int | None] = mapped_column(BigInteger)
