"""bodies: what was said in calls, where STORE_PROMPTS is on

Revision ID: 0022b
Revises: 0022
"""

import sqlalchemy as sa
from alembic import op

revision = "0022b"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "bodies",
        sa.Column("call_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("call_id", name=op.f("pk_bodies")),
    )
    op.create_index("ix_bodies_made_at", "bodies", ["made_at"])


def downgrade() -> None:
    op.drop_table("bodies")
