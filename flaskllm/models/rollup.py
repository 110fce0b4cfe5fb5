"""What the ledger's calls add up to, kept ready for reports; derived from ``calls``, and made of them again by
``flask usage rebuild``."""

from __future__ import annotations

from sqlalchemy import BigInteger, Integer, SmallInteger, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from flaskllm.extensions import Model


class RollupRow(Model):
    """The sums of one subject (all calls, or a user's, token's, model's, provider's, tag's) over one stretch of time.

    ``grain``: how long the stretch is (`repositories.rollups`), ``slot`` when it begins (ms since 1970). ``item``:
    whose sums; empty for all calls, and for those without a token, provider or tag. Sums that may outgrow 64 bits are
    kept in two halves, as `repositories.usage` takes them. ``latency``, ``first_token``: JSON of a
    `domain.histogram.Histogram`.
    """

    __tablename__ = "rollups"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012  (SQLAlchemy's own form)

    grain: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    subject: Mapped[str] = mapped_column(String(8), primary_key=True)
    slot: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    item: Mapped[str] = mapped_column(String(160), primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    errors: Mapped[int] = mapped_column(BigInteger)
    unpriced: Mapped[int] = mapped_column(BigInteger)
    estimated: Mapped[int] = mapped_column(BigInteger)
    interrupted: Mapped[int] = mapped_column(BigInteger)
    from_cache: Mapped[int] = mapped_column(BigInteger)
    prompt_high: Mapped[int] = mapped_column(BigInteger)
    prompt_low: Mapped[int] = mapped_column(BigInteger)
    completion_high: Mapped[int] = mapped_column(BigInteger)
    completion_low: Mapped[int] = mapped_column(BigInteger)
    cost_high: Mapped[int] = mapped_column(BigInteger)
    cost_low: Mapped[int] = mapped_column(BigInteger)
    saved_high: Mapped[int] = mapped_column(BigInteger)
    saved_low: Mapped[int] = mapped_column(BigInteger)
    cache_read: Mapped[int] = mapped_column(BigInteger)
    cache_write_5m: Mapped[int] = mapped_column(BigInteger)
    cache_write_1h: Mapped[int] = mapped_column(BigInteger)
    reasoning: Mapped[int] = mapped_column(BigInteger)
    audio_input: Mapped[int] = mapped_column(BigInteger)
    audio_output: Mapped[int] = mapped_column(BigInteger)
    image_input: Mapped[int] = mapped_column(BigInteger)
    image_output: Mapped[int] = mapped_column(BigInteger)
    images: Mapped[int] = mapped_column(BigInteger)
    latency: Mapped[str | None] = mapped_column(Text)
    first_token: Mapped[str | None] = mapped_column(Text)


class RollupStateRow(Model):
    """How far it is; one row, which whoever adds up holds locked.

    ``zone``: whose days and months the sums are cut by. ``fine_from``, ``hour_from``: from here on the sums of that
    grain are whole (ms since 1970); what lies before is let go. ``taken_apart_to``: while everything is being made
    anew, the id up to which calls count as not added up again; else null.
    """

    __tablename__ = "rollup_state"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    zone: Mapped[str] = mapped_column(String(64))
    fine_from: Mapped[int] = mapped_column(BigInteger)
    hour_from: Mapped[int] = mapped_column(BigInteger)
    taken_apart_to: Mapped[int | None] = mapped_column(BigInteger)
