"""outbox: one table for whatever is told to somebody outside; what alerts are still to be sent moves there

Revision ID: 0019
Revises: 0020
"""

import json
from datetime import UTC, datetime
from uuid import NAMESPACE_OID, uuid5

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0020"
branch_labels = None
depends_on = None

IS_WAITING = sa.text("next_at IS NOT NULL")
NANO = 10**9
PREFIX = "quota:"

alerts = sa.table(
    "alerts",
    *(sa.column(name) for name in ("budget_id", "period", "event", "amount", "alert", "spent", "raised_at")),
    *(sa.column(name) for name in ("tries", "next_at", "sent_at")),
)
outbox = sa.table(
    "outbox",
    *(sa.column(name) for name in ("id", "lane", "type", "body", "made_at", "tries", "next_at", "sent_at")),
)


def upgrade() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.String(160), nullable=False),
        sa.Column("lane", sa.String(36), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=True),
        sa.Column("sent_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    op.create_index(
        "ix_outbox_waiting", "outbox", ["lane", "next_at"], sqlite_where=IS_WAITING, postgresql_where=IS_WAITING
    )
    op.create_index("ix_outbox_made_at", "outbox", ["made_at"])
    waiting = op.get_bind().execute(sa.select(alerts).where(alerts.c.next_at.is_not(None))).all()
    if waiting:
        op.bulk_insert(outbox, [_message(row) for row in waiting])
    with op.batch_alter_table("alerts") as batch_op:
        batch_op.drop_index("ix_alerts_next_at")
        for name in ("tries", "next_at", "sent_at"):
            batch_op.drop_column(name)


def _message(row: sa.Row) -> dict[str, object]:
    """Under the id that it has had, so that a receiver that has it knows it again."""
    raised = datetime.fromtimestamp(row.raised_at / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    data = {
        "event": row.event,
        "subject": row.budget_id.removeprefix(PREFIX),
        "period": row.period,
        **{name: getattr(row, name) / NANO for name in ("amount", "alert", "spent")},
    }
    return {
        "id": f"{row.event}:{row.budget_id}:{row.period}",
        "lane": "operator",
        "type": row.event,
        "body": json.dumps({"type": row.event, "timestamp": raised, "data": data}),
        "made_at": row.raised_at,
        "tries": row.tries,
        "next_at": row.next_at,
        "sent_at": None,
    }


def downgrade() -> None:
    """What callbacks are still to be sent is lost: the version before has no place for them."""
    with op.batch_alter_table("alerts") as batch_op:
        batch_op.add_column(sa.Column("tries", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("next_at", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("sent_at", sa.BigInteger(), nullable=True))
        batch_op.create_index("ix_alerts_next_at", ["next_at"], unique=False)
    _give_back(op.get_bind())
    with op.batch_alter_table("alerts") as batch_op:
        batch_op.alter_column("tries", server_default=None)
    op.drop_table("outbox")


def _give_back(connection: sa.Connection) -> None:
    """To each alert how far its event is, found by its old id or the one that is made of it now."""
    events = {row.id: row for row in connection.execute(sa.select(outbox).where(outbox.c.lane == "operator"))}
    for alert in connection.execute(sa.select(alerts.c["budget_id", "period", "event"])).all():
        name = f"{alert.event}:{alert.budget_id}:{alert.period}"
        found = events.get(name) or events.get(str(uuid5(NAMESPACE_OID, name)))
        if found is not None:
            its_row = [alerts.c[column] == getattr(alert, column) for column in ("budget_id", "period", "event")]
            values = {column: getattr(found, column) for column in ("tries", "next_at", "sent_at")}
            connection.execute(sa.update(alerts).where(*its_row).values(values))
