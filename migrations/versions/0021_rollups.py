"""rollups: what calls add up to, kept ready; calls.first_token_ms

Calls from before are added up by the gateway while it runs; until then reports read the ledger.

Revision ID: 0021
Revises: 0025
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0025"
branch_labels = None
depends_on = None

IS_NEW = sa.text("rolled IS NULL")
COUNTS = (
    "requests", "errors", "unpriced", "estimated", "interrupted", "from_cache", "prompt_high", "prompt_low",
    "completion_high", "completion_low", "cost_high", "cost_low", "saved_high", "saved_low", "cache_read",
    "cache_write_5m", "cache_write_1h", "reasoning", "audio_input", "audio_output", "image_input", "image_output", "images",
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "rollups",
        sa.Column("grain", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("subject", sa.String(length=8), nullable=False),
        sa.Column("slot", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("item", sa.String(length=160), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in COUNTS),
        sa.Column("latency", sa.Text(), nullable=True),
        sa.Column("first_token", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("grain", "subject", "slot", "item", name=op.f("pk_rollups")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rollup_state",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("zone", sa.String(length=64), nullable=False),
        sa.Column("fine_from", sa.BigInteger(), nullable=False),
        sa.Column("hour_from", sa.BigInteger(), nullable=False),
        sa.Column("taken_apart_to", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollup_state")),
    )
    op.add_column("calls", sa.Column("first_token_ms", sa.BigInteger(), nullable=True))
    op.add_column("calls", sa.Column("rolled", sa.Boolean(), nullable=True))
    op.create_index("ix_calls_new", "calls", ["rolled", "finished_at"], sqlite_where=IS_NEW, postgresql_where=IS_NEW)


def downgrade() -> None:
    op.drop_index("ix_calls_new", "calls")
    with op.batch_alter_table("calls", schema=None) as batch_op:
        batch_op.drop_column("rolled")
        batch_op.drop_column("first_token_ms")
    op.drop_table("rollup_state")
    op.drop_table("rollups")
