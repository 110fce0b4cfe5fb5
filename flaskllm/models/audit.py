"""The audit trail: rows that are added and never changed, each signed together with the signature before it."""

from __future__ import annotations

from sqlalchemy import DDL, BigInteger, Index, String, Text, event
from sqlalchemy.orm import Mapped, mapped_column

from flaskllm.extensions import Model


class AuditRow(Model):
    """One change. ``number`` has no gaps; ``at`` in milliseconds since 1970 in UTC; ``before``, ``after``: JSON texts.

    ``mac``: HMAC-SHA256 of all the rest, ``previous_mac`` included; ``key_id`` says by which key.
    """

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_target", "target"),
        Index("ix_audit_actor", "actor_id"),
        Index("ix_audit_at", "at"),
    )

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[int] = mapped_column(BigInteger)
    actor_id: Mapped[str | None] = mapped_column(String(36))
    actor_name: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(String(64))
    target: Mapped[str] = mapped_column(Text)
    address: Mapped[str | None] = mapped_column(String(64))
    request_id: Mapped[str | None] = mapped_column(String(64))
    before: Mapped[str | None] = mapped_column(Text)
    after: Mapped[str | None] = mapped_column(Text)
    key_id: Mapped[str] = mapped_column(String(8))
    previous_mac: Mapped[str] = mapped_column(String(64))
    mac: Mapped[str] = mapped_column(String(64))


SQLITE_GUARDS = tuple(
    f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit "
    "BEGIN SELECT RAISE(ABORT, 'audit rows are never changed'); END"
    for verb in ("UPDATE", "DELETE")
)
POSTGRESQL_GUARDS = (
    """CREATE OR REPLACE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'audit rows are never changed'; END $$""",
    """CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()""",
)
"""The databases' own refusal, for tables made without a migration too; the migration holds its own copy."""

for _dialect, _guards in (("sqlite", SQLITE_GUARDS), ("postgresql", POSTGRESQL_GUARDS)):
    for _guard in _guards:
        event.listen(AuditRow.__table__, "after_create", DDL(_guard).execute_if(dialect=_dialect))
