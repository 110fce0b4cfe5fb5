"""Stored responses of /v1/responses.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

from flaskllm.models.types import JsonText, UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "responses",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("owner_id", sa.String(36), nullable=False),
        sa.Column("previous_id", sa.String(64), nullable=True),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("thread_size", sa.BigInteger(), nullable=False),
        sa.Column("items", JsonText(), nullable=False),
        sa.Column("document", JsonText(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_responses")),
    )
    op.create_index("ix_responses_expires", "responses", ["expires_at"])
    op.create_index("ix_responses_owner", "responses", ["owner_id"])


def downgrade() -> None:
    op.drop_table("responses")
