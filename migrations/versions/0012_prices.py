"""prices: each model's price lists, and from when each holds

Revision ID: 0012b
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

from flaskllm.models.types import JsonText, UtcDateTime

revision = "0012b"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_prices",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("provider_id", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("valid_from", UtcDateTime(), nullable=False),
        sa.Column("scheduled", sa.Boolean(), nullable=False),
        sa.Column("prices", JsonText(), nullable=True),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_prices")),
        sa.UniqueConstraint(
            "provider_id", "model", "valid_from", name=op.f("uq_model_prices_provider_id")
        ),
    )


def downgrade() -> None:
    op.drop_table("model_prices")
