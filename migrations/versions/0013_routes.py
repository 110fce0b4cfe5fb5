"""routes: one name for several models, and who is asked where none of them may answer

Revision ID: 0013
Revises: 0012b
"""

import sqlalchemy as sa
from alembic import op

from flaskllm.models.types import JsonText, UtcDateTime

revision = "0013"
down_revision = "0012b"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "routes",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("strategy", sa.String(length=16), nullable=False),
        sa.Column("targets", JsonText(), nullable=False),
        sa.Column("fallbacks", JsonText(), nullable=False),
        sa.Column("origin", sa.String(length=16), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("deleted_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_routes")),
    )


def downgrade() -> None:
    op.drop_table("routes")
