"""provider_keys: which keys are put aside

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

from flaskllm.models.types import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "key_rests",
        sa.Column("key_id", sa.String(length=200), nullable=False),
        sa.Column("provider_id", sa.String(length=64), nullable=False),
        sa.Column("hint", sa.String(length=16), nullable=False),
        sa.Column("strikes", sa.Integer(), nullable=False),
        sa.Column("until", UtcDateTime(), nullable=False),
        sa.Column("failed_at", UtcDateTime(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_key_rests")),
    )
    with op.batch_alter_table("key_rests", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_key_rests_provider_id"), ["provider_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("key_rests", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_key_rests_provider_id"))
    op.drop_table("key_rests")
